"The second stage across modules: labels of three sources, one image by heart, the command, killed and resumed."

import json
import random
import shutil
import threading
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from processes import kill_when, start
from safetensors import safe_open
from torchvision import tv_tensors
from typer.testing import CliRunner

from wsss_nb import cams
from wsss_nb.cams import cam_path, load_cam, write_cams
from wsss_nb.cli import app
from wsss_nb.core import UserError
from wsss_nb.data.catalog import open_data
from wsss_nb.data.files import write_map
from wsss_nb.data.folder import write_folder
from wsss_nb.explore.scores import infer_image
from wsss_nb.metrics.confusion import Confusion, predict_mask
from wsss_nb.paper.registry import ENTRIES, lookup
from wsss_nb.pipeline import masks as masks_module
from wsss_nb.pipeline.detail import detail_of
from wsss_nb.pipeline.evaluate import evaluate_predictions
from wsss_nb.pipeline.experiment import Experiment, run_recipe
from wsss_nb.pipeline.load import data_of, load_model
from wsss_nb.pipeline.pictures import show_seeds
from wsss_nb.run.presets import SMALL_NETWORK, make_recipe
from wsss_nb.run.recipe import identity
from wsss_nb.run.store import RunStore

DATA = "cooccur?n=12&size=64"
SHORT = SMALL_NETWORK | {"training.steps": 3, "training.batch_size": 2, "augment.crop": 48}


def network(labels, **more):
    "Return the recipe of a short training on pixel labels."
    return make_recipe("deeplab_v2", DATA, "smoke", overrides=SHORT | {"model.labels": labels} | more)


@pytest.fixture
def masks(tmp_path, monkeypatch):
    "A folder with the true masks of the training images."
    monkeypatch.setenv("WSSS_NB_CACHE", str(tmp_path / "cache"))
    data = open_data(DATA)
    folder = tmp_path / "masks"
    folder.mkdir()
    for id in data.ids("train"):
        write_map(folder / f"{id}.png", data.load(id, ["mask"])["mask"])
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    "A store with a network trained on the ground truth, and with a CAM."
    store = tmp_path_factory.mktemp("runs")
    cam = make_recipe("cam", DATA, "smoke", overrides=SHORT)
    return store, *(run_recipe(recipe, store, workers=0) for recipe in (network("truth"), cam))


def call(*words):
    "Call `wsss_nb`; it must not raise."
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done


def test_predictions_are_evaluated(trained, tmp_path):
    store, run, cam = trained
    more = ("--trimap", "--boundary", "--sizes", "--out", tmp_path / "scores.csv")
    done = call("eval", run.key, "--runs", store, *more)
    assert done.exit_code == 0, done.output
    metrics = run.result["metrics"]
    for words in (
        f"deeplab_v2, run {run.key}, val, 3 images: miou {100 * metrics['miou']:.1f}",
        "IoU by size of the object",
        "trimap mIoU",
        "boundary F",
        "trained from random",
    ):
        assert words in done.stdout, done.stdout
    assert "threshold" not in done.stdout and "leak" not in done.stdout
    columns = (tmp_path / "scores.csv").read_text().splitlines()[0].split(",")
    assert {"precision", "recall", "size_iou < 5 %", "trimap_iou 2", "boundary_f 2"} <= set(columns)
    mean = pd.read_csv(tmp_path / "scores.csv", index_col="class").loc["mean"]
    detail = detail_of(run)
    assert detail["boundary_miou"] == mean["boundary_iou 2"] and "robustness" not in detail
    np.testing.assert_equal(list(detail["sizes"].values()), [mean[f"size_iou {k}"] for k in detail["sizes"]])
    assert show_seeds(run, data_of(run), 2).get_suptitle() == "Predictions of deeplab_v2"
    both = call("eval", run.key, cam.key, "--split", "train", "--runs", store)
    assert both.exit_code == 0 and run.key in both.stdout and cam.key in both.stdout, both.output
    assert both.stdout.count("from random") == 1 and "from random" in call("runs", "--runs", store).stdout
    same = call("eval", run.key, "--against", run.key, "--runs", store)
    assert "no threshold (segmentation network)" in same.stdout and "val, 3 images" in same.stdout
    other = call("eval", run.key, "--against", cam.key, "--split", "val", "--runs", store)
    assert other.exit_code == 0 and "threshold 0" in other.stdout, other.output
    for words, what in (
        (("--threshold", 0.3), "without a threshold"),
        (("--instances",), "IRN finds instances in CAMs"),
        (("--against", cam.key), f"{cam.key} on 8 of train, {run.key} on 3 of val"),
    ):
        wrong = call("eval", run.key, "--runs", store, *words)
        assert wrong.exit_code == 2 and what in wrong.stderr and wrong.stderr.count("\n") == 1, wrong.output


