"Training across modules: equality with the baseline, kill and resume, several processes, chains of runs."

import json
import socket

import pytest
import torch
from processes import kill_when, start
from safetensors.torch import load_file

from wsss_nb.cams import cam_path, load_cam
from wsss_nb.data.catalog import open_data
from wsss_nb.pipeline.experiment import run_recipe
from wsss_nb.pipeline.load import load_model, load_terms
from wsss_nb.run.presets import SMALL_NETWORK, make_recipe
from wsss_nb.run.recipe import replace
from wsss_nb.run.store import RunStore
from wsss_nb.train.loop import train

DATA = "cooccur?n=24&size=64"
SHORT = {"training.steps": 8, "training.log_every": 2, "augment.crop": 64, "inference.limit": 4}


def short(method: str, **overrides):
    "Return the recipe of a short run."
    return replace(make_recipe(method, DATA, "smoke"), SHORT | overrides)


def trained(recipe, folder):
    "Train without inference and evaluation; return the run."
    run = RunStore(folder).run(recipe, "x")
    train(recipe, open_data(DATA), run, "cpu", workers=0)
    return run


def test_fbr_with_zero_weights_is_the_baseline_bit_for_bit(tmp_path):
    zero = {f"terms.fbr.lambda_{p}": 0.0 for p in ("bg", "fg", "seg")}
    a = trained(short("cam"), tmp_path / "a")
    b = trained(short("cam+fbr", **zero, **{"terms.fbr.warmup": 0.0}), tmp_path / "b")
    a, b = (load_file(r.path / "model.safetensors") for r in (a, b))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_fbr_changes_the_model_and_fills_its_bank(tmp_path):
    a = trained(short("cam"), tmp_path / "a")
    b = trained(short("cam+fbr", **{"terms.fbr.warmup": 0.25}), tmp_path / "b")
    terms = load_file(b.path / "terms.safetensors")
    a, b = (load_file(r.path / "model.safetensors") for r in (a, b))
    assert any(not torch.equal(a[k], b[k]) for k in a)
    assert 0 < terms["fbr.bank.pushed"] <= 6 * 4 * 8  # six of eight steps, four images, eight NROIs


def complete(recipe, folder):
    "Run a recipe in this process."
    run_recipe(recipe, folder, device="cpu", workers=0)


def launch(recipe, folder, work=complete, **environment):
    "Run a recipe in another process."
    return start(work, recipe, folder, output=folder.with_suffix(".txt"), **environment)


# Low learning rates: the tiny classifier still predicts every class, and FPR's pools are full.
TUNING = SMALL_NETWORK | {"start.training.steps": 8, "start.optim.lr": 1e-6, "optim.lr": 1e-4}
TERMS = {"cam+fbr": {"terms.fbr.warmup": 0.1}, "cam+fpr": TUNING, "cam+ssc": {}}
SINGLE = {
    "model.width": 16,
    "model.dilations": (1, 2),
    "model.seg_from": 0.5,
    "model.context": "fca",
    "model.fusion": "sf2",
}
TERMS["ssss"] = SINGLE  # killed once in each phase


@pytest.mark.parametrize("method", TERMS)
def test_kill_in_mid_epoch_then_resume_equals_the_uninterrupted_run(tmp_path, method):
    recipe = short(method, **{"training.steps": 40, "training.log_every": 1}, **TERMS[method])
    whole = run_recipe(recipe, tmp_path / "whole", device="cpu", workers=0)
    per_epoch = 24 // recipe.training.batch_size
    for kill_at in (per_epoch + 2, 4 * per_epoch + 3):  # both between two checkpoints
        process = launch(recipe, tmp_path / "killed")
        log = tmp_path / "killed" / whole.key / "log.jsonl"
        ready = lambda: log.exists() and len(log.read_text().splitlines()) >= kill_at
        assert kill_when(ready, process), (tmp_path / "killed.txt").read_text()[-3000:]
        assert not (log.parent / "result.json").exists()
    resumed = run_recipe(recipe, tmp_path / "killed", device="cpu", workers=0)
    assert resumed.key == whole.key
    for part in ("model", "terms"):
        a, b = (load_file(r.path / f"{part}.safetensors") for r in (whole, resumed))
        assert all(torch.equal(a[k], b[k]) for k in a), part
    metrics = [json.dumps(r.result["metrics"]) for r in (resumed, whole)]  # as text: NaN equals NaN
    assert metrics[0] == metrics[1]
    assert [r["step"] for r in resumed.log()] == list(range(1, 41))
    if method == "cam+fpr":
        assert (b["fpr.pools.image"] >= 0).any() and max(r["fpr.rc"] for r in resumed.log()) > 0
    if method == "ssss":
        assert [r["step"] for r in resumed.log() if "seg" in r] == list(range(21, 41))


