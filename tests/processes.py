"Call functions in processes of their own, and kill these: for the tests of work that is interrupted."

import multiprocessing
import os
import signal
import sys
import time

# Imported once; the rest of a process's life is a fork of that
HEAVY = ("wsss_nb.cli", "wsss_nb.pipeline.stages", "torchvision.transforms.v2", "timm", "accelerate")


def start(function, *arguments, output=os.devnull, **environment):
    """Call a function of a module in a fork of a process that has imported the heavy packages.

    What it writes to stdout and stderr is appended to the file `output`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*HEAVY])
    process = context.Process(target=redirected, args=(function, arguments, str(output), environment))
    process.start()
    return process


def redirected(function, arguments, output, environment):
    "Call a function with stdout and stderr in a file."
    os.environ.update(environment)
    with open(output, "a") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    function(*arguments)


def kill_when(ready, process, patience=120, pause=0.002, later=0.0):
    "Kill -9 a process some seconds after something is ready; return whether it was killed (and had not ended before)."
    end = time.monotonic() + patience
    while process.is_alive() and not ready():
        assert time.monotonic() < end, "nothing to kill it at"
        time.sleep(pause)
    time.sleep(later)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL
