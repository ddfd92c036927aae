"The ablation runner under force: killed processes, many kernels, Ctrl-C, a failing run, workers on other machines."

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
from notebooks import ROOT

from wsss_nb.ablate.execute import execute
from wsss_nb.ablate.plan import Job, grid, missing, plan
from wsss_nb.ablate.runner import cluster, follow, run_jobs, tasks
from wsss_nb.data.catalog import open_data
from wsss_nb.data.folder import write_folder
from wsss_nb.run.store import RunStore

TINY = dict(
    data="cooccur?n=24&size=64",
    preset="smoke",
    overrides={"training.steps": 12, "training.log_every": 1, "augment.crop": 64, "inference.limit": 4},
)
RUNNER = """
import json, signal, sys
from wsss_nb.ablate.plan import Job
from wsss_nb.ablate.runner import run_jobs
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)   # a shell's background jobs inherit that it is ignored
    jobs = [Job(**j) for j in json.loads(sys.argv[1])]
    outcomes = run_jobs(jobs, sys.argv[2], workers=int(sys.argv[3]), device="cpu", progress=False)
    sys.exit([o.status for o in outcomes].count("failed"))
"""


def start(jobs, store, workers=2):
    command = [
        sys.executable,
        "-c",
        RUNNER,
        json.dumps([j.model_dump() for j in jobs]),
        str(store),
        str(workers),
    ]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def processes(runner):
    "Worker processes of a runner, and their kernels."
    try:
        children = psutil.Process(runner.pid).children()
        workers = [p for p in children if any("spawn_main" in part for part in p.cmdline())]
        return workers, [
            k for w in workers for k in w.children() if any("ipykernel" in part for part in k.cmdline())
        ]
    except psutil.NoSuchProcess:
        return [], []


def results(store):
    "Metrics of each run: what a table is made of."
    return {r.key: json.dumps(r.result["metrics"], sort_keys=True) for r in RunStore(store) if r.done}


def finished(store):
    "When each result was written."
    return {p.parent.name: p.stat().st_mtime_ns for p in Path(store).glob("*/result.json")}


def leftovers(store, patience=30):
    "Processes that still work on a store; a kernel whose parent was killed has some seconds to end itself."
    end = time.monotonic() + patience
    while (found := at_work(store)) and time.monotonic() < end:
        time.sleep(0.5)
    return found


def at_work(store):
    found = []
    for p in psutil.process_iter(["cmdline"]):
        try:
            if any(str(store) in part for part in p.info["cmdline"] or ()) or any(
                str(store) in f.path for f in p.open_files()
            ):
                found.append(p)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
    return found


def test_killed_at_random_moments(tmp_path, request):
    "Runner, worker or kernel killed: the table is complete and equal to the undisturbed one, no run done twice."
    kills, rng = (20 if request.config.getoption("--long") else 3), random.Random(0)
    jobs = grid(["cam", "cam+fbr"], seeds=3 if kills > 3 else 1, **TINY)
    assert start(jobs, tmp_path / "calm").wait(600) == 0
    store, seen, done = tmp_path / "killed", {}, dict.fromkeys(("runner", "worker", "kernel"), 0)
    runner = start(jobs, store)
    while sum(done.values()) < kills:
        time.sleep(rng.uniform(0.5, 6))
        assert {
            k: v for k, v in finished(store).items() if k in seen
        } == seen  # nothing finished is ever written again
        seen = finished(store)
        if runner.poll() is not None:  # all are done: take one away and go on
            if len(seen) == len(jobs):
                gone = rng.choice(sorted(seen))
                RunStore(store).remove(gone)
                del seen[gone]
            runner = start(jobs, store)
            continue
        victim = rng.choice([v for v in done if done[v] == min(done.values())])
        workers, kernels = processes(runner)
        target = {"runner": [runner], "worker": workers, "kernel": kernels}[victim]
        if target:
            rng.choice(target).send_signal(signal.SIGKILL)
            done[victim] += 1
    runner.kill()
    runner.wait()
    assert start(jobs, store).wait(600) == 0
    assert results(store) == results(tmp_path / "calm") and len(results(store)) == len(jobs)
    for run in RunStore(store):
        steps = [row["step"] for row in run.log()]
        assert steps == sorted(set(steps)), f"{run.key}: a step was logged twice"
        assert not list(run.path.rglob(".*")), "something half-written was left behind"
    assert not leftovers(store)


