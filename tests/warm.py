"""Run notebooks, each in a fork of a process that has already imported the heavy packages.

A kernel's start and its imports would take half of the time. Reads one path a line from stdin, and answers each with a
line of JSON: '' or the error."""

import importlib
import json
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

HEAVY = (
    "torch",
    "torchvision.transforms.v2",
    "timm",
    "accelerate",
    "numba",
    "pandas",
    "scipy.ndimage",
    "scipy.optimize",
    "sklearn.cluster",
    "sklearn.manifold",
    "skimage.segmentation",
    "matplotlib.pyplot",
    "hypothesis",
    "fastcore.test",
    "pydantic",
    "safetensors.torch",
    "nbformat",
    "tqdm.auto",
    "typer",
    "IPython.core.interactiveshell",
)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def run(path):
    "Run the code cells of a notebook in its folder; return '' or a report on the first cell that failed."
    import nbformat
    from IPython.core.interactiveshell import InteractiveShell

    os.chdir(path.parent)
    sys.path.insert(0, "")
    shell = InteractiveShell.instance()
    for i, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "code":
            done = shell.run_cell(cell.source)
            if (error := done.error_before_exec or done.error_in_exec) is not None:
                text = ANSI.sub("", "".join(traceback.format_exception(error)))
                where = f"{path.name}, cell {i} (id {cell.get('id')})"
                return f"{where} failed:\n{cell.source}\n{'-' * 20}\n{text}"
    return ""


def child(path, answer):
    """Run a notebook in the forked process and write the report to a file.

    It has its own process group, so that its workers can be killed with it, and writes nothing to the parent's streams."""
    os.setsid()
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    try:
        problem = run(path)
    except BaseException:
        problem = f"{path.name} could not be run: {traceback.format_exc()}"
    answer.write_text(json.dumps(problem))
    os._exit(0)


def forked(path, timeout):
    "Call `run` in a forked process and return its report; kill the process and its workers afterwards."
    with tempfile.TemporaryDirectory() as d:
        answer = Path(d) / "answer"
        end = time.monotonic() + timeout
        if not (pid := os.fork()):
            child(path, answer)
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            if time.monotonic() > end:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return f"{path.name} took longer than {timeout} s (see WSSS_NB_TEST_TIMEOUT)"
            time.sleep(0.02)
        try:
            os.killpg(pid, signal.SIGKILL)  # workers that still run
        except ProcessLookupError:
            pass
        return json.loads(answer.read_text()) if answer.exists() else f"{path.name}: its process died"


if __name__ == "__main__":
    for name in HEAVY:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(forked(Path(line.strip()), int(sys.argv[1]))), flush=True)
