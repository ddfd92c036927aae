"The explorers without a browser: choices, pictures, errors, uploads, exports; no leaks after hundreds of images."

import asyncio
import datetime
import gc
import importlib.util
import io
import os
import re
import shutil
import time

import numpy as np
import psutil
import pytest
from ipywidgets.widgets.widget import _instances
from PIL import Image
from scipy.ndimage import gaussian_filter
from test_cli import one_line
from traitlets import TraitError
from typer.testing import CliRunner

from wsss_nb.cams import CachedCam, cam_path, save_cam
from wsss_nb.cli import app
from wsss_nb.core import UserError
from wsss_nb.data.catalog import open_data
from wsss_nb.data.folder import write_folder
from wsss_nb.explore.cams.app import CamExplorer
from wsss_nb.explore.cams.panels import MASK_NOTE, export_figure, panels
from wsss_nb.explore.map.app import FeatureMap
from wsss_nb.explore.map.points import twins
from wsss_nb.explore.nroi.app import NroiExplorer
from wsss_nb.explore.source import Source
from wsss_nb.pipeline.experiment import run_recipe
from wsss_nb.refine.chain import CRF
from wsss_nb.run.presets import SMALL_NETWORK, make_recipe

DATA = "cooccur?n=24&size=64"
OTHER_DATA = "cooccur?n=24&size=48"
SHORT = {"training.steps": 4, "inference.limit": 8, "augment.crop": 64}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "Three finished runs on one data set and one on another; their CAMs, empty after four steps, are drawn instead."
    root = tmp_path_factory.mktemp("runs")
    made = [("cam", OTHER_DATA), ("cam", DATA), ("cam+fbr", DATA), ("cam+fpr", DATA)]
    for k, (method, name) in enumerate(made):
        run = run_recipe(make_recipe(method, name, "smoke", overrides=SHORT), root, "cpu", 0)
        data = open_data(name)
        for split, ids in data.splits.items():
            for id in ids[:8]:
                save_cam(cam_path(run.path, split, id), near_truth(data, id, 2 * k))
    return root


def near_truth(data, id, shift):
    "Draw CAMs: the ground truth, blurred and shifted by some pixels."
    mask = data.load(id, ["mask"])["mask"].numpy()
    classes = np.array(data.tags[id], int)
    cam = np.zeros((len(classes), *mask.shape), np.float32)
    for k, c in enumerate(classes):
        cam[k] = np.roll(gaussian_filter((mask == c + 1).astype(np.float32), 3), shift, 1)
        cam[k] /= cam[k].max() + 1e-5
    n = len(data.classes)
    return CachedCam(classes, cam[:, ::4, ::4], mask.shape, np.ones(n), np.linspace(-1, 1, n))


@pytest.fixture
def explorer(store):
    "An explorer of the three runs on DATA, two of them shown."
    keys = [run.key for run in Source.open(store, data=DATA).runs.values()]
    source = Source.open(store, keys, device="cpu")
    shown = CamExplorer(source)
    yield shown
    shown.close()


def said(explorer):
    "Return the message in the status line."
    return explorer.status.line.value


def jpeg(rgb):
    "Encode a picture."
    out = io.BytesIO()
    Image.fromarray(rgb).save(out, "jpeg")
    return out.getvalue()


def upload(explorer, name, type, content):
    "Upload a file as the browser does."
    now = datetime.datetime.now(datetime.timezone.utc)
    file = dict(name=name, type=type, size=len(content), content=memoryview(content), last_modified=now)
    explorer.controls.upload.value = (file,)


class Sent:
    "Records the pictures that are sent to the browser."

    def __init__(self, explorer):
        self.positions = []
        for k, view in enumerate(explorer.canvas.views):
            view.picture.observe(lambda change, k=k: self.positions.append(k), "data")

    def look(self):
        "Return the positions in the grid of the pictures sent since the last call."
        seen = sorted(set(self.positions))
        self.positions.clear()
        return seen


def test_a_threshold_move_sends_the_pictures_that_changed(explorer):
    sent = Sent(explorer)
    state = explorer.state
    slider = explorer.controls.threshold
    assert state.threshold is None and slider.value == explorer.source.threshold(state.runs[0])
    slider.value = 0.9
    before = explorer.canvas.views[1].facts.value
    sent.look()
    slider.value = 0.1
    assert state.threshold == 0.1 and explorer.canvas.views[1].facts.value != before  # another IoU
    assert sent.look() == [1, 2]  # of both runs, not the input
    assert explorer.canvas.views[1].title.value.count("at 0.10") == 1
    state.threshold = 0.1
    explorer.controls.opacity.value = 0
    state.layer = "image only"
    sent.look()
    slider.value = 0.5
    assert sent.look() == []  # the image without a layer does not depend on the threshold
    explorer.controls.own.made[True].value = True
    assert state.threshold is None and slider.value == explorer.source.threshold(state.runs[0])


