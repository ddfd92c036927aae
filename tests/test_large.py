"Photographs larger than what a data set is read at: bounded work, and masks that fit the files."

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from typer.testing import CliRunner

from wsss_nb.cli import app
from wsss_nb.data.catalog import open_data
from wsss_nb.data.folder import write_folder
from wsss_nb.run.presets import SMALL_NETWORK

SETS = [
    *(f"{k}={str(v).lower()}" for k, v in SMALL_NETWORK.items()),
    *("training.steps=2", "training.batch_size=2", "augment.crop=48", "inference.limit=null"),
]


def call(*words):
    "Call `wsss_nb`, which must succeed; return its texts."
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    "A data set of files with 480 x 360 pixels, of which two are turned, and the words that read it at 120."
    drawn = open_data("cooccur?n=8&size=64")
    samples = {}
    for split in ("train", "val"):
        rows = [drawn.load(i, ("image", "mask")) for i in drawn.ids(split)]
        for s in rows:
            s["image"] = tv_tensors.Image(
                torch.nn.functional.interpolate(s["image"][None].float(), (360, 480))[0].byte()
            )
            s["mask"] = tv_tensors.Mask(
                torch.nn.functional.interpolate(s["mask"][None, None].float(), (360, 480))[0, 0].byte()
            )
        samples[split] = rows
    home = write_folder(tmp_path_factory.mktemp("large") / "data", samples, drawn.classes)
    turned = sorted((home / "JPEGImages").iterdir())[:2]
    for file in turned:  # as a telephone stores them: shown upright they are as before
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.open(file).transpose(Image.Transpose.ROTATE_90).save(file, exif=exif, quality=95)
    return f"folder:{home}?longest=120", turned[0].stem


def test_masks_have_the_size_of_the_files(large, tmp_path):
    "Train, refine, hand masks on, learn from them as a folder, export and import: each at its size."
    data, turned = large
    runs = ("--runs", tmp_path / "runs")
    words = ("--data", data, "--preset", "smoke", "--device", "cpu", *runs)
    done = call("train", "--method", "cam", *words, *(w for s in SETS for w in ("--set", s)))
    assert "are longer than 120 pixels: they are read, and scored, at 120" in done.stderr
    (run,) = [p.parent for p in (tmp_path / "runs").glob("*/result.json")]
    said = json.loads((run / "result.json").read_text())["data"]
    opened = open_data(data)
    assert (said["longest"], said["reduced"]) == (120, len(opened.ids("train")) + len(opened.ids("val")))
    with np.load(run / "cams/train" / f"{opened.ids('train')[0]}.npz") as cam:
        assert tuple(cam["size"]) == (90, 120) and max(cam["cam"].shape[1:]) == 30
    chain = ("--chain", "crf?preset=irn")
    call("masks", run.name, *chain, "--out", tmp_path / "masks", *runs, "--device", "cpu")
    sizes = {Image.open(p).size for p in (tmp_path / "masks/SegmentationClass").iterdir()}
    assert sizes == {(480, 360)}
    labels = f"model.labels=folder:{tmp_path / 'masks/SegmentationClass'}"
    call("train", "--method", "deeplab_v2", *words, "--set", labels, *(w for s in SETS for w in ("--set", s)))
    for format in ("png", "irn", "npz"):
        out = tmp_path / format
        call("export", run.name, "--format", format, "--out", out, *runs)
        call("import", out, "--format", format, "--data", data, *runs)
    assert {Image.open(p).size for p in (tmp_path / "png").glob("*.png")} == {(480, 360)}
    assert opened.load(turned)["image"].shape == (3, 90, 120)


def test_a_folder_of_masks_keeps_its_size(large, tmp_path):
    "Masks that are refined without a run come out as large as they went in."
    root = open_data(large[0]).root
    images, masks, out = root / "JPEGImages", root / "SegmentationClass", tmp_path / "out"
    call("refine", "pamr", "--images", images, "--masks", masks, "--out", out, "--device", "cpu")
    assert {Image.open(p).size for p in out.glob("*.png")} == {(480, 360)}
