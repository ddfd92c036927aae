"The command line: quick help, and one clear line for each error of the user."

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from notebooks import ROOT
from PIL import Image
from typer.testing import CliRunner

from wsss_nb.cli import app

BAD = {  # call: words that the error line must contain
    "train --preset smoke --set terms.fbr.lambda_bgg=1 --method cam+fbr": [
        "terms.fbr.lambda_bgg",
        "unknown field",
        "'lambda_bg'",
    ],
    "train --preset smoke --set training.batch_size=zero": ["training.batch_size"],
    "train --preset smoke --set optim.lr=-1": ["optim.lr", "greater than 0"],
    "train --preset smoke --set seed": ["field=value"],
    "train --preset enormous": ["'enormous'", "smoke"],
    "train --method cam+magic": ["'magic'"],
    "train --preset smoke --data folder:no/such/place": ["no/such/place"],
    "train --preset smoke --data imagenet": ["imagenet", "cooccur"],
    "train --preset smoke --device warp": ["warp"],
    "train --recipe no_such_recipe.json": ["no_such_recipe.json"],
    "data check folder:no/such/place": ["no/such/place"],
    "data show cooccur?p=2": ["p"],
    "runs show 0123": ["'0123'"],
    "runs rm 0123": ["'0123'"],
    "cams 0123": ["'0123'"],
    "eval 0123": ["'0123'"],
    "eval 0123 --instances": ["'0123'"],
    "eval 0123 --instances --masks crf": ["--instances does not go with --masks"],
    "eval 0123 --instances --boundary": ["--instances does not go with", "--boundary"],
    "eval --truth a --pred b --instances": ["--instances are for runs"],
    "figure no.such": ["no.such"],
    "figure fbr.t6": ["fbr.t6", "it is a table"],
    "figure fbr.f6": ["fbr.f6", "waits for BoxInst"],
    "figure cams --run": ["--run", "papers' figures"],
    "figure iou --set seed=1 --device cpu": ["--set, --device", "papers' figures"],
    "figure leak 0123 --seeds 2": ["--seeds", "the keys name the runs"],
    "train --recipe r.json --data cooccur --seed 1": ["--data, --seed", "--recipe has its own"],
    "refine crf --images a --masks b --out c --limit 2": ["--limit", "--run only"],
    "eval --truth a --pred b --runs c": ["--runs", "two folders"],
    "table fbr.t66": ["'fbr.t66'", "fbr.t6", "wsss_nb list"],
    "table fbr.f6": ["fbr.f6", "it is a figure"],
    "table fbr.t6 --data imagenet": ["imagenet", "cooccur"],
    "table fbr.t6 --data folder:no/such/place --preset smoke": ["no/such/place"],
    "table fbr.t6 --preset enormous": ["'enormous'", "smoke"],
    "table fbr.t6 --baseline magic": ["'magic'"],
    "table fbr.t6 --preset smoke --set terms.fbr.lambda_bgg=1": ["'lambda_bg'"],
    "table fbr.t6 --preset smoke --set terms.ssc.weight=1": ["terms.ssc.weight", "no row"],
    "table fbr.t6 --data cooccur?n=8 --preset smoke --run --device warp": ["warp"],
    "ablate --over terms.fbr.clusters": ["--over", "clusters=4,8"],
    "ablate --methods cam --over terms.fbr.clusters=4,8": ["terms.fbr.clusters", "none of the methods"],
    "figures --data imagenet": ["imagenet"],
    "app 0123 --no-browser": ["'0123'"],
}


def call(*words):
    "Call the command line in this process."
    return CliRunner().invoke(app, [*map(str, words)])


