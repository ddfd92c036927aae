"The companion notebooks run under papermill with the smoke preset, and refuse wrong parameters."

import json

import nbformat
import numpy as np
import papermill
import pytest
from notebooks import NBS
from PIL import Image

from wsss_nb.run.presets import SMALL_NETWORK

pytestmark = pytest.mark.usefixtures("warm_kernels")
TINY = dict(data="cooccur?n=24&size=64", preset="smoke", device="cpu")


def execute(name, folder, **parameters):
    "Execute a companion on a tiny data set, with a store in the folder."
    return papermilled(name, folder, TINY | parameters | {"runs": str(folder / "runs")})


def papermilled(name, folder, parameters):
    "Execute a companion and return the executed notebook."
    out = folder / f"{name}.ipynb"
    papermill.execute_notebook(
        str(NBS / f"{name}.ipynb"),
        str(out),
        parameters=parameters,
        cwd=str(NBS),
        progress_bar=False,
        kernel_name="python3",
    )
    return nbformat.read(out, 4)


def outputs(nb):
    "List the outputs of all cells."
    return [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]


def printed(nb):
    "Join the printed texts of all cells."
    return " ".join(o.get("text", "") for o in outputs(nb))


def tables_in(nb):
    "List the result tables of all cells, as HTML."
    texts = [str(o.get("data", {}).get("text/html", "")) for o in outputs(nb)]
    return [text for text in texts if "class=wsss" in text]


def count(nb, kind):
    "Count the outputs with data of a kind, such as 'image/png'."
    return sum(kind in o.get("data", {}) for o in outputs(nb))


def test_train_then_nroi(tmp_path):
    short = '{"training.steps": 10, "inference.limit": 4, "augment.crop": 64, "terms.fbr.warmup": 0.2}'
    nb = execute("train", tmp_path, method="cam+fbr", overrides=short, workers=0)
    texts = " ".join(str(o.get("data", {}).get("text/markdown", "")) for o in outputs(nb))
    assert "mIoU" in texts and "threshold" in texts
    nb = execute("nroi", tmp_path, images=2, clusters=[2, 3], stored=3)
    pictures = [o for o in outputs(nb) if any(k.startswith("image/") for k in o.get("data", {}))]
    assert len(pictures) >= 4  # two cluster maps, the bank's patches, the curves
    assert "the bank holds" in printed(nb)
    assert "training a short one" not in printed(nb)  # it found the run of the other notebook


def test_pipeline_makes_every_stage_once(tmp_path):
    "The second execution, with a CRF on the predictions, finds seeds, masks and network in the store."
    short = json.dumps(SMALL_NETWORK | {"training.steps": 2, "augment.crop": 48})
    small = dict(data="cooccur?n=12&size=64", method="cam", chain="pamr", workers=0)
    small |= dict(overrides=short, segment_overrides=short)
    nb = execute("pipeline", tmp_path, **small)
    assert count(nb, "image/png") == count(nb, "image/jpeg") == 1  # curves; images
    assert "initial weights: **random**" in str(outputs(nb))
    results = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.json")}
    nb = execute("pipeline", tmp_path, **small, smooth="crf?preset=deeplab")
    assert "+ crf?preset=deeplab" in str(outputs(nb))
    assert {p: p.stat().st_mtime_ns for p in results} == results


def test_a_recipe_error_in_a_notebook_is_one_clear_line(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="did you mean 'clusters'"):
        execute("train", tmp_path, overrides='{"terms.fbr.cluster": 4}')


def test_features_without_runs(tmp_path):
    "It trains two tiny runs, draws t-SNE and UMAP (which compiles on its first call), and measures."
    nb = execute("features", tmp_path, per_class=12)
    assert "training two tiny ones" in printed(nb)
    assert count(nb, "image/png") == 2
    texts = [o.get("data", {}).get("text/plain", "") for o in outputs(nb)]
    tables = [text for text in texts if "overlap" in text]
    assert len(tables) == 2 and all("silhouette" in t and "mean" in t for t in tables)
    nb = execute("features", tmp_path, per_class=12, methods=["pca"], classes=["boat", "cow"])
    assert "training two" not in printed(nb)  # it found the runs


def test_ablation_runs_what_is_missing_and_makes_a_table(tmp_path):
    short = '{"training.steps": 4, "inference.limit": 4, "augment.crop": 64}'
    nb = execute("ablation", tmp_path, overrides=short, out=str(tmp_path / "out"))
    tables = tables_in(nb)
    assert len(tables) == 3 and "Missing: 2 of 2 runs" in tables[0] and "Missing" not in tables[1]
    assert "clusters = 8" in tables[2]
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == [".csv", ".html", ".md", ".tex"]


def test_a_term_written_in_a_notebook_gets_its_row(tmp_path):
    short = '{"training.steps": 6, "inference.limit": 4, "augment.crop": 64}'
    nb = execute("your_method", tmp_path, overrides=short, weights=[0.5, 1.0])
    tables = tables_in(nb)
    assert len(tables) == 1 and "Missing" not in tables[0] and "cam+mirror, weight = 0.5" in tables[0]


def test_cooccurrence_then_figures(tmp_path):
    "Without runs both train tiny ones and say so; the chart over p shows the runs of the first notebook."
    nb = execute("cooccurrence", tmp_path, dial=[0.5, 1.0])
    assert "training tiny ones" in printed(nb)
    charts = [o for o in outputs(nb) if "image/png" in o.get("data", {})]
    assert len(charts) == 2  # leak by class; mIoU, leak and excess leak against p
    assert "3 Axes" in charts[-1]["data"]["text/plain"]
    assert str(outputs(nb)).count("p=0.5") >= 2
    only = ["fbr.f11", "fbr.f13", "fbr.f4", "fbr.f6"]
    nb = execute("figures", tmp_path, data="", only=only, out=str(tmp_path / "out"))
    text = str(outputs(nb))
    assert "training a tiny one" in text and "2 of 4 figures drawn" in text
    assert "waits for BoxInst" in text and "Missing: 1 of 2 runs" in text
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"fbr.f{n}.{kind}" for n in (11, 13) for kind in ("png", "svg")
    ]


WIDGET = "application/vnd.jupyter.widget-view+json"


def your_data(folder, **parameters):
    "Execute the companion `your_data` with a short training."
    short = '{"training.steps": 4, "augment.crop": 64}'
    fixed = dict(out=str(folder / "out"), preset="smoke", device="cpu", overrides=short)
    return papermilled("your_data", folder, fixed | parameters)


def test_your_data_makes_an_example(tmp_path):
    nb = your_data(tmp_path, chain="")
    assert "No photographs named" in printed(nb) and (tmp_path / "out/example/tags.csv").exists()
    (masks,) = (tmp_path / "out/masks").glob("*/SegmentationClass")
    assert len([*masks.iterdir()]) == 64
    assert count(nb, "image/jpeg") == 3  # the photographs; CAMs and seeds; masks
    assert any(WIDGET in o.get("data", {}) for o in nb.cells[-3].outputs)  # the explorer


def test_your_data_takes_photographs_as_they_are(tmp_path):
    "Names with spaces, folders and a wide picture work; each image gets a mask; a new threshold trains nothing."
    photos = tmp_path / "my photos"
    rows = ["image,tags,by"]
    (photos / "more").mkdir(parents=True)
    for i, tags in enumerate(["red car; boat", "boat", "red car", "", "boat", "red car"]):
        name = f"more/{i}.png" if i % 2 else f"photo {i}.JPG"
        pixels = np.random.default_rng(i).integers(0, 256, (60, 80 + 20 * (i == 2), 3), np.uint8)
        Image.fromarray(pixels).save(photos / name)
        rows.append(f"{name},{tags},me")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows))
    own = dict(images=str(photos), table=str(table), longest=80, chain="crf")
    assert "No photographs named" not in printed(your_data(tmp_path, **own))
    (masks,) = (tmp_path / "out/masks").iterdir()
    assert (masks / "classes.txt").read_text().split() == ["boat", "red_car"]
    allowed = {"photo 0": {0, 1, 2}, "photo 2": {0, 2}, "photo 4": {0, 1}}
    allowed |= {"more_1": {0, 1}, "more_3": {0}, "more_5": {0, 2}}
    for name, values in allowed.items():
        mask = Image.open(masks / f"SegmentationClass/{name}.png")
        assert mask.size == ((80, 48) if name == "photo 2" else (80, 60)) and set(np.unique(mask)) <= values
    assert len([*(masks / "SegmentationClass").iterdir()]) == 6

    your_data(tmp_path, **own, threshold=0.6)
    trained = {json.loads(f.read_text())["key"] for f in (tmp_path / "out/runs").glob("*/training.json")}
    logs = [f.read_text() for f in (tmp_path / "out/runs").glob("*/log.jsonl")]
    assert len(logs) == 2 and len(trained) == 1 and logs[0] == logs[1]

    table.write_text("\n".join([*rows, "lost.jpg,boat,me", "more/1.png,boat,me"]))
    error = "line 8: no picture 'lost.jpg'.*line 9: more/1.png occurs twice"
    with pytest.raises(papermill.PapermillExecutionError, match=error):
        your_data(tmp_path, **own)


def test_explore_without_runs(tmp_path):
    "It trains two tiny runs, shows the explorer and the same view without widgets, and then finds the runs."
    own = dict(data="", runs=str(tmp_path / "runs"), device="cpu")
    nb = papermilled("explore", tmp_path, own)
    assert "training two tiny ones" in printed(nb) and "view(source, split='train'" in printed(nb)
    (shown,) = (c for c in nb.cells if c.source.endswith("\nexplorer"))
    assert any(WIDGET in o.get("data", {}) for o in shown.outputs)
    assert count(nb, "image/jpeg") == 1
    keys = [r.name[:6] for r in (tmp_path / "runs").glob("*/") if (r / "result.json").exists()]
    nb = papermilled("explore", tmp_path, own | dict(keys=keys[:1]))
    assert "training two" not in printed(nb)


def test_classifier_without_photographs(tmp_path):
    "It shows scenes by the offline network, the same view without widgets, and its maps as numbers."
    nb = papermilled("classifier", tmp_path, dict(device="cpu"))
    (shown,) = (c for c in nb.cells if c.source.endswith("\nexplorer"))
    assert any(WIDGET in o.get("data", {}) for o in shown.outputs)
    assert "threshold=0.5" in printed(nb) and count(nb, "image/jpeg") == 1
    assert "torch.Size([1, 2, 7, 7])" in str(outputs(nb)[-1])