def test_choices_by_controls(explorer):
    state = explorer.state
    controls = explorer.controls
    assert [len(state.runs), len(explorer.canvas.grid.children)] == [2, 3]
    tags = [c for i in explorer.listed for c in explorer.source.tags(i)]
    c = max(tags, key=tags.count)
    controls.having.value = explorer.source.data.classes[c]
    assert all(c in explorer.source.tags(i) for i in explorer.listed) and state.image in explorer.listed
    explorer.strip.after.click()
    assert state.image == explorer.listed[1] and controls.number.value == 2
    controls.number.value = 1
    assert state.image == explorer.listed[0]
    explorer.strip.picture.click = (40, 6 + 90 + 10, 1)
    assert state.image == explorer.listed[1]
    c = state.classes[0]
    chips = controls.classes
    chips.made[c].value = False
    assert c not in state.classes
    chips.made[c].value = True
    before = explorer.canvas.views[0].rgb
    controls.outline.made[True].value = False
    assert not state.contour and (explorer.canvas.views[0].rgb != before).any()
    controls.split.value = "val"
    assert state.split == "val" and state.image in explorer.source.ids("val")


def test_a_network_is_one_more_panel(store):
    "Its mask has class colours and IoUs, also of classes beyond the tags; the threshold moves the CAM alone."
    cam = Source.open(store, data=DATA, device="cpu").runs
    cam = next(r for label, r in cam.items() if label.startswith("cam,"))
    changes = SMALL_NETWORK | SHORT | {"model.labels": "truth"}
    run = run_recipe(make_recipe("deeplab_v1", DATA, "smoke", overrides=changes), store, "cpu", 0)
    data = open_data(DATA)
    id = next(i for i in data.ids("train") if len(data.tags[i]) == 1)
    mask = data.load(id, ["mask"])["mask"].numpy()
    tag, other = data.tags[id][0], (data.tags[id][0] + 1) % len(data.classes)
    found = np.stack([(mask == 0) * 0.9, (mask == tag + 1) * 0.9, np.zeros(mask.shape)])
    found[2, :8] = 0.95
    first, second = sorted((tag, other))
    order = [1, 2] if first == tag else [2, 1]
    peaks = np.zeros(len(data.classes))
    peaks[[tag, other]] = 0.9, 0.95
    cached = CachedCam(np.array([first, second]), found[order], mask.shape, peaks, peaks, found[0])
    save_cam(cam_path(run.path, "train", id), cached)
    shown = CamExplorer([run.key, cam.key], store, device="cpu", split="train", image=id)
    label, views, controls = next(iter(shown.source.runs)), shown.canvas.views, shown.controls
    assert controls.threshold.value == shown.source.threshold(list(shown.source.runs)[1])
    assert "no threshold" in views[1].title.value and MASK_NOTE in views[1].facts.value
    assert f"{label}: {MASK_NOTE}" in shown.canvas.legend.value
    assert {data.classes[tag], data.classes[other]} <= set(re.findall(r"</i>([^<]+)<", views[1].facts.value))
    sent = Sent(shown)
    controls.threshold.value = 0.11
    assert sent.look() == [2] and said(shown) == ""
    for layer in shown.state.layers():
        controls.layer.value = layer
        assert said(shown) == ""
    panel = panels(shown.source, shown.state)[1]
    assert panel.ious[other] == 0 and 0.5 < panel.ious[tag] <= 1
    shown.state.pixel = (20, 30)
    shown.state.refine = CRF  # with a step that sets the run's threshold
    assert said(shown) == "" and "IoU" in views[4].facts.value
    shown.state.refine = ""
    shown.state.runs = (label,)
    assert controls.threshold.disabled and said(shown) == ""
    shown.close()
    shutil.rmtree(run.path)


def test_a_wrong_choice_is_one_line(explorer):
    state = explorer.state
    chips = explorer.controls.runs
    for label in state.runs:
        chips.made[label].value = False
    assert "Choose 1 to 4" in said(explorer) and "Traceback" not in said(explorer)
    assert len(state.runs) == 1 and chips.made[state.runs[0]].value  # the last one is on again
    upload(explorer, "a.txt", "", b"abc")
    assert "a.txt is not a picture" in said(explorer) and explorer.controls.upload.value == ()
    explorer.strip.after.click()
    assert said(explorer) == ""


def test_layers_pixels_and_refinement(explorer):
    state = explorer.state
    grid = explorer.canvas.grid
    views = explorer.canvas.views
    fbr, fpr = (next(k for k in explorer.source.runs if term in k) for term in ("fbr", "fpr"))
    state.runs = (fbr, fpr)
    for layer in state.layers():
        explorer.controls.layer.value = layer
        assert said(explorer) == "" and all(v.rgb is not None for v in grid.children), layer
    views[1].picture.click = (20, 30, 1)
    assert state.pixel == (20, 30) and all(v.picture.cross == [20, 30] for v in grid.children)
    assert "row 20, column 30" in views[0].facts.value
    assert "prototype" in views[1].facts.value
    assert "score" in views[2].facts.value
    views[2].picture.cross = [21, 30]  # an arrow key
    assert all(v.picture.cross == [21, 30] for v in grid.children) and state.pixel == (20, 30)
    explorer.controls.refine.value = "pamr"
    assert len(grid.children) == 6 and said(explorer) == ""
    assert not any("wsss-waiting" in v._dom_classes for v in grid.children)
    assert "IoU" in views[5].facts.value
    explorer.controls.refine.value = ""
    assert len(grid.children) == 3


def test_worst_first_scores_and_keeps(explorer, store):
    state = explorer.state
    explorer.controls.order.value = "worst IoU first"
    scores = explorer.source.scores(state.runs[0], state.split).iou
    assert state.image == explorer.listed[0] == scores.idxmin() and 8 <= len(scores) <= 24
    assert list((store / explorer.source.runs[state.runs[0]].key / "explore").glob("*.csv"))
    assert explorer.notes[state.image].endswith("%")
    explorer.controls.order.value = "best IoU first"
    assert explorer.listed[0] == scores.idxmax()


def test_an_uploaded_image(explorer):
    rgb = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    upload(explorer, "mine.jpg", "image/jpeg", jpeg(rgb))
    state = explorer.state
    assert (state.split, state.image, said(explorer)) == ("yours", "mine.jpg", "")
    assert explorer.canvas.views[1].rgb.shape == (50, 70, 3)
    assert len(explorer.controls.classes.names) == 8 and state.classes
    explorer.controls.classes.made[3].value = True
    assert 3 in state.classes and "probability" in explorer.canvas.views[1].facts.value
    explorer.canvas.views[0].picture.click = (5, 6, 1)
    explorer.controls.threshold.value = 0.3
    explorer.controls.split.value = "train"
    assert state.image != "mine.jpg" and said(explorer) == ""


def test_export_and_code(explorer, monkeypatch):
    saved = []
    monkeypatch.setattr(explorer.download, "send", lambda what, buffers=None: saved.append((what, buffers)))
    explorer.state.threshold = 0.25
    explorer.state.layer = "seed mask"
    for b in explorer.controls.exports:
        b.click()
    (png, (content,)), (svg, (text,)), (copied, _) = saved
    assert png["name"].endswith(".png") and Image.open(io.BytesIO(content)).width > 400
    assert svg["type"] == "image/svg+xml" and b"<svg" in text
    assert copied["text"] == explorer.code.value and explorer.code.layout.display == ""
    names = {}
    exec(explorer.code.value, names)
    drawn = panels(explorer.source, explorer.state)
    for a, b in zip(names["panels"], drawn, strict=True):
        assert (a.rgb == b.rgb).all() and a.note == b.note
    explorer.state.threshold = 0.5
    assert "threshold=0.5" in explorer.code.value
    assert export_figure(drawn)


def test_other_runs_and_other_data(store):
    key = next(iter(Source.open(store, data=DATA).runs.values())).key
    explorer = CamExplorer(key[:8], store, device="cpu")
    assert len(explorer.more) == 2 and list(explorer.sets) == [OTHER_DATA]
    explorer.state.threshold = 0.33
    explorer.controls.more.value = explorer.more[0].key
    assert len(explorer.state.runs) == 2 and explorer.state.threshold == 0.33 and said(explorer) == ""
    explorer.controls.data.value = OTHER_DATA
    assert explorer.source.data.name == OTHER_DATA and len(explorer.state.runs) == 1
    assert DATA in explorer.sets
    explorer.close()


def test_wrong_choices_are_errors_at_once(store):
    with pytest.raises(UserError, match="No run"):
        CamExplorer(["0123456"], store)
    source = Source.open(store, device="cpu")
    with pytest.raises(TraitError, match="no choice"):
        CamExplorer(source, colour="red")
    with pytest.raises(TraitError, match="no image"):
        CamExplorer(source, image="nothing")


