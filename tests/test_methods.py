"Every recipe of a table or a figure trains one step and parses under every preset."

from functools import cache
from itertools import chain

import pytest
import torch
from PIL import Image

from wsss_nb.data.base import Split, collate
from wsss_nb.data.catalog import open_data
from wsss_nb.data.maps import add_maps
from wsss_nb.data.transforms import train_transform
from wsss_nb.paper.registry import jobs_of, load, runnable
from wsss_nb.pipeline.experiment import with_inputs
from wsss_nb.run.presets import PRESETS
from wsss_nb.run.recipe import identity, replace
from wsss_nb.train.objective import build_objective, make_optimizers

DATA = "cooccur?n=16&size=64"


def all_jobs(preset):
    "List one job of every training that a table or figure needs."
    entries = [e for e in load().values() if runnable(e)]
    jobs = [j for e in entries for j in chain(*jobs_of(e, DATA, preset).values())]
    training = lambda j: identity(
        replace(j.recipe(), {"inference.limit": None})
    )  # the limit changes no training
    return list({training(j): j for j in jobs}.values())


def name(job):
    "Return a test id such as 'cam+fbr,clusters=4'."
    return job.method + "".join(f",{k.split('.')[-1]}={v}" for k, v in job.overrides.items())


@cache
def batch_of(inputs, folder):
    "Load four augmented images with the maps that a method needs; the ground truth replaces a teacher's labels."
    data = open_data(DATA)
    for id in data.ids("train"):
        Image.fromarray(data.load(id, ["mask"])["mask"].numpy()).save(folder / f"{id}.png")
    data = add_maps(data, "pseudo", folder)
    data = with_inputs(data, [i for i in inputs if i != "pseudo"], "train")
    split = Split(data, "train", ("image", *inputs), train_transform(64, (64, 80)))
    return collate([split[0, i] for i in range(4)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pseudo")


@pytest.mark.parametrize("job", all_jobs("smoke"), ids=name)
def test_trains_a_step(job, folder):
    recipe = job.recipe()
    objective = build_objective(recipe, 8).train()
    batch = batch_of(recipe.inputs(), folder)
    for term in objective.terms.values():
        term.start(90, 100)  # late enough for every warm-up
    before = [p.detach().clone() for p in objective.model.parameters()]
    loss, parts = objective(batch)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(v).all() for v in parts.values())
    for optimizer, _ in make_optimizers(objective, recipe.optim):
        optimizer.step()
    after = list(objective.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(torch.isfinite(p).all() for p in objective.parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_every_recipe_parses_under_every_preset(preset):
    assert len(all_jobs(preset)) > 40
