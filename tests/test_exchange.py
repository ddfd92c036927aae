"CAMs of other projects: there and back in every format, read as any run; what may not be read; runs handed on."

import os

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from test_cli import one_line
from typer.testing import CliRunner

from wsss_nb.cams import cam_path, load_cam
from wsss_nb.cli import app
from wsss_nb.core import UserError, read_json
from wsss_nb.data.catalog import open_data
from wsss_nb.data.folder import write_folder
from wsss_nb.explore.cams.app import CamExplorer
from wsss_nb.explore.map.app import FeatureMap
from wsss_nb.explore.source import Source
from wsss_nb.pipeline import exchange
from wsss_nb.pipeline.experiment import run_recipe
from wsss_nb.run.presets import SMALL_NETWORK, make_recipe
from wsss_nb.run.store import RunStore

DATA = "cooccur?n=12&size=64"
SHORT = SMALL_NETWORK | {"training.steps": 3, "training.batch_size": 2, "augment.crop": 48}
SHORT |= {"training.log_every": 1, "inference.limit": None}


def call(*words):
    "Call `wsss_nb`; it must not raise."
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done


def succeed(*words):
    "Call `wsss_nb`, which must succeed; return what it prints."
    done = call(*words)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A store with a trained run."
    store = tmp_path_factory.mktemp("store") / "runs"
    return store, run_recipe(make_recipe("cam", DATA, "smoke", overrides=SHORT), store, "cpu", 0)


@pytest.fixture(scope="module")
def imported(trained, tmp_path_factory):
    "The trained run's CAMs, exported in IRN's format and imported into its store: folder, run."
    store, run = trained
    folder = tmp_path_factory.mktemp("irn")
    succeed("export", run.key, "--format", "irn", "--out", folder / "cams", "--runs", store)
    succeed("import", folder / "cams", "--format", "irn", "--data", DATA, "--runs", store)
    return folder / "cams", RunStore(store).latest()


@pytest.mark.parametrize("format", ["irn", "clipes", "npz", "png"])
def test_there_and_back_gives_the_same_scores(trained, format, tmp_path):
    "The mIoU of an imported run is that of the exported one, to the last digit, also as `eval` computes it."
    store, run = trained
    metrics = run.result["metrics"]
    out = succeed("export", run.key, "--format", format, "--out", tmp_path / "files", "--runs", store)
    assert "15 files" in out
    other = tmp_path / "other"
    words = (
        "import",
        tmp_path / "files",
        "--format",
        format,
        "--data",
        DATA,
        "--runs",
        other,
        "--name",
        "theirs",
    )
    out = succeed(*words)
    assert "theirs" in out and f"from {format} files of files" in out and "15 files" in out
    (back,) = RunStore(other)
    assert back.result["metrics"]["miou"] == metrics["miou"]
    assert back.result["metrics"]["per_class"] == metrics["per_class"]
    made = (back.path / "result.json").stat().st_mtime_ns
    assert succeed(*words) == out and (back.path / "result.json").stat().st_mtime_ns == made  # found again
    succeed("eval", back.key, "--runs", other, "--out", tmp_path / "back.csv")
    succeed("eval", run.key, "--runs", store, "--out", tmp_path / "own.csv")
    ours, theirs = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("own", "back"))
    if format == "png":  # masks have no threshold
        ours = ours.loc[:, ~ours.columns.str.startswith("robustness")]
    pd.testing.assert_frame_equal(theirs, ours, check_exact=True)


def test_an_imported_run_is_read_as_any_other(trained, imported, tmp_path):
    "Refinement, masks, the second stage, tables and comparisons."
    store, run = trained
    _, back = imported
    runs = ("--runs", store)
    out = succeed("refine", "crf?preset=irn", "--run", back.key, *runs, "--device", "cpu")
    same = succeed("refine", "crf?preset=irn", "--run", run.key, *runs, "--device", "cpu")
    assert out.splitlines()[0].rpartition(": ")[2] == same.splitlines()[0].rpartition(": ")[2]
    labels = f"model.labels=run:{back.key}/crf?preset=irn"
    sets = [
        w for k, v in SHORT.items() for w in ("--set", f"{k}={str(v).lower() if v is not None else 'null'}")
    ]
    words = ("--data", DATA, "--preset", "smoke", *runs, "--device", "cpu")
    out = succeed("train", "--method", "deeplab_v2", *words, *sets, "--set", labels)
    assert "deeplab_v2" in out and "mIoU" in out
    out = succeed(
        "ablate", "--methods", f"run:{run.key},run:{back.key}", *words, "--seeds", 2, "--out", tmp_path
    )
    miou = f"{100 * run.result['metrics']['miou']:.1f}"
    rows = [line for line in out.splitlines() if back.key[:6] in line or run.key[:6] in line]
    assert "imported cams" in out and "threshold from val" in out and sum(miou in r for r in rows) >= 2, out
    out = succeed("eval", back.key, "--against", run.key, *runs)
    assert "0.0" in out
    out = succeed("runs", *runs)
    assert "imported cams" in out and "from irn files of cams" in out
    sets = [w for w in sets if w != "--set"]
    network = [w for s in sets for w in ("--segment-set", s)]
    more = ("--method", f"run:{back.key}", "--chain", "", "--out", tmp_path, *network)
    assert "imported cams" in succeed("pipeline", *more, *words)


