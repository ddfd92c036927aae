"A refinement network whose training was killed and resumed ends with the same weights, bit for bit."

import signal
import subprocess
import sys

from safetensors.torch import load_file

SCRIPT = """
import os, sys, torch
from pathlib import Path
from torch import nn
from wsss_nb.refine.parts.fit import FitSchedule, fit
calls = iter(range(10**6))
def load(id, generator): return {"x": torch.randn(4, generator=generator), "y": torch.tensor([float(id) % 2])}
def loss(net, batch):
    if next(calls) == int(sys.argv[2]): os.kill(os.getpid(), 9)
    return {"loss": nn.functional.mse_loss(net(batch["x"]), batch["y"])}
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(.3), nn.Linear(8, 1))
fit(net, [str(i) for i in range(12)], load, loss, Path(sys.argv[1]), FitSchedule(epochs=4, batch_size=4, lr=.01))
"""


def train(folder, kill=-1):
    "Train in another process, which kills itself at step `kill`; return the exit code."
    call = [sys.executable, "-c", SCRIPT, str(folder), str(kill)]
    return subprocess.run(call, capture_output=True, timeout=120).returncode


def test_kill_and_resume(tmp_path):
    assert train(tmp_path / "whole") == 0
    assert train(tmp_path / "killed", 7) == -signal.SIGKILL  # the checkpoint is of step 6
    assert (tmp_path / "killed/checkpoint.safetensors").exists()
    assert not (tmp_path / "killed/model.safetensors").exists()
    assert train(tmp_path / "killed") == 0
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all((whole[k] == resumed[k]).all() for k in whole) and set(whole) == set(resumed)
    assert not list((tmp_path / "killed").glob(".*"))