def test_ctrl_c_stops_at_a_checkpoint(tmp_path):
    "Ctrl-C reaches the whole terminal; runs write a checkpoint, no process is left, the same call goes on."
    long = TINY | {"overrides": TINY["overrides"] | {"training.steps": 150}}
    runner = start([Job(method="cam", seed=0, **long)], tmp_path / "runs", 1)
    log = None
    while not (log and log.stat().st_size):  # a first step, which a checkpoint can be of
        time.sleep(0.3)
        log = next((tmp_path / "runs").glob("*/log.jsonl"), None)
        assert runner.poll() is None, runner.stdout.read()
    os.killpg(runner.pid, signal.SIGINT)
    output, _ = runner.communicate(timeout=60)
    assert runner.returncode != 0 and "Run the same command again to resume" in output
    run = next(iter(RunStore(tmp_path / "runs")))
    reached = len(run.log())
    assert (run.path / "checkpoint.safetensors").exists() and not run.done and reached < 150
    assert not leftovers(tmp_path / "runs")
    again = start([Job(method="cam", seed=0, **long)], tmp_path / "runs", 1)
    assert again.wait(300) == 0 and len(run.log()) == 150


def test_many_kernels_at_once(tmp_path, request):
    "No execution is lost to kernel start-up."
    n = 64 if request.config.getoption("--long") else 16
    cells = [
        nbformat.v4.new_code_cell("number = 0", metadata=dict(tags=["parameters"])),
        nbformat.v4.new_code_cell("number ** 2"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "source.ipynb")
    with cluster(8, device="cpu") as client:
        futures = [
            client.submit(
                execute, tmp_path / "source.ipynb", dict(number=i), tmp_path / f"{i}.ipynb", attempts=1
            )
            for i in range(n)
        ]
        assert [f.result() for f in futures] == [{"status": "done"}] * n
    squares = [
        nbformat.read(tmp_path / f"{i}.ipynb", 4).cells[-1].outputs[0].data["text/plain"] for i in range(n)
    ]
    assert squares == [str(i**2) for i in range(n)]


def test_a_failing_run_is_a_row(tmp_path, monkeypatch):
    "The others are finished; the outcome names error, cell and executed notebook. A relative path is one from here."
    drawn = open_data("cooccur?n=24&size=64")
    samples = {s: [drawn.load(i, ["image", "mask"]) for i in drawn.ids(s)] for s in ("train", "val")}
    folder = write_folder(tmp_path / "data", samples, drawn.classes)
    picture = next((folder / "JPEGImages").iterdir())
    picture.write_bytes(picture.read_bytes()[:-300])  # truncated: found when it is decoded
    monkeypatch.chdir(tmp_path)
    bad, good = run_jobs(
        [Job(**TINY | {"data": "folder:data"}), Job(**TINY)],
        tmp_path / "runs",
        2,
        device="cpu",
        progress=False,
    )
    assert (
        (good.status, bad.status) == ("done", "failed")
        and "UserError" in bad.error
        and picture.name in bad.error
    )
    cell = nbformat.read(bad.notebook, 4).cells[bad.cell]
    assert any(o.output_type == "error" for o in cell.outputs)


def test_workers_that_do_not_see_the_store(tmp_path):
    "Separate scheduler and workers, each in a folder of its own: the result comes back, model and CAMs stay there."
    jobs, folders = grid(["cam", "cam+fbr"], **TINY), [tmp_path / "node1", tmp_path / "node2"]
    environment, python = os.environ | {"PYTHONPATH": str(ROOT)}, [sys.executable, "-m"]
    scheduler = subprocess.Popen(
        [
            *python,
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(tmp_path / "address"),
        ],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    started = [scheduler]
    try:
        while not (tmp_path / "address").exists():
            time.sleep(0.2)
        for folder in folders:
            folder.mkdir()
            command = [
                *python,
                "distributed.cli.dask_worker",
                "--scheduler-file",
                str(tmp_path / "address"),
                "--nthreads",
                "1",
                "--no-dashboard",
            ]
            started.append(
                subprocess.Popen(
                    [*command, "--host", "127.0.0.1"], cwd=folder, env=environment, stderr=subprocess.DEVNULL
                )
            )
        address, store = (
            json.loads((tmp_path / "address").read_text())["address"],
            RunStore(tmp_path / "runs"),
        )
        todo = missing(plan(jobs, store))
        with cluster(1, address) as client:
            client.wait_for_workers(2)
            outcomes = follow(
                client, tasks(todo, store, "cpu", 1, "a store that nobody sees"), todo, store, progress=False
            )
    finally:
        for p in reversed(started):
            p.terminate()
            p.wait(20)
    assert [o.status for o in outcomes.values()] == ["done", "done"]
    assert (
        sorted(p.parents[1].name for p in tmp_path.glob("node*/runs/*") if (p / "model.safetensors").exists())
        != []
    )
    run_jobs(jobs, tmp_path / "here", 2, device="cpu", progress=False)
    assert results(tmp_path / "runs") == results(tmp_path / "here")
    assert not list((tmp_path / "runs").glob("*/model.safetensors"))