def test_predictions_are_written(trained, tmp_path):
    store, run, _ = trained
    ids = open_data(DATA).ids("val")
    plain = call("masks", run.key, "--runs", store, "--out", tmp_path / "plain")
    assert plain.exit_code == 0, plain.output
    assert sorted(p.stem for p in (tmp_path / "plain" / "SegmentationClass").iterdir()) == sorted(ids)
    words = (
        "--chain",
        "crf?preset=deeplab",
        "--server",
        "auto",
        "--out",
        tmp_path / "server",
        "--runs",
        store,
    )
    done = call("masks", run.key, *words)
    assert done.exit_code == 0 and "comp5: initial weights random, labels truth" in done.stdout, done.output
    files = sorted((tmp_path / "server/results/VOC2012/Segmentation/comp5_val_cls").iterdir())
    assert [f.stem for f in files] == sorted(ids)
    with Image.open(files[0]) as image:
        assert image.mode == "P" and image.size == (64, 64)


def single(output):
    "Return the recipe of a short training of WS-FCN whose inference gives CAMs, masks, or masks of known tags."
    small = {"model.width": 8, "model.dilations": (1, 2), "inference.limit": None, "model.output": output}
    return make_recipe("wsfcn", DATA, "smoke", overrides=SHORT | small)


def test_a_single_stage_gives_cams_masks_and_masks_of_known_tags(tmp_path):
    "All three from one training; the second stage can learn from its refined CAMs."
    store, data = tmp_path / "runs", open_data(DATA)
    cam, masks, tagged = runs = [run_recipe(single(o), store, workers=0) for o in ("cam", "masks", "tagged")]
    assert len({r.key for r in runs}) == 3 and len({r.result["training"]["seconds"] for r in runs}) == 1
    assert [r.result["metrics"]["split"] for r in runs] == ["train", "val", "val"]
    assert "threshold" in cam.result["metrics"] and "threshold" not in masks.result["metrics"]
    known = open_data(DATA).tags
    for id in data.ids("train"):
        assert set(load_cam(cam_path(cam.path, "train", id)).classes) == set(known[id])
    model = load_model(tagged, len(data.classes))
    for id in data.ids("val"):
        cached = load_cam(cam_path(tagged.path, "val", id))
        assert set(cached.classes) <= set(known[id])
        sample = data.load(id)
        alone = infer_image(
            model, sample["image"] / 255, sample["labels"], tagged.recipe.inference, torch.device("cpu")
        )
        assert np.array_equal(alone.classes, cached.classes) and np.allclose(alone.cam, cached.cam, atol=1e-3)
    words = ("--chain", "background?power=5,crf?preset=psa", "--server", "auto", "--runs", store)
    done = call("masks", masks.key, *words, "--out", tmp_path / "a")
    assert done.exit_code == 0 and "labels image tags" in done.stdout, done.output
    refused = call("masks", tagged.key, *words, "--out", tmp_path / "b")
    assert refused.exit_code == 2 and "needs the tags of the images" in refused.stderr, refused.output
    assert call("refine", "pamr", "--run", cam.key, "--split", "train", "--runs", store).exit_code == 0
    assert run_recipe(network(f"run:{cam.key}/pamr"), store, workers=0).result["metrics"]["miou"] >= 0