def in_two(recipe, folder, work=complete):
    "Run a recipe in two processes that share each batch."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    together = dict(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    together["ACCELERATE_USE_CPU"] = "true"
    processes = [
        launch(recipe, folder, work, RANK=str(rank), LOCAL_RANK=str(rank), **together) for rank in range(2)
    ]
    for p in processes:
        p.join(300)
        assert p.exitcode == 0, folder.with_suffix(".txt").read_text()[-3000:]


@pytest.mark.parametrize("method", ["cam+fbr", "cam+fpr"])
def test_two_processes_train_as_one(tmp_path, method):
    recipe = short(method, **({"terms.fbr.warmup": 0.25} if method == "cam+fbr" else TUNING))
    in_two(recipe, tmp_path / "runs")
    (run,) = (r for r in RunStore(tmp_path / "runs") if r.recipe.method == method)
    assert run.result["training"]["processes"] == 2
    terms = load_file(run.path / "terms.safetensors")
    if method == "cam+fpr":  # both processes trained the run that it starts from, too
        assert (terms["fpr.pools.image"] >= 0).any() and len(list(RunStore(tmp_path / "runs"))) == 2
        return
    assert 4 * 8 < terms["fbr.bank.pushed"] <= 6 * 4 * 8  # NROIs of both processes' images
    assert run.result["metrics"]["miou"] > 0


def complete_image_by_image(recipe, folder):
    "Run a recipe without what two processes cannot share: draws of dropout, and statistics of a batch (here of each image)."
    torch.nn.Dropout.forward = lambda self, x: x
    instance_norm = torch.nn.functional.instance_norm
    torch.nn.BatchNorm2d.forward = lambda self, x: instance_norm(x, weight=self.weight, bias=self.bias)
    complete(recipe, folder)


def test_two_processes_teach_themselves_as_one(tmp_path):
    "Augmentation, pseudo labels and their weights are those of each image: a batch may be shared out."
    certain = {"model.gate": 0.0, "model.dropout": 0.0}
    labels = {"model.seg_from": 0.0, "model.sure": 0.9, "model.least": 0.0}  # from the first step on
    steps = {"training.steps": 3, "training.log_every": 1, "optim.name": "sgd", "optim.lr": 1e-3}
    recipe = short("ssss", **SINGLE | certain | labels | steps)
    alone = launch(recipe, tmp_path / "one", complete_image_by_image)
    in_two(recipe, tmp_path / "two", complete_image_by_image)
    alone.join(300)
    (one,), (two,) = (list(RunStore(tmp_path / name)) for name in ("one", "two"))
    assert two.result["training"]["processes"] == 2 and min(r["seg"] for r in one.log()) > 0
    before = torch.cat([p.detach().flatten() for p in recipe.model.build(8, recipe.seed).parameters()])
    a, b = (
        torch.cat([p.flatten() for p in load_model(r, 8).parameters()]).detach() - before for r in (one, two)
    )
    assert (a - b).norm() < 1e-4 * a.norm()


def test_a_run_end_to_end(tmp_path):
    recipe = short("cam+fbr")
    run = run_recipe(recipe, tmp_path, device="cpu", workers=1)
    result = run.result
    data = open_data(DATA)
    assert result["data"]["fingerprint"] == data.fingerprint()
    assert {"torch", "wsss_nb"} <= set(result["versions"])
    assert result["metrics"]["threshold_from"] == "val" and result["metrics"]["miou"] > 0
    assert [r["class"] for r in result["metrics"]["leak_table"]] == data.classes
    assert not (run.path / "checkpoint.safetensors").exists()
    id = data.ids("train")[0]
    cam = load_cam(cam_path(run.path, "train", id))
    assert cam.full().shape == (len(cam.classes), *data.size(id))
    assert load_model(run, len(data.classes)).training is False
    assert load_terms(run, len(data.classes))["fbr"].bank.pushed > 0
    before = (run.path / "result.json").stat().st_mtime_ns
    assert run_recipe(recipe, tmp_path, device="cpu").key == run.key
    assert (run.path / "result.json").stat().st_mtime_ns == before  # the run was not repeated


@pytest.mark.parametrize("threshold", ["fixed", "train-gt"])
def test_threshold_choices(tmp_path, threshold):
    run = run_recipe(short("cam", **{"evaluation.threshold": threshold}), tmp_path, device="cpu", workers=0)
    metrics = run.result["metrics"]
    assert metrics["threshold_from"] == threshold
    if threshold == "train-gt":
        assert metrics["miou"] == pytest.approx(max(metrics["sweep"]["miou"]))
    else:
        assert metrics["threshold"] == pytest.approx(0.3)


def test_a_chain_of_runs(tmp_path):
    "AMN learns from a CAM's pseudo labels, FPR and its control fine-tune the AMN, AdvCAM reuses the CAM's training; none is trained twice."
    few = {"training.steps": 2, "augment.crop": 64, "inference.limit": 2}
    steps = {"start.training.steps": 3, "start.start.training.steps": 4}
    tuned = replace(make_recipe("amn+fpr", DATA, "smoke", overrides=few), steps)
    last = run_recipe(tuned, tmp_path, "cpu", 0)
    store = RunStore(tmp_path)
    runs = {r.recipe.method: r for r in store}
    assert {m: r.recipe.training.steps for m, r in runs.items()} == {"cam": 4, "amn": 3, "amn+fpr": 2}
    assert (runs["cam"].path / "pseudo").is_dir() and last.result["training"]["start"] == runs["amn"].key
    control = run_recipe(tuned.model_copy(update=dict(terms={})), tmp_path, "cpu", 0)
    assert control.result["training"]["start"] == runs["amn"].key and control.key != last.key
    recipe = make_recipe("advcam", DATA, "smoke", overrides=few | {"training.steps": 4})
    climbed = run_recipe(recipe, tmp_path, "cpu", 0)
    assert climbed.result["training"] == runs["cam"].result["training"] and climbed.key != runs["cam"].key
