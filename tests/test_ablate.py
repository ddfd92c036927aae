"The ablation runner under stress: killed processes, many kernels, Ctrl-C, a failing run, workers on other machines."

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from notebooks import ROOT
from processes import start

from wsss_nb.ablate.execute import execute
from wsss_nb.ablate.plan import Job, grid, missing, plan
from wsss_nb.ablate.runner import cluster, follow, run_jobs, tasks
from wsss_nb.data.catalog import open_data
from wsss_nb.data.folder import write_folder
from wsss_nb.pipeline.experiment import run_recipe
from wsss_nb.run.presets import SMALL_NETWORK
from wsss_nb.run.store import RunStore

pytestmark = pytest.mark.usefixtures("warm_kernels")
TINY = dict(
    data="cooccur?n=24&size=64",
    preset="smoke",
    overrides={"training.steps": 12, "training.log_every": 1, "augment.crop": 64, "inference.limit": 4},
)


@pytest.fixture(scope="module")
def jobs(request):
    "Two methods and two seeds; with --long two more."
    more = 3 if request.config.getoption("--long") else 1
    return grid(["cam"], seeds=2, **TINY) + grid(["cam+fbr"], seeds=more, **TINY)


@pytest.fixture(scope="module")
def calm(tmp_path_factory, jobs):
    "The results of the jobs, executed in this process, without runner, workers and kernels."
    store = tmp_path_factory.mktemp("calm")
    data = open_data(TINY["data"])
    for planned in plan(jobs, RunStore(store)):
        run_recipe(planned.recipe, store, "cpu", 0, data)
    return results(store)


def run_all(jobs, store, workers):
    "Run jobs in a session of its own; the exit status is the number of those that failed."
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it otherwise
    outcomes = run_jobs(jobs, store, workers=workers, device="cpu", progress=False)
    sys.exit([o.status for o in outcomes].count("failed"))


def begin(jobs, store, workers=2):
    "Run jobs in another process; it writes to `said.txt` beside the store."
    return start(run_all, jobs, store, workers, output=store.parent / "said.txt")


def ended(runner, patience=600):
    "Wait for a runner; return its exit status."
    runner.join(patience)
    return runner.exitcode


def family(runner):
    "Return the worker processes of a runner, and their kernels."

    def running(word, found):
        return [p for p in found if any(word in part for part in p.cmdline())]

    try:
        workers = running("spawn_main", psutil.Process(runner.pid).children())
        return workers, running("ipykernel", [k for w in workers for k in w.children()])
    except psutil.NoSuchProcess:
        return [], []


def results(store):
    "Return the metrics of each finished run as text."
    return {r.key: json.dumps(r.result["metrics"], sort_keys=True) for r in RunStore(store) if r.done}


def finished(store):
    "Return the time at which each result was written."
    return {p.parent.name: p.stat().st_mtime_ns for p in Path(store).glob("*/result.json")}


def leftovers(store, patience=30):
    "Find processes that still work on a store; a kernel whose parent was killed needs some seconds to end."
    end = time.monotonic() + patience
    while (found := at_work(store)) and time.monotonic() < end:
        time.sleep(0.5)
    return found


def at_work(store):
    "Find processes that name the store in their command line or have a file of it open."
    found = []
    for p in psutil.process_iter(["cmdline"]):
        try:
            texts = [*(p.info["cmdline"] or ()), *(f.path for f in p.open_files())]
            if any(str(store) in text for text in texts):
                found.append(p)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
    return found


@pytest.mark.xdist_group("ablate")  # with the other test that needs `calm`
def test_killed_at_random_moments(tmp_path, jobs, calm, request):
    "After kills of the runner, workers and kernels, the results equal the undisturbed ones; no run is done twice."
    kills = 20 if request.config.getoption("--long") else 3
    rng = random.Random(0)
    found = {json.loads(metrics)["miou"] for metrics in calm.values()}
    assert len(found) == len(jobs)  # equal numbers below say something: every method and seed has its own
    store = tmp_path / "killed"
    seen = {}
    done = dict(runner=0, worker=0, kernel=0)  # kills of each
    runner = begin(jobs, store)
    while sum(done.values()) < kills:
        time.sleep(rng.uniform(0.5, 6))
        now = finished(store)
        assert {k: v for k, v in now.items() if k in seen} == seen  # no result is ever written again
        seen = now
        if not runner.is_alive():  # all runs are finished: remove one and start again
            if len(seen) == len(jobs):
                gone = rng.choice(sorted(seen))
                RunStore(store).remove(gone)
                del seen[gone]
            runner = begin(jobs, store)
            continue
        victim = rng.choice([v for v in done if done[v] == min(done.values())])
        workers, kernels = family(runner)
        target = {"runner": [runner], "worker": workers, "kernel": kernels}[victim]
        if target:
            rng.choice(target).kill()
            done[victim] += 1
    runner.kill()
    runner.join()
    assert ended(begin(jobs, store)) == 0
    assert results(store) == calm and len(calm) == len(jobs)
    for run in RunStore(store):
        steps = [row["step"] for row in run.log()]
        assert steps == sorted(set(steps)), f"{run.key}: a step was logged twice"
        assert not list(run.path.rglob(".*")), "an incomplete file was left"
    assert not leftovers(store)