def test_labels_count_and_their_place_does_not(tmp_path, masks):
    store = tmp_path / "runs"
    first = run_recipe(network(f"folder:{masks}"), store, workers=0)
    moved = shutil.copytree(masks, tmp_path / "moved")
    assert run_recipe(network(f"folder:{moved}"), store, workers=0).key == first.key
    truth = run_recipe(network("truth"), store, workers=0)
    assert truth.key != first.key  # another source, though the labels agree
    assert truth.result["metrics"]["miou"] == first.result["metrics"]["miou"]
    one = sorted(moved.glob("*.png"))[0]
    write_map(one, open_data(DATA).load(one.stem, ["mask"])["mask"] * 0)
    assert run_recipe(network(f"folder:{moved}"), store, workers=0).key != first.key
    training = first.result["training"]
    assert (training["images"], training["initial"]) == (12, "random")
    cached = load_cam(cam_path(first.path, "val", open_data(DATA).ids("val")[0]))
    total = cached.full().sum(0) + cached.rest(0)
    assert (total > 0.9).all() and (total < 1.01).all()  # probabilities, less those of unlikely classes


def test_a_corrected_ground_truth_is_another_run(tmp_path, monkeypatch):
    "The ceiling of changed masks is not that of the old ones, though ids, sizes and tags stay."
    monkeypatch.setenv("WSSS_NB_CACHE", str(tmp_path / "cache"))

    def key(data):
        recipe = make_recipe("deeplab_v2", data.name, "smoke", overrides={"model.labels": "truth"})
        return Experiment(recipe, tmp_path / "runs", data, "cpu", 0).run.key

    first = quarters(tmp_path / "data")
    moved = open_data(f"folder:{shutil.copytree(tmp_path / 'data', tmp_path / 'moved')}")
    assert key(moved) == key(first)
    file = moved.path("train", "mask")
    file.touch()
    assert key(moved) == key(first)
    mask = moved.load("train", ["mask"])["mask"]
    mask[0, 0] = 1
    write_map(file, mask)
    changed = open_data(moved.name)
    assert changed.fingerprint(truth=False) == first.fingerprint(truth=False) and key(changed) != key(first)


def test_half_a_folder_is_trained_on_only_when_told(tmp_path, masks):
    for file in sorted(masks.glob("*.png"))[6:]:
        file.unlink()
    with pytest.raises(UserError, match="6 of 12 images of train have no pixel labels"):
        run_recipe(network(f"folder:{masks}"), tmp_path / "runs", workers=0)
    assert not list((tmp_path / "runs").glob("*/recipe.json"))
    run = run_recipe(network(f"folder:{masks}", **{"model.partial": True}), tmp_path / "runs", workers=0)
    assert run.result["training"]["images"] == 6


def test_masks_that_are_not_made_yet_come_with_the_command(tmp_path):
    cam = make_recipe("cam", DATA, "smoke", overrides=SHORT)
    run = run_recipe(cam, tmp_path / "runs", workers=0)
    for chain, typed in (("pamr", "pamr"), ("crf?preset=irn", r"'crf\?preset=irn'")):  # zsh expands a bare ?
        with pytest.raises(UserError, match=f"wsss_nb refine {typed} --run {run.key} --split train"):
            run_recipe(network(f"run:{run.key}/{chain}"), tmp_path / "runs", workers=0)


def test_the_place_of_labels_is_no_part_of_the_identity():
    a, b = network("folder:a"), network("folder:b", **{"model.partial": True})
    assert identity(a) == identity(b)
    assert identity(network("truth", **{"model.digest": "x"})) != identity(a)


