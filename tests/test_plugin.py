"A term in its own module is found by name, trains with its presets, and appears in tables and in the explorer."

import sys

import numpy as np
import pytest

from wsss_nb.api import CamExplorer, RunStore, make_recipe, run_recipe, study
from wsss_nb.core import UserError
from wsss_nb.explore.cams.overlays import pixel_facts, term_layer
from wsss_nb.explore.cams.panels import view
from wsss_nb.paper.registry import jobs_of
from wsss_nb.paper.tables.table import Measured
from wsss_nb.run.recipe import TermConfig

MODULE = """
import numpy as np
from wsss_nb.api import Term, TermConfig
from wsss_nb.losses.term import Layer
from wsss_nb.run.recipe import NonNegative


class StripesConfig(TermConfig, kind="stripes"):
    "Penalise the CAM in every second column."

    presets = {"smoke": {"values": {"weight": 0.25}, "training": {"steps": 3}}}
    layers = {"stripes": "Dark: the columns that are penalised."}
    weight: NonNegative = 0.5

    def build(self, channels, num_classes, seed):
        return Stripes(self.weight, seed)


class Stripes(Term):
    def __init__(self, weight, seed):
        super().__init__(seed)
        self.weight = weight

    def forward(self, output, batch):
        loss = output.cam.relu()[..., ::2].mean()
        return self.weight * loss, {"stripes": loss.detach()}

    def layer(self, name, image):
        h, w = image.output.cam.shape[-2:]
        regions = np.tile(np.arange(w) % 2 == 0, (h, 1)).astype(int)
        return Layer(regions, ["navy"], f"{name} over {', '.join(image.names[c] for c in image.shown)}")

    def facts(self, image, cell):
        return [("stripes", "penalised" if cell[1] % 2 == 0 else "free")]
"""
DATA = "cooccur?n=16&size=64"
SHORT = {"inference.limit": 4, "augment.crop": 64, "augment.long_side": [64, 72]}


@pytest.fixture
def stripes(tmp_path, monkeypatch):
    "Name the module in WSSS_NB_PLUGINS; forget it afterwards."
    path = tmp_path / "my_stripes.py"
    path.write_text(MODULE)
    monkeypatch.setenv("WSSS_NB_PLUGINS", str(path))
    yield
    TermConfig.registry.pop("stripes", None)
    sys.modules.pop("my_stripes", None)


def test_a_new_term_needs_one_module(stripes, tmp_path):
    store = RunStore(tmp_path / "runs")
    recipe = make_recipe("cam+stripes", DATA, "smoke", overrides=SHORT)
    assert (recipe.terms["stripes"].weight, recipe.training.steps) == (0.25, 3)  # its own preset
    assert make_recipe("seam+stripes", DATA, "quick").terms["stripes"].weight == 0.5

    run = run_recipe(recipe, store, "cpu", 0)
    assert "stripes.stripes" in run.log()[-1] and run.result["metrics"]["miou"] > 0

    table = Measured(study(["cam", "cam+stripes"]), DATA, "smoke", 1, overrides=SHORT, runs=store)
    ((_, values),) = table.results["cam+stripes"].values()
    assert values["miou"] == run.result["metrics"]["miou"] and table.missing  # the plain row has no run
    assert list(jobs_of(study(["cam+stripes"], over={"terms.stripes.weight": [1, 2]}))) != []

    explorer = CamExplorer([run.key], store, device="cpu", layer="stripes")
    source = explorer.source
    state = explorer.state
    assert "stripes" in state.layers()
    assert "stripes" in [value for _, value in explorer.controls.layer.options]
    layer = term_layer(source, state.runs[0], state.split, state.image, "stripes", state.classes)
    assert (layer.regions[:, ::2] == 1).all() and (layer.regions[:, 1::2] == 0).all()
    shown = view(source, image=state.image, layer="stripes")[1]
    plain = view(source, image=state.image, layer="image only")[1]
    assert shown.about == layer.note and not np.array_equal(shown.rgb, plain.rgb)
    assert "Dark: the columns" in explorer.canvas.legend.value
    facts = pixel_facts(source, state.runs[0], state.split, state.image, 10, 0)
    assert ("stripes", "penalised") in facts["terms"]
    state.pixel = (10, 0)
    assert "penalised" in explorer.canvas.views[1].facts.value
    explorer.close()


def test_a_mistyped_kind_names_the_nearest(stripes):
    for method, hint in [
        ("cam+stripez", "no term 'stripez'; did you mean 'stripes'? There are: fbr, fpr, ppc, ssc, stripes."),
        (
            "seem",
            "no baseline 'seem'; did you mean 'seam'? There are: "
            "advcam, amn, cam, deeplab_v1, deeplab_v2, deeplab_v3p, eps, mctformer, seam, ssss, wsfcn.",
        ),
        ("cam+contrast", "no term 'contrast'. There are: fbr,"),  # a helper module is no kind
        ("drs", "no baseline 'drs'. There are: advcam,"),
    ]:
        with pytest.raises(UserError) as error:
            make_recipe(method, DATA, "smoke")
        assert hint in str(error.value)