def test_ctrl_c_stops_at_a_checkpoint(tmp_path):
    "Ctrl-C reaches all processes: runs write a checkpoint, no process is left, and the same call resumes."
    long = TINY | {"overrides": TINY["overrides"] | SMALL_NETWORK | {"training.steps": 150}}
    job = Job(method="cam", seed=0, **long)
    runner = begin([job], tmp_path / "runs", 1)
    log = None
    while not (log and log.stat().st_size):  # a checkpoint needs a first step
        time.sleep(0.3)
        log = next((tmp_path / "runs").glob("*/log.jsonl"), None)
        assert runner.is_alive(), (tmp_path / "said.txt").read_text()
    os.killpg(runner.pid, signal.SIGINT)
    assert ended(runner, 60) == 1
    assert "Run the same command again to resume" in (tmp_path / "said.txt").read_text()
    run = next(iter(RunStore(tmp_path / "runs")))
    reached = len(run.log())
    assert (run.path / "checkpoint.safetensors").exists() and not run.done and reached < 150
    assert not leftovers(tmp_path / "runs")
    assert ended(begin([job], tmp_path / "runs", 1)) == 0 and len(run.log()) == 150


def test_many_kernels_at_once(tmp_path, request):
    "No execution fails because many kernels start at once, or because Ctrl-C reaches the workers."
    n = 64 if request.config.getoption("--long") else 16
    cells = [
        nbformat.v4.new_code_cell("number = 0", metadata=dict(tags=["parameters"])),
        nbformat.v4.new_code_cell("number ** 2"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "source.ipynb")
    with cluster(8, device="cpu") as client:
        client.run(lambda: os.kill(os.getpid(), signal.SIGINT))  # Ctrl-C in a terminal ends no worker
        source = tmp_path / "source.ipynb"
        futures = [
            client.submit(execute, source, dict(number=i), tmp_path / f"{i}.ipynb", attempts=1)
            for i in range(n)
        ]
        assert [f.result() for f in futures] == [{"status": "done"}] * n
    executed = [nbformat.read(tmp_path / f"{i}.ipynb", 4) for i in range(n)]
    squares = [nb.cells[-1].outputs[0].data["text/plain"] for nb in executed]
    assert squares == [str(i**2) for i in range(n)]


def test_a_failing_run_is_a_row(tmp_path, monkeypatch):
    "The other run is finished; the outcome of the failed one names the error, the cell and the executed notebook."
    drawn = open_data("cooccur?n=24&size=64")
    samples = {s: [drawn.load(i, ["image", "mask"]) for i in drawn.ids(s)] for s in ("train", "val")}
    folder = write_folder(tmp_path / "data", samples, drawn.classes)
    picture = next((folder / "JPEGImages").iterdir())
    picture.write_bytes(picture.read_bytes()[:-300])  # truncated: found when it is decoded
    monkeypatch.chdir(tmp_path)
    jobs = [Job(**TINY | {"data": "folder:data"}), Job(**TINY)]  # the path is relative to this folder
    bad, good = run_jobs(jobs, tmp_path / "runs", 2, device="cpu", progress=False)
    assert (good.status, bad.status) == ("done", "failed")
    assert "UserError" in bad.error and picture.name in bad.error
    cell = nbformat.read(bad.notebook, 4).cells[bad.cell]
    assert any(o.output_type == "error" for o in cell.outputs)


@pytest.mark.xdist_group("ablate")
def test_workers_that_do_not_see_the_store(tmp_path, jobs, calm):
    "Workers in folders of their own send the results back; models and CAMs stay with them."
    jobs = [jobs[0], jobs[2]]  # of each method one
    file = tmp_path / "address"
    started = []

    def run(module, options, folder):
        "Start a scheduler or a worker."
        command = [sys.executable, "-m", module, "--host", "127.0.0.1", "--no-dashboard"]
        command += ["--scheduler-file", str(file), *options.split()]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        started.append(subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL))

    try:
        run("distributed.cli.dask_scheduler", "--port 0", tmp_path)
        while not file.exists():
            time.sleep(0.2)
        for node in ("node1", "node2"):
            (tmp_path / node).mkdir()
            run("distributed.cli.dask_worker", "--nthreads 1", tmp_path / node)
        address = json.loads(file.read_text())["address"]
        store = RunStore(tmp_path / "runs")
        todo = missing(plan(jobs, store))
        with cluster(1, address) as client:
            client.wait_for_workers(2)
            work = tasks(todo, store, "cpu", 1, "a store that nobody sees")
            outcomes = follow(client, work, todo, store, progress=False)
    finally:
        for p in reversed(started):
            p.terminate()
            p.wait(20)
    assert [o.status for o in outcomes.values()] == ["done", "done"]
    assert list(tmp_path.glob("node*/runs/*/model.safetensors"))
    found = results(tmp_path / "runs")
    assert len(found) == 2 and found.items() <= calm.items()
    assert not list((tmp_path / "runs").glob("*/model.safetensors"))
