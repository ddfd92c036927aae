"""Kernels that start in no time: each is a fork of a process that has imported the heavy packages.

Companions, ablations and pages in the browser need kernels, and imports would take most of their time. `serve` starts
`python kernel.py SOCKET`, which imports and waits, and writes a kernelspec with which Jupyter starts
`python kernel.py SOCKET ipykernel -f FILE`: this asks for a fork and stands for it. A signal to the one reaches the other, and both
end together."""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time

HEAVY = (
    "ipykernel.kernelapp",
    "matplotlib.pyplot",
    "numba",
    "wsss_nb.explore.cams.app",
    "wsss_nb.paper.figures.all",
)


@contextlib.contextmanager
def serve(folder):
    "Yield a folder for JUPYTER_PATH whose `python3` is a warm kernel."
    address = folder / "kernels.sock"
    spec = folder / "kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    command = [sys.executable, __file__, str(address)]
    about = dict(
        argv=[*command, "ipykernel", "-f", "{connection_file}"], display_name="python3", language="python"
    )
    spec.write_text(json.dumps(about))
    server = subprocess.Popen(command)
    try:
        while not address.exists():  # Jupyter would give up a kernel that waits for imports on a busy machine
            assert server.poll() is None, "the process that forks kernels has ended"
            time.sleep(0.1)
        yield folder
    finally:
        server.kill()
        server.wait()


def listen(address):
    "Import the packages, then fork for each connection."
    from processes import HEAVY as MORE

    for name in (*MORE, *HEAVY):
        importlib.import_module(name)
    gc.freeze()  # a fork's collector must not touch, and so copy, what is imported
    server = socket.socket(socket.AF_UNIX)
    server.bind(address + ".new")
    server.listen(64)
    os.rename(address + ".new", address)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that watch
    while True:
        asked, _ = server.accept()
        if os.fork():
            asked.close()
        else:
            server.close()
            watch(asked)


def watch(asked):
    "Fork a kernel as asked, kill it when the asking process ends, and tell that process its end."
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, streams, *_ = socket.recv_fds(asked, 2**20, 3)
    wanted = json.loads(text)
    if not (pid := os.fork()):
        asked.close()
        become(wanted, streams)
    asked.sendall(str(pid).encode())
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if select.select([asked], [], [], 0.05)[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os._exit(0)
    asked.sendall(str(os.waitstatus_to_exitcode(ended[1])).encode())
    os._exit(0)


def become(wanted, streams):
    "Be the kernel: with the environment, folder and streams of the process that asked."
    for i, stream in enumerate(streams):
        os.dup2(stream, i)
    os.setsid()
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.environ.pop("JPY_PARENT_PID", None)  # the parent is another one
    os.chdir(wanted["folder"])
    sys.argv = ["ipykernel_launcher", *wanted["arguments"]]
    sys.path[0] = ""
    from ipykernel.kernelapp import launch_new_instance

    try:
        launch_new_instance()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def ask(address, arguments):
    "Ask for a kernel; pass Ctrl-C on to it; end with it, or with the process that started this one."
    parent = os.getppid()
    server = socket.socket(socket.AF_UNIX)
    server.connect(address)
    wanted = dict(arguments=arguments, environment=dict(os.environ), folder=os.getcwd())
    socket.send_fds(server, [json.dumps(wanted).encode()], [0, 1, 2])
    pid = int(server.recv(64))
    signal.signal(signal.SIGINT, lambda *_: os.kill(pid, signal.SIGINT))
    while not select.select([server], [], [], 1)[0]:
        if os.getppid() != parent:
            sys.exit(1)
    code = int(server.recv(64) or 1)
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    address, *arguments = sys.argv[1:]
    ask(address, arguments[1:]) if arguments else listen(address)