def test_slow_work_runs_beside_and_stops(store, monkeypatch):
    "In an event loop, the slider answers during the scoring; Stop ends it and keeps the scores, and it can resume."
    score = Source.score

    def slow(self, label, split, progress):
        def step(n, total):
            time.sleep(0.05)
            progress(n, total)

        return score(self, label, split, step)

    monkeypatch.setattr(Source, "score", slow)

    async def scene():
        explorer = CamExplorer(Source.open(store, data=DATA, device="cpu"))
        label = explorer.state.runs[-1]
        split = "val"
        explorer.state.runs = (label,)
        explorer.controls.split.value = split
        todo = len(explorer.source.unscored(label, split))
        explorer.controls.order.value = "worst IoU first"
        assert explorer.scoring.job and todo > 2
        await asyncio.sleep(0.12)
        began = time.perf_counter()
        explorer.controls.threshold.value = 0.4
        moved = time.perf_counter() - began
        assert explorer.state.threshold == 0.4 and explorer.scoring.job
        assert "at 0.40" in explorer.canvas.views[1].title.value
        box, text, bar = explorer.status.bars[1]
        assert box.layout.display == "" and "IoU of val" in text.value
        explorer._stop(1)
        assert explorer.scoring.job is None and box.layout.display == "none" and "Stopped" in said(explorer)
        await asyncio.sleep(0.2)
        assert 0 < len(explorer.source.unscored(label, split)) < todo
        explorer.controls.order.value = "listed"
        explorer.controls.order.value = "worst IoU first"
        while explorer.scoring.job:
            await asyncio.sleep(0.02)
        assert not explorer.source.unscored(label, split) and explorer.state.image == explorer.listed[0]
        explorer.close()
        return moved

    assert asyncio.run(scene()) < 1


def traces(models):
    "Return the mode and the number of hooks of every module of some models."
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [[(m.training, *(len(getattr(m, h)) for h in hooks)) for m in x.modules()] for x in models]


def test_500_images_leave_no_trace(store):
    "Memory stays within 5 %; widgets, hooks and modes stay the same."
    source = Source.open(store, data=DATA, device="cpu")
    explorer = CamExplorer(source, layer="CAM")
    models = [source.model(k) for k in source.runs]

    def picks(n):
        "Show n images; return the memory in use and the number of widgets."
        for k in range(n):
            explorer.go(k % len(explorer.listed))
            if not k % 5:
                explorer.controls.threshold.value = 0.2 + 0.001 * (k % 100)
            if not k % 20:
                explorer.canvas.views[1].picture.click = (k % 60, 7, k + 1)
        gc.collect()
        return psutil.Process(os.getpid()).memory_info().rss, len(_instances)

    before = traces(models)
    memory, widgets = picks(3 * len(explorer.listed))
    after, left = picks(500)
    assert said(explorer) == ""
    assert left == widgets and traces(models) == before
    assert after < 1.05 * memory, f"{memory / 1e6:.0f} -> {after / 1e6:.0f} MB"
    explorer.close()
    assert len(_instances) < widgets


def test_the_command_without_voila(monkeypatch):
    find = importlib.util.find_spec

    def without_voila(name, *rest):
        return None if name == "voila" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without_voila)
    done = CliRunner().invoke(app, ["app"])
    assert "pip install 'wsss_nb[app]'" in one_line(done.exit_code, done.stdout, done.stderr)


def one_alert(widget):
    "Return the error that an app shows; it must be one line."
    line = said(widget)
    assert line.count('role="alert"') == 1 and "\n" not in line and "Traceback" not in line
    return line