def test_the_command_makes_every_stage_once(tmp_path):
    sets = [
        w for k, v in SHORT.items() for option in ("--set", "--segment-set") for w in (option, f"{k}={v}")
    ]
    words = ["pipeline", "--method", "cam", "--chain", "pamr", "--data", DATA, "--preset", "smoke", *sets]
    words += [
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "figures"),
        "--smooth",
        "crf?preset=deeplab",
    ]
    first = CliRunner().invoke(app, words)
    assert first.exit_code == 0, first.output
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    assert len(list(RunStore(tmp_path / "runs"))) == 2
    for stage in ("seeds of cam", "masks: pamr", "deeplab_v2", "+ crf?preset=deeplab"):
        assert stage in first.output
    assert list((tmp_path / "figures").glob("pipeline-*.png"))
    # the network's result is lost, as after a kill: it alone is made again
    (network_run,) = [r for r in RunStore(tmp_path / "runs") if r.recipe.model.segments]
    kept = json.loads((network_run.path / "result.json").read_text())["metrics"]
    (network_run.path / "result.json").unlink()
    again = CliRunner().invoke(app, words)
    assert again.exit_code == 0, again.output
    assert json.loads((network_run.path / "result.json").read_text())["metrics"] == kept
    changed = {p for p, t in times.items() if p.exists() and p.stat().st_mtime_ns != t}
    assert changed == {network_run.path / "result.json"}


def test_a_table_runs_networks_and_their_seeds_once(tmp_path, monkeypatch):
    "A network on refined seeds, and the ceiling, whose run is found. The second call does nothing."
    entry = lookup("segment.compare")
    rows = tuple(r for r in entry.rows if r.label in ("PAMR", "ground truth"))
    monkeypatch.setitem(ENTRIES, entry.id, replace(entry, rows=rows, reference="PAMR"))
    runs = tmp_path / "runs"
    words = ["--data", DATA, "--preset", "smoke", "--runs", str(runs), "--out", str(tmp_path / "out")]
    fields = SHORT | {f"segment.{k}": v for k, v in SHORT.items()}
    words += [w for k, v in fields.items() for w in ("--set", f"{k}={v}")]

    def call(kind, *more):
        done = CliRunner().invoke(app, [kind, entry.id, *words, *more])
        assert done.exit_code == 0, done.output
        return done.stdout

    run_recipe(network("truth"), runs, "cpu", 0)
    assert "Missing: 1 of 2 runs" in call("table")
    shown = call("table", "--run", "--device", "cpu")
    assert "Missing" not in shown and "from random" in shown
    cells = {line.split("  ")[0]: line.split() for line in shown.splitlines()}
    assert "–" not in cells["PAMR"][1:3]  # mIoU of the network and of its masks
    assert cells["ground truth"].count("–") == 3  # no masks of a run
    methods = sorted(r.recipe.method for r in RunStore(runs))
    assert methods == ["cam", "deeplab_v2", "deeplab_v2"]
    assert len(list(runs.glob("*/pipeline.ipynb"))) == 1
    times = {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()}
    assert call("table", "--run", "--refine") == shown
    assert {p: p.stat().st_mtime_ns for p in runs.rglob("*") if p.is_file()} == times
    assert "segment.compare.png" in call("figure")


def quarters(folder):
    """Write a data set with one image, in train and in val, of four parts with straight edges.

    The edges lie between two cells of 8 pixels, so scores on that grid can have them exactly."""
    mask = torch.zeros(96, 96, dtype=torch.uint8)
    mask[:64, 32:], mask[64:, :32], mask[64:, 32:] = 1, 2, 3
    colours = torch.tensor([[40, 40, 40], [230, 60, 40], [250, 230, 120], [50, 60, 240]])
    noise = 20 * torch.randn(96, 96, 1, generator=torch.Generator().manual_seed(0))
    image = (colours[mask.long()] + noise).clamp(0, 255).byte().permute(2, 0, 1)
    sample = dict(image=tv_tensors.Image(image), mask=tv_tensors.Mask(mask), labels=torch.ones(3))
    samples = {split: [sample | dict(id=split)] for split in ("train", "val")}
    return open_data(f"folder:{write_folder(folder, samples, ['red', 'yellow', 'blue'], suffix='.png')}")