def shell(*words, cwd=ROOT):
    "Call the command line in another process."
    code = 'from wsss_nb.cli import app; app(prog_name="wsss_nb")'
    return subprocess.run([sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True)


def one_line(code, out, err):
    "Check that the program ended with one line of error; return it."
    problem = (code, out, err)
    assert code == 2, problem
    assert out == "" and err.startswith("wsss_nb: "), problem
    assert err.count("\n") == 1 and "Traceback" not in err, problem
    return err


@pytest.mark.parametrize("typed", BAD)
def test_bad_input_is_one_clear_line(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call(*typed.split())
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    line = one_line(done.exit_code, done.stdout, done.stderr)
    for word in BAD[typed]:
        assert word in line
    assert not list(tmp_path.glob("runs/*/")), "a run was started"


def test_bad_input_in_a_shell(tmp_path):
    done = shell("data", "check", "folder:no/such/place", cwd=tmp_path)
    one_line(done.returncode, done.stdout, done.stderr)


def test_unknown_option_in_a_shell():
    done = shell("train", "--epoch", "3")
    assert done.returncode == 2 and "--epoch" in done.stderr and "Traceback" not in done.stderr


def test_help_is_quick_and_lists_every_command():
    start = time.perf_counter()
    done = shell("--help")
    assert done.returncode == 0 and time.perf_counter() - start < 3  # takes 1 s on an idle machine
    for (
        name
    ) in "train cams eval data runs demo pipeline refine masks list table figure figures ablate app".split():
        assert f"  {name} " in done.stdout


COMMANDS = "train cams eval runs demo pipeline refine masks list table figure figures ablate app".split()
GROUPS = ["data check", "data show", "runs show", "runs rm"]


@pytest.mark.parametrize("command", [*COMMANDS, *GROUPS])
def test_every_command_explains_itself(command):
    done = call(*command.split(), "--help")
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) > 5


def test_a_bug_keeps_its_traceback(monkeypatch):
    from wsss_nb.data import catalog

    def broken(*args, **kwargs):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(catalog, "open_data", broken)
    assert isinstance(call("data", "check", "cooccur").exception, ZeroDivisionError)


PLACES = {  # a command that writes; the option that names the place
    "train --method cam {small}": "--runs",
    "demo --methods cam {small}": "--runs",
    "pipeline --method cam {small}": "--runs",
    "pipeline --method cam {small} --runs runs": "--out",
    "demo --methods cam {small} --runs runs": "--out",
    "ablate --methods cam --run {small}": "--runs",
    "table grid.all --run {small}": "--runs",
    "figure iou --runs {runs}": "--out",
    "figures --all --runs {runs} {plain}": "--out",
    "ablate --methods cam --runs {runs} {plain}": "--out",
    "data show {data}": "--out",
    "eval {key} --runs {runs} --device cpu": "--out x.csv",
    "masks {key} --runs {runs} --device cpu": "--out",
    "refine background --images {folder}/JPEGImages --masks {folder}/SegmentationClass": "--out",
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    "A finished run and its data set as words for a command."
    from wsss_nb.data.base import Split
    from wsss_nb.data.catalog import open_data
    from wsss_nb.data.folder import write_folder

    folder = tmp_path_factory.mktemp("stored")
    drawn = open_data("cooccur?n=8&size=32")
    fields = ("image", "mask")
    write_folder(folder / "set", {s: Split(drawn, s, fields) for s in ("train", "val")}, drawn.classes)
    data = f"folder:{folder / 'set'}"
    plain = f"--data {data} --preset smoke --set training.steps=2"
    small = f"{plain} --device cpu"
    done = call("train", "--method", "cam", *small.split(), "--runs", folder / "runs")
    assert done.exit_code == 0, done.output
    key = next(p.name for p in (folder / "runs").iterdir() if not p.name.startswith("."))
    return dict(small=small, plain=plain, data=data, runs=folder / "runs", key=key, folder=folder / "set")


@pytest.mark.parametrize("typed", PLACES)
def test_a_place_that_cannot_be_written_is_one_line(typed, stored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file where a folder would be: not even root may write below it")
    option, *name = PLACES[typed].split()
    words = [*typed.format(**stored).split(), option, "/".join(["taken", "place", *name])]
    done = call(*words)
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    error = done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("runs/*/")), "work was done for a place that cannot be written"
    assert done.exit_code == 2 and error.startswith("wsss_nb: Cannot ") and "taken" in error, error
    assert error.endswith(f"Name another place with {option}."), error


def test_a_full_disk_is_one_line_and_keeps_what_was_made(stored, tmp_path, monkeypatch):
    from wsss_nb import core

    replace, left = core.os.replace, [3]

    def full(a, b):
        left[0] -= Path(b).suffix == ".npz"
        if left[0] < 0:
            raise OSError(core.errno.ENOSPC, "No space left on device", a)
        replace(a, b)

    words = ["train", "--method", "cam", *stored["small"].split(), "--seed", "1", "--runs", tmp_path / "runs"]
    monkeypatch.setattr(core.os, "replace", full)
    done = call(*words)
    error = done.stderr.splitlines()[-1]
    assert (
        done.exit_code == 2 and "No space left on device" in error and "what was finished is kept" in error
    ), error
    monkeypatch.setattr(core.os, "replace", replace)
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").rglob("*.npz")}
    assert kept, "nothing was made before the disk was full"
    done = call(*words)
    assert done.exit_code == 0, done.output
    assert all(p.stat().st_mtime_ns == t for p, t in kept.items())


def test_a_store_of_somebody_else(stored, tmp_path, monkeypatch):
    "Masks of a run that may only be read: the line says where they would be kept."
    copy = tmp_path / "runs"
    shutil.copytree(stored["runs"], copy)
    refined = copy / stored["key"] / "refined"
    shutil.rmtree(refined, ignore_errors=True)
    refined.write_text("nothing can be made here")
    done = call("masks", stored["key"], "--runs", copy, "--out", tmp_path / "mine", "--device", "cpu")
    assert done.exit_code == 2 and "are kept with their run" in done.stderr and "Copy the run" in done.stderr


def test_files_replaced_in_place_give_another_result(stored, tmp_path):
    "Repaired masks are evaluated anew with the old training; another photograph, or saliency map, is trained on."
    folder, runs = tmp_path / "set", tmp_path / "runs"
    shutil.copytree(stored["folder"], folder)
    words = [
        "train",
        "--method",
        "cam",
        "--data",
        f"folder:{folder}",
        *stored["plain"].split()[2:],
        "--runs",
        runs,
    ]
    seen: dict[str, int] = {}

    def again():  # key of the new run; whether it was trained
        done = call(*words, "--device", "cpu")
        assert done.exit_code == 0, done.output
        (key,) = {p.parent.name for p in runs.glob("*/result.json")} - {*seen}
        weights = (runs / key / "model.safetensors").stat().st_ino
        trained = weights not in seen.values()
        seen[key] = weights
        return key, trained

    def spoil(field):
        file = sorted((folder / field).iterdir())[0]
        shown = Image.open(file)
        changed = Image.fromarray(np.roll(np.asarray(shown), 5, 1))
        if shown.mode == "P":
            changed.putpalette(shown.getpalette())
        changed.save(file)

    first, _ = again()
    assert call(*words, "--device", "cpu").exit_code == 0 and len([*runs.glob("*/result.json")]) == 1
    spoil("SegmentationClass")
    assert again()[1] is False
    line = call("eval", first, "--runs", runs, "--device", "cpu").stderr.splitlines()[-1]
    assert "true masks" in line and "have changed" in line and "trains nothing" in line
    spoil("JPEGImages")
    assert again()[1] is True
    (folder / "Saliency").mkdir()
    for file in (folder / "JPEGImages").iterdir():
        Image.open(file).convert("L").save(folder / "Saliency" / f"{file.stem}.png")
    again()
    spoil("Saliency")
    assert again()[1] is True


def test_no_runs_yet(tmp_path):
    done = call("runs", "--runs", tmp_path / "runs")
    assert done.exit_code == 0 and "No runs" in done.stdout and not (tmp_path / "runs").exists()


SMALL = ["--data", "cooccur?n=8&size=32", "--preset", "smoke"]


def test_list_names_every_table_and_figure():
    lines = call("list").stdout.splitlines()
    ids = {line.split()[0]: line for line in lines}
    assert len(ids) == len(lines)
    numbers = {
        "fbr.t": range(2, 12),
        "fbr.f": [1, *range(4, 14)],
        "fpr.t": range(1, 6),
        "fpr.f": range(3, 9),
        "ssc.t": range(2, 10),
        "ssc.f": range(3, 9),
        "wsfcn.t": range(1, 6),
        "wsfcn.f": [6, 7, 8],
    }
    others = ["grid.all", "cooccur.sweep", "cooccur.leak", "refine.compare", "segment.compare"]
    assert set(ids) == {f"{kind}{i}" for kind, some in numbers.items() for i in some} | set(others)
    runnable = [f"fbr.t{i}" for i in (2, *range(6, 12))]
    runnable += ["fbr.t3", "fpr.t2", "ssc.t3", "ssc.t4", "fbr.f5", "fpr.f4", "ssc.f3", "segment.compare"]
    runnable += ["fpr.t1", "fpr.t5", "fpr.f5", "ssc.t7", "ssc.f6", "grid.all", "fbr.f11", "cooccur.sweep"]
    runnable += ["wsfcn.t1", "wsfcn.t2", "wsfcn.t3", "wsfcn.t4", "wsfcn.f6", "wsfcn.f7"]
    for id in runnable:
        assert ids[id].endswith("yes")
    assert "waits for COCO" in ids["fbr.t4"] and "waits for COCO" in ids["wsfcn.t5"]


def test_table_of_nothing_run(tmp_path):
    "Measured cells stay empty, the number of missing runs and the command are named, and nothing is written."
    folders = ["--runs", tmp_path / "runs", "--out", tmp_path / "out"]
    done = call("table", "fbr.t8", *SMALL, "--seeds", "3", *folders)
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if line.startswith("K = ") and line.endswith("of 3")]
    rows = [line.split() for line in lines]
    assert [r[-5:] for r in rows] == [[v, "–", "0", "of", "3"] for v in ("74.6", "74.8", "75.0", "74.6")]
    assert "Missing: 21 of 21 runs" in done.stdout
    assert "`wsss_nb table fbr.t8 --data 'cooccur?n=8&size=32' --preset smoke --seeds 3 --runs" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_table_that_cannot_run_shows_the_paper():
    done = call("table", "fbr.t4")
    assert done.exit_code == 0
    for words in ("waits for COCO", "45.6", "cited"):
        assert words in done.stdout


def test_missing_figure_says_what_runs_it(tmp_path):
    done = call("figure", "fbr.f11", *SMALL, "--runs", tmp_path)
    line = one_line(done.exit_code, done.stdout, done.stderr)
    assert "Missing: " in line and "wsss_nb figure fbr.f11" in line and "--run" in line


def test_run_a_grid_with_a_failure(tmp_path, monkeypatch):
    "The table is shown and written, the failure is listed with its notebook, and the exit code is 1."
    from wsss_nb.ablate import runner
    from wsss_nb.ablate.execute import Outcome
    from wsss_nb.ablate.plan import plan
    from wsss_nb.run.store import RunStore

    def half(jobs, runs, *_):
        "Stand in for `run_jobs` (see test_ablate): the first job succeeds, the second fails."
        store = RunStore(runs)
        good, bad = plan(jobs, store)
        store.run(good.recipe, "").path.rename(good.run.path)
        good.run.finish(dict(metrics=dict(miou=0.4, precision=0.5, recall=0.6), seconds=dict(total=5.0)))
        return [
            Outcome(good.run.key, "done"),
            Outcome(bad.run.key, "failed", 1.0, "UserError: no\nweights", 8, "runs/KEY/train.ipynb"),
        ]

    monkeypatch.setattr(runner, "run_jobs", half)
    words = ["ablate", "--methods", "cam", "--over", "model.weights=random,none.pth", *SMALL]
    words += ["--runs", tmp_path / "runs", "--out", tmp_path / "out", "--device", "cpu"]
    done = call(*words, "--run")
    assert done.exit_code == 1, done.output
    assert "40.0" in done.stdout and "Missing: 1 of 2 runs" in done.stdout
    assert "failed: cam, weights = none.pth (seed 0), run " in done.stderr
    assert "UserError: no weights" in done.stderr
    assert "cell 8 of runs/KEY/train.ipynb" in done.stderr
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".md", ".csv", ".tex", ".html"}
    again = call(*words, "--workers", 2)
    assert again.exit_code == 0 and "Missing: 1 of 2 runs" in again.stdout
    assert "--workers, --device: no effect without --run" in again.stderr
