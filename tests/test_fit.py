"A refinement network whose training was killed and resumed ends with the same weights, bit for bit."

import os
import signal
from itertools import count

import torch
from processes import start
from safetensors.torch import load_file
from torch import nn

from wsss_nb.refine.parts.fit import FitSchedule, fit


def load(id, generator):
    "Draw an example."
    return {"x": torch.randn(4, generator=generator), "y": torch.tensor([float(id) % 2])}


def train(folder, kill):
    "Train for 12 steps; the process kills itself in step `kill`."
    step = count()

    def loss(net, batch):
        if next(step) == kill:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"loss": nn.functional.mse_loss(net(batch["x"]), batch["y"])}

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
    schedule = FitSchedule(epochs=4, batch_size=4, lr=0.01)
    fit(net, [str(i) for i in range(12)], load, loss, folder, schedule)


def trained(folder, kill=-1):
    "Train in another process and return its exit code."
    process = start(train, folder, kill)
    process.join(120)
    return process.exitcode


def test_kill_and_resume(tmp_path):
    assert trained(tmp_path / "whole") == 0
    assert trained(tmp_path / "killed", 7) == -signal.SIGKILL  # the checkpoint is of step 6
    assert (tmp_path / "killed/checkpoint.safetensors").exists()
    assert not (tmp_path / "killed/model.safetensors").exists()
    assert trained(tmp_path / "killed") == 0
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert all((whole[k] == resumed[k]).all() for k in whole) and set(whole) == set(resumed)
    assert not list((tmp_path / "killed").glob(".*"))