BY_HEART = {  # steps, learning rate, what makes the head small
    "deeplab_v2": (20, 2e-3, {"model.rates": [1, 2]}),
    "deeplab_v1": (30, 5e-3, {"model.dilation": 2, "model.width": 64}),
    "deeplab_v3p": (40, 2e-3, {"model.rates": [1, 2], "model.width": 32, "model.skip": 16}),
}


@pytest.mark.parametrize("kind", BY_HEART)
def test_one_image_is_learnt_by_heart(kind, tmp_path, monkeypatch):
    "Training, inference and evaluation reach 95 mIoU; a prediction that is two pixels off, or has the corners aligned, does not hide."
    steps, rate, small = BY_HEART[kind]
    data = quarters(tmp_path / "data")
    fixed = {"model.labels": "truth", "model.output_stride": 8, "model.dropout": 0, "training.steps": steps}
    fixed |= {"training.batch_size": 1, "augment.crop": 96, "augment.scale": [1, 1], "augment.flip": False}
    fixed |= {"optim.name": "adam", "optim.lr": rate, "optim.head_mult": 1, "optim.weight_decay": 0}
    fixed |= {"inference.scales": [1], "inference.flip": False, "inference.long_side": 192}
    recipe = make_recipe(kind, data.name, "smoke", overrides=SMALL_NETWORK | fixed | small)
    run = run_recipe(recipe, tmp_path / "runs", "cpu", 0, data)
    reached = run.result["metrics"]["miou"]
    assert reached > 0.95

    found = load_cam(cam_path(run.path, "val", "val"))
    guess = torch.as_tensor(predict_mask(found.classes, found.full(), found.rest(0)))
    truth = data.load("val", ["mask"])["mask"]
    assert Confusion(3).update(truth, guess).miou() == reached
    assert Confusion(3).update(truth[2:, 2:], guess[:-2, :-2]).miou() < 0.95
    crooked = lambda *x, **how: F.interpolate(*x, **how | dict(align_corners=True))
    monkeypatch.setattr(cams, "F", SimpleNamespace(interpolate=crooked))
    write_cams(load_model(run, 3), data, "val", tmp_path / "crooked", recipe.inference)
    assert evaluate_predictions(recipe, data, tmp_path / "crooked")["miou"] < reached - 0.015


def slowly(module, name):
    "Make a function take 50 ms longer, one call after the other."
    function, turn = getattr(module, name), threading.Lock()

    def slow(*arguments):
        with turn:
            time.sleep(0.05)
            return function(*arguments)

    setattr(module, name, slow)


def slow_command(words):
    "Call `wsss_nb`, which writes CAMs and masks so slowly that a kill finds it between two files."
    slowly(cams, "save_cam")
    slowly(masks_module, "write_map")
    app(words)


def lines(file):
    "Read the lines of a log."
    return file.read_text().splitlines() if file.exists() else []


def progress(folder, seeds, network):
    "Count what each stage of `wsss_nb pipeline` has made: steps, or files."
    seeds, network = folder / "runs" / seeds, folder / "runs" / network
    made = {
        "training of the seeds": lines(seeds / "log.jsonl"),
        "CAMs": seeds.glob("cams/train/[!.]*.npz"),
        "masks": seeds.glob("refined/*/masks/train/[!.]*.png"),
        "training of the network": lines(network / "log.jsonl"),
        "predictions": network.glob("cams/val/[!.]*.npz"),
        "smoothed predictions": network.glob("refined/*/masks/val/[!.]*.png"),
        "table": (folder / "figures").glob("[!.]*.md"),
    }
    return {stage: len(list(found)) for stage, found in made.items()}


def never_again(folder):
    "Return the times of the files that must not be written again, and the logged steps up to each checkpoint."
    times, steps = {}, set()
    for p in (folder / "runs").rglob("[!.]*"):
        trained = (p.parent / "training.json").exists()
        if p.name == "checkpoint.safetensors":
            with safe_open(p, "pt") as f:
                last = int(f.metadata()["step"])
            steps |= {line for line in lines(p.parent / "log.jsonl") if json.loads(line)["step"] <= last}
        elif p.name in ("log.jsonl", "model.safetensors", "terms.safetensors") and not trained:
            continue
        elif p.is_file() and p.name not in ("lock", "chain.json"):
            times[p] = p.stat().st_mtime_ns
    return times, steps