def test_what_needs_a_network_is_one_line(trained, imported, tmp_path):
    store, _ = trained
    folder, _ = imported
    words = ("--format", "irn", "--data", DATA, "--runs", tmp_path / "runs")
    succeed("import", folder, *words, "--split", "train")
    (back,) = RunStore(tmp_path / "runs")
    assert back.result["metrics"]["threshold_from"] == "train-gt"
    for typed, says in (
        (("train", "--recipe", back.path / "recipe.json", "--set", "seed=1"), "no network to train"),
        (("train", "--method", "imported", "--data", DATA), "no network to train"),
        (("cams", back.key, "--split", "val"), "imported: it has the CAMs or masks of train, and no network"),
        (("refine", "crf", "--run", back.key, "--split", "val"), "and no network"),
        (("runs", "export", back.key, tmp_path / "out"), "imported and has no weights"),
        (("runs", "log", back.key), "has no log"),
    ):
        done = call(*typed, "--runs", tmp_path / "runs")
        assert says in one_line(done.exit_code, done.stdout, done.stderr)
    source = Source([back], device="cpu")
    with pytest.raises(UserError, match="no network"):
        FeatureMap(source, wait=True)
    assert len(list(RunStore(tmp_path / "runs"))) == 1  # nothing was begun


def irn_folder(folder, data, split):
    "Write CAMs as IRN's make_cam.py does: tensors on a grid of 4 x 4 pixels, and an array at the size of the image."
    folder.mkdir()
    for id in data.ids(split):
        mask = data.load(id, ["mask"])["mask"].numpy()
        keys = torch.tensor(data.tags[id])
        high = (mask == np.array(data.tags[id])[:, None, None] + 1).astype("float32")
        high = gaussian_filter(high, (0, 3, 3))
        high /= high.max((1, 2), keepdims=True) + 1e-5
        grid = [-(-n // 4) for n in mask.shape]
        cam = F.interpolate(torch.from_numpy(high)[:, None], grid, mode="bilinear", align_corners=False)[:, 0]
        made = {"keys": keys, "cam": cam, "high_res": high}
        np.save(folder / f"{id}.npy", made, allow_pickle=True)
    return folder


def test_a_folder_of_irn_opens_in_the_explorer(tmp_path):
    few = open_data(DATA)
    samples = {s: [few.load(i, ["image", "mask"]) for i in few.ids(s)] for s in ("train", "val")}
    data = open_data(f"folder:{write_folder(tmp_path / 'data', samples, few.classes)}")
    theirs = irn_folder(tmp_path / "irn", data, "train")
    words = ("import", theirs, "--format", "irn", "--data", data.name, "--runs", tmp_path / "runs")
    words += ("--preset", "smoke")
    assert "(irn, cam)" in succeed(*words)
    assert "high_res" in succeed(*words, "--field", "high_res", "--name", "theirs, whole")
    shown = CamExplorer(store=tmp_path / "runs", device="cpu")
    views, state = shown.canvas.views, shown.state
    assert len(state.runs) == 2 and state.split == "train" and shown.status.line.value == ""
    for layer in state.layers():
        shown.controls.layer.value = layer
        assert shown.status.line.value == "" and all(v.rgb is not None for v in shown.canvas.grid.children)
    views[1].picture.click = (20, 30, 1)
    assert state.pixel == (20, 30) and "row 20, column 30" in views[0].facts.value
    shown.controls.refine.value = "pamr"
    assert shown.status.line.value == "" and "IoU" in views[4].facts.value
    shown.controls.order.value = "worst IoU first"
    done = call("refine", "irn?trunk=run", "--run", RunStore(tmp_path / "runs").latest().key, *words[-4:-2])
    assert "imported and has no weights" in one_line(done.exit_code, done.stdout, done.stderr)
    shown.controls.split.value = "val"  # without CAMs
    assert "no network" in shown.status.line.value and "Traceback" not in shown.status.line.value
    shown.close()


class Call:
    "An object that calls a function when it is unpickled in the usual way."

    def __init__(self, function, *args):
        self.what = function, args

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("where", ["cam", "keys", "whole", "cls_labels"])
def test_a_pickle_that_calls_is_refused(imported, where, tmp_path):
    "One line that names the file and the function; nothing is run, nothing is written."
    flag = tmp_path / "flag"
    evil = Call(os.system, f"touch {flag}")
    folder = tmp_path / "cams"
    if where == "cls_labels":
        few = open_data(DATA)
        samples = {"train": [few.load(i, ["image"]) for i in few.ids("train")]}
        write_folder(folder, samples, few.classes)
        (folder / "tags.csv").unlink()
        np.save(folder / "cls_labels.npy", {"a": evil}, allow_pickle=True)
        done = call("data", "check", f"folder:{folder}")
    else:
        folder.mkdir()
        for file in imported[0].glob("*.npy"):
            os.link(file, folder / file.name)
        first = sorted(folder.glob("*.npy"))[3]
        made = np.load(first, allow_pickle=True).item()
        first.unlink()
        np.save(first, evil if where == "whole" else made | {where: evil}, allow_pickle=True)
        done = call("import", folder, "--format", "irn", "--data", DATA, "--runs", tmp_path / "runs")
    line = one_line(done.exit_code, done.stdout, "wsss_nb:" + done.stderr.partition("wsss_nb:")[2])
    assert ".npy holds posix.system, which is no array" in line
    assert not flag.exists() and not (tmp_path / "runs").exists()


def test_an_interrupted_import_goes_on(imported, tmp_path, monkeypatch):
    store, plain = RunStore(tmp_path / "runs"), exchange.save_cam
    count = iter(range(5))

    def save(path, cam):
        if next(count, None) is None:
            raise KeyboardInterrupt
        plain(path, cam)

    monkeypatch.setattr(exchange, "save_cam", save)
    words = ("import", imported[0], "--format", "irn", "--data", DATA, "--runs", store.root, "--workers", 1)
    done = call(*words)
    assert done.exit_code == 130 and "resume" in done.stderr
    (run,) = store
    kept = {p: p.stat().st_mtime_ns for p in run.path.glob("cams/*/*.npz")}
    assert len(kept) == 5 and not run.done
    monkeypatch.setattr(exchange, "save_cam", plain)
    succeed(*words)
    assert {p: p.stat().st_mtime_ns for p in kept} == kept and run.done
    assert run.result["metrics"]["miou"] == imported[1].result["metrics"]["miou"]


def test_a_damaged_import_names_its_files(imported, tmp_path):
    folder = tmp_path / "cams"
    folder.mkdir()
    files = sorted(imported[0].glob("train*.npy"))
    for file in files[2:]:
        os.link(file, folder / file.name)
    (folder / files[1].name).write_bytes(files[1].read_bytes()[:200])
    words = ("import", folder, "--format", "irn", "--data", DATA, "--runs", tmp_path / "runs")
    done = call(*words)
    assert done.exit_code == 2 and "2 faults" in done.stderr and f"no file for {files[0].stem}" in done.stderr
    assert f"{files[1].name} cannot be read" in done.stderr and not (tmp_path / "runs").exists()
    done = call(*words, "--skip-bad")
    assert done.exit_code == 0 and "Left out 2 of 12 images" in done.stderr
    (run,) = RunStore(tmp_path / "runs")
    assert "10 images" in succeed("refine", "pamr", "--run", run.key, "--runs", tmp_path / "runs")
    assert len(Source.open(tmp_path / "runs").ids("train")) == 10


def test_a_run_is_handed_on(trained, tmp_path):
    store, run = trained
    folder = tmp_path / "handed"
    succeed("runs", "export", run.key, folder, "--runs", store)
    there = ("--runs", tmp_path / "there")
    assert run.key in succeed("runs", "import", folder, *there)
    assert "is there already" in succeed("runs", "import", folder, *there)
    taken = RunStore(tmp_path / "there").find(run.key)
    succeed("cams", run.key, *there, "--device", "cpu")
    id = open_data(DATA).ids("train")[0]
    assert np.array_equal(*(load_cam(cam_path(r.path, "train", id)).cam for r in (run, taken)))
    assert read_json(taken.path / "result.json") == read_json(run.path / "result.json")
    out = succeed("runs", "log", run.key, "--to", "csv", "--out", tmp_path / "logs", "--runs", store)
    assert pd.read_csv(out.strip()).loss.tolist() == [row["loss"] for row in run.log()]
    done = call("runs", "log", run.key, "--to", "xml", "--runs", store)
    assert "There are: csv, tensorboard" in one_line(done.exit_code, done.stdout, done.stderr)
    (folder / "extra.pkl").write_bytes(b"")
    done = call("runs", "import", folder, "--runs", tmp_path / "third")
    assert "extra.pkl is no part of a run" in one_line(done.exit_code, done.stdout, done.stderr)