def test_an_error_in_the_map_or_the_nroi_explorer_is_one_line(tmp_path):
    "After damaged images, a failed search and deleted CAMs and weights, both go on with what is left."
    few = open_data("cooccur?n=12&size=64")
    samples = {s: [few.load(i, ["image", "mask"]) for i in few.ids(s)] for s in ("train", "val")}
    write_folder(tmp_path / "data", samples, few.classes)
    short = SHORT | {"inference.limit": 2}
    recipe = make_recipe("cam+fbr", f"folder:{tmp_path}/data", "smoke", overrides=short)
    run = run_recipe(recipe, tmp_path / "runs", "cpu", 0)
    source = Source([run], device="cpu")
    shown = FeatureMap(source, wait=True, per_class=8, method="pca")
    nrois = NroiExplorer(source, images=12, per_image=10, wait=True)
    about = said(shown)
    image = shown.points.table.image
    bad = image[0]
    other = int(np.flatnonzero(image != bad)[0])
    for id in (bad, worse := nrois.state.ids()[1]):
        path = source.data.path(id)
        path.write_bytes(path.read_bytes()[:300])
    source.close()  # empties the caches

    plot = shown.scatters[0]
    layer = shown.side.children[0]
    plot.set_state({"picked": 0})
    assert bad in one_alert(shown) and shown.image.layout.display == "none" and bad in shown.text.value
    plot.set_state({"hover": other})
    assert said(shown) == about and shown.image.layout.display == "" and shown.image.data
    plot.set_state({"selected": memoryview(np.arange(len(image)).astype("<u4").tobytes())})
    assert bad in one_alert(shown) and f"{len(image)} points" in shown.table.value
    assert shown.sheet.layout.display == "none"
    plot.set_state({"selected": memoryview(np.array([other], "<u4").tobytes())})
    assert said(shown) == about and shown.sheet.layout.display == ""
    shown.state.per_class = 9
    shown.controls.button.click()  # another sample: images are read again
    assert bad in one_alert(shown) and len(shown.points) == len(image)
    plot.set_state({"picked": other})
    assert bad in one_alert(shown) and shown.image.layout.display == ""  # the old map works, the error stays
    shown.state.per_class = 8
    shown.controls.button.click()
    assert said(shown) == about

    nrois.strip.picture.click = (40, 6 + 90 + 10, 1)
    assert worse in one_alert(nrois) and nrois.state.image == worse
    nrois.map.picture.click = (1, 1, 1)
    assert worse in one_alert(nrois)  # the pictures still show the image before
    nrois.strip.before.click()
    assert said(nrois) == "" and nrois.drawn[1] == nrois.state.image != worse
    nrois.state.cluster = max(nrois.regions.stars, key=nrois.regions.share)
    assert "Nearest to region" in nrois.text.value or worse in one_alert(nrois)
    nrois.state.split = "train"
    assert bad in one_alert(nrois) and nrois.found is None and nrois.bank.layout.display == "none"

    for part in ("model", "terms"):
        (run.path / f"{part}.safetensors").unlink()
    shutil.rmtree(run.path / "cams")
    source.close()
    shown.scatters[0].set_state({"picked": other})
    assert said(shown) == about
    layer.value = "CAM"
    assert "no trained model" in one_alert(shown) and shown.image.layout.display == "none"
    layer.value = "image"
    assert said(shown) == about and shown.image.layout.display == ""
    nrois.state.k = 5
    assert "no trained model" in one_alert(nrois)
    shown.close()
    nrois.close()


def test_300_picks_in_a_map_leave_no_trace(store):
    "Points, lassos and layers: memory stays within 5 %; widgets, hooks and modes stay the same."
    source = Source.open(store, data=DATA, device="cpu")
    shown = FeatureMap(source, wait=True, per_class=30, method="pca", layer="CAM")
    models = [source.model(k) for k in shown.state.runs]
    table = shown.points.table
    rng = np.random.default_rng(0)
    one_of_each = [
        table.index[(table.run == run) & (table.image == image)][0]
        for run in shown.state.runs
        for image in table.image.unique()
    ]

    def picks(rows):
        "Pick points; return the memory in use and the number of widgets."
        for k, row in enumerate(rows):
            panel = next(i for i, of_panel in enumerate(shown.rows) if row in of_panel)
            plot = shown.scatters[panel]
            plot.set_state({"picked": int(np.flatnonzero(shown.rows[panel] == row)[0])})
            # The same pixel, possibly of the other run, where it was picked before.
            assert row in twins(table, [shown.state.picked])
            if not k % 3:
                plot.set_state({"hover": k % len(shown.rows[panel])})
            if not k % 5:
                shown.image.set_state({"click": [k % 64, 9, k + 1]})
            lasso = rng.integers(0, len(table) // 2, 40).astype("<u4").tobytes()
            if not k % 10:
                plot.set_state({"selected": memoryview(lasso)})
            plot.set_state({"hover": -1})
        gc.collect()
        return psutil.Process(os.getpid()).memory_info().rss, len(_instances)

    before = traces(models)
    memory, widgets = picks(one_of_each)
    after, left = picks(rng.integers(0, len(table), 300).tolist())
    assert 'role="alert"' not in said(shown)
    assert left == widgets and traces(models) == before
    assert after < 1.05 * memory, f"{memory / 1e6:.0f} -> {after / 1e6:.0f} MB"
    shown.close()
    assert len(_instances) < widgets