def outcome(folder):
    "Return the bytes of weights, CAMs, masks and table, and all metrics."
    files = (p for p in folder.rglob("[!.]*") if p.suffix in (".safetensors", ".npz", ".png", ".md"))
    found = {p.relative_to(folder): p.read_bytes() for p in files}
    for p in (folder / "runs").rglob("result.json"):
        result = json.loads(p.read_text())
        parts = result["splits"].values() if "splits" in result else [result]
        found[p.relative_to(folder)] = json.dumps([part["metrics"] for part in parts])
    return found


def test_killed_in_every_stage(tmp_path, request):
    "kill -9 in each stage of `wsss_nb pipeline`: in the end all is as without, and nothing was done twice."
    kills = dict(CAMs=1, masks=1, predictions=1) | {"training of the network": 1}
    if request.config.getoption("--long"):
        kills = dict(CAMs=4, masks=4, predictions=2, table=1) | {"smoothed predictions": 1}
        kills |= {f"training of the {what}": 4 for what in ("seeds", "network")}
    rng = random.Random(0)
    fields = SHORT | {"training.steps": 20, "training.log_every": 1, "inference.scales": "[1.0]"}
    sets = [w for k, v in fields.items() for o in ("--set", "--segment-set") for w in (o, f"{k}={v}")]
    words = ["pipeline", "--method", "cam", "--chain", "pamr", "--data", DATA, "--preset", "smoke", *sets]
    words += ["--set", "optim.lr=1e-4"]  # the tiny classifier still predicts every class: masks with objects
    words += ["--set", "evaluation.threshold=fixed", "--smooth", "pamr", "--device", "cpu", "--workers", "0"]

    def launched(folder):
        places = ["--runs", str(folder / "runs"), "--out", str(folder / "figures")]
        return start(slow_command, [*words, *places], output=tmp_path / "output.txt")

    calm, folder = tmp_path / "calm", tmp_path / "killed"
    whole = launched(calm)
    whole.join()
    assert whole.exitcode == 0, (tmp_path / "output.txt").read_text()[-3000:]
    keys = [r.key for r in sorted(RunStore(calm / "runs"), key=lambda r: r.recipe.model.segments)]
    total = progress(calm, *keys)
    assert any(np.asarray(Image.open(p)).any() for p in calm.glob("runs/*/refined/*/masks/train/*.png"))
    times, steps, hit = {}, set(), Counter()
    for stage in total:
        for _ in range(kills.get(stage, 0)):
            made = progress(folder, *keys)[stage]
            until = made + rng.randint(1, max(1, total[stage] // (kills[stage] + 1)))
            process = launched(folder)
            ready = lambda: progress(folder, *keys)[stage] >= until
            assert kill_when(ready, process, later=rng.uniform(0, 0.03))
            before, steps_before = times, steps
            times, steps = never_again(folder)
            assert before.items() <= times.items(), "a file was lost or written again"
            now = progress(folder, *keys)
            hit[next(s for s in reversed(total) if now[s])] += 1
            for run in RunStore(folder / "runs"):
                steps_before -= set(lines(run.path / "log.jsonl"))
            assert not steps_before, "a step before the checkpoint was lost or taken again"
    assert hit == kills
    last = launched(folder)
    last.join()
    assert last.exitcode == 0, (tmp_path / "output.txt").read_text()[-3000:]
    assert times.items() <= never_again(folder)[0].items()
    assert outcome(folder) == outcome(calm)
    for run in RunStore(folder / "runs"):
        assert [row["step"] for row in run.log()] == list(range(1, 21))
    for log in (folder / "runs").glob("*/refined/*/log.jsonl"):
        ids = [row["id"] for row in masks_module.read_log(log) if "id" in row]
        assert len(ids) == len(set(ids)), "an image was refined twice"
    assert not [p for p in folder.rglob(".*.tmp*")], "an incomplete file was left"
