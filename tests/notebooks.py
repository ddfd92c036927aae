"Run notebooks in their own processes, in a copy of the project: no test writes to the work tree."

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
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


class Server:
    "Runs notebooks one after the other, each in a fork of a process that has imported the heavy packages (`warm.py`)."

    def __init__(self, folder):
        self.project = scratch_project(folder)
        env = dict(
            os.environ,
            OMP_NUM_THREADS="1",
            OMP_WAIT_POLICY="passive",
            PYTHONPATH=str(self.project),
            IPYTHONDIR=str(folder / "ipython"),
            JUPYTER_DATA_DIR=str(folder / "jupyter"),
            PYTHONHASHSEED="0",
        )
        command = [sys.executable, ROOT / "tests/warm.py", str(TIMEOUT)]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.process = subprocess.Popen(command, env=env, cwd=self.project, **pipes)

    def run(self, name):
        "Return '' after the notebook ran through, else a report on the failed cell."
        print(self.project / "nbs" / f"{name}.ipynb", file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline() or f'"{name}: tests/warm.py died"')

    def close(self):
        self.process.kill()
        self.process.wait()
