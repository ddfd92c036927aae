"Run notebooks in their own processes, a few at a time, in a copy of the project: no test writes to the work tree."

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
WORKERS = int(os.environ.get("WSSS_NB_TEST_WORKERS", 2))
TIMEOUT = int(os.environ.get("WSSS_NB_TEST_TIMEOUT", 300))  # seconds for one whole notebook


def library_notebooks():
    "List the notebooks that export a module, as paths below nbs/ without suffix: 'losses/05_fbr'."
    return sorted(
        p.relative_to(NBS).with_suffix("").as_posix()
        for p in NBS.rglob("[0-9]*.ipynb")
        if ".ipynb_checkpoints" not in p.parts
    )


PAGES = ("index", "contributing")  # without parameters


def companions():
    "List the companion notebooks by name: 'train', 'explore'."
    return sorted(p.stem for p in NBS.glob("[a-z]*.ipynb") if p.stem not in PAGES)


def read(path):
    return nbformat.read(path, as_version=4)


def scratch_project(folder):
    "Copy nbs/ and the files beside it, so that relative paths hold (`../..` is this clone's parent)."
    project = folder / "project"
    shutil.copytree(NBS, project / "nbs", ignore=shutil.ignore_patterns(".*", "__pycache__", "runs"))
    for name in ("settings.ini", "Makefile"):
        shutil.copy(ROOT / name, project)
    for name in ("wsss_nb", "tests"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    shared = ROOT.parent / "shared"
    if shared.exists():
        (folder / "shared").symlink_to(shared)
    return project


class Pool:
    """Runs notebooks, each in a fork of a process that has imported the heavy packages (`warm.py`).

    One process works through them beside the other tests. When a test first waits for a notebook, all WORKERS do."""

    def __init__(self, names, folder):
        self.project = scratch_project(folder)
        self.env = dict(
            os.environ,
            OMP_NUM_THREADS="1",
            OMP_WAIT_POLICY="passive",
            PYTHONPATH=str(self.project),
            IPYTHONDIR=str(folder / "ipython"),
            JUPYTER_DATA_DIR=str(folder / "jupyter"),
            PYTHONHASHSEED="0",
        )
        self.seconds = {}  # notebook -> duration
        self.servers = []
        self.idle = Queue()  # servers without a notebook
        self.add_server()
        self.threads = ThreadPoolExecutor(WORKERS)
        self.futures = {name: self.threads.submit(self._run, name) for name in names}

    def add_server(self):
        "Start another process that runs notebooks."
        command = [sys.executable, ROOT / "tests/warm.py", str(TIMEOUT)]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.servers.append(subprocess.Popen(command, env=self.env, cwd=self.project, **pipes))
        self.idle.put(self.servers[-1])

    def wait(self, name):
        "Return '' after the notebook ran through, else a report on the failed cell."
        if not self.futures[name].done():
            while len(self.servers) < WORKERS:
                self.add_server()
        return self.futures[name].result()

    def close(self):
        "Cancel the notebooks that have not started and kill the servers."
        for future in self.futures.values():
            future.cancel()
        for server in self.servers:
            server.kill()
            server.wait()
        self.threads.shutdown(wait=True)

    def _run(self, name):
        server = self.idle.get()
        start = time.perf_counter()
        try:
            print(self.project / "nbs" / f"{name}.ipynb", file=server.stdin, flush=True)
            return json.loads(server.stdout.readline() or f'"{name}: tests/warm.py died"')
        finally:
            self.seconds[name] = time.perf_counter() - start
            self.idle.put(server)
