"Refinement end to end: killed at random moments, two processes at a time, on folders of masks, in tables."

import json
import os
import random
import signal
import time

import numpy as np
import pytest
from PIL import Image
from processes import start
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from wsss_nb.cams import CachedCam, cam_path, chosen_ids, save_cam
from wsss_nb.cli import app
from wsss_nb.data.catalog import open_data
from wsss_nb.data.folder import write_folder
from wsss_nb.pipeline.folders import refine_folder
from wsss_nb.pipeline.masks import read_log, refine_run, refined
from wsss_nb.run.presets import make_recipe
from wsss_nb.run.store import RunStore

DATA = "cooccur?n=60&size=48"
CHAIN = "slow?seconds=0.03,background?score=0.5"


def made_up(store, limit=40):
    "Write a finished run whose CAMs are blurred ground truth."
    data = open_data(DATA)
    run = RunStore(store).run(
        make_recipe("cam", DATA, "smoke", overrides={"inference.limit": limit}), data.fingerprint()
    )
    for split in ("train", "val"):
        for id in chosen_ids(data, split, limit):
            sample = data.load(id, ["mask"])
            present = np.flatnonzero(sample["labels"])
            objects = (sample["mask"].numpy() == present[:, None, None] + 1).astype(np.float32)
            cam = gaussian_filter(objects, (0, 3, 3))
            cam /= cam.max((1, 2), keepdims=True) + 1e-5
            cached = CachedCam(present, cam, (48, 48), np.zeros(8), np.zeros(8))
            save_cam(cam_path(run.path, split, id), cached)
    run.finish(
        dict(
            metrics=dict(threshold=0.4, threshold_from="val", miou=0.5, split="train"),
            seconds=dict(total=1.0),
            data=dict(name=DATA, fingerprint=data.fingerprint()),
        )
    )
    return run


@pytest.fixture
def slow():
    "The module of the step `slow`, which its import registers."
    import slow

    return slow


def state(folder):
    "Return the time of writing and the bytes of every mask in a folder, by name."
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("[!.]*.png")}


def contents(folder):
    "Return the bytes of every mask in a folder, by name."
    return {name: content for name, (_, content) in state(folder).items()}


def killed(begin, folder, total, kills, rng):
    """Kill a process at random moments and begin it again, until all masks are written.

    A written mask must never change. Returns the number of masks after each kill."""
    seen, left = {}, []
    process = begin()
    while True:
        before = len(state(folder))
        wait = rng.randint(1, max(2, total // (kills + 1)))
        while process.is_alive() and len(state(folder)) < before + wait:
            time.sleep(0.002)
        if process.is_alive() and kills:
            time.sleep(rng.uniform(0, 0.03))
            process.kill()
            process.join()
            kills -= 1
            now = state(folder)
            assert {k: now[k] for k in seen} == seen, "a finished mask was lost or written again"
            for p in folder.rglob("[!.]*.png"):
                Image.open(p).load()  # no file is incomplete
            seen = now
            process = begin()
            left.append(len(now))
        elif not process.is_alive():
            assert process.exitcode == 0
            now = state(folder)
            assert {k: now[k] for k in seen} == seen
            return left


def test_killed_during_a_batch(tmp_path, slow, request):
    "kill -9 at random moments: no mask is lost, incomplete or made twice, and the result is the same."
    kills = 20 if request.config.getoption("--long") else 3
    calm = made_up(tmp_path / "calm")
    run = made_up(tmp_path / "killed")
    whole = refine_run(calm, CHAIN, device="cpu", workers=2)
    out = refined(run, CHAIN)
    folder = out.path / "masks/train"
    left = killed(
        lambda: start(slow.in_store, tmp_path / "killed", CHAIN), folder, 36, kills, random.Random(0)
    )
    done = contents(folder)
    assert any(0 < n < len(done) for n in left), "never killed in the middle"
    assert done == contents(whole.path / "masks/train")
    a, b = whole.result("train"), out.result("train")
    assert json.dumps(a["metrics"]) == json.dumps(b["metrics"]) and a["images"] == b["images"] == len(done)
    ids = [row["id"] for row in read_log(out.path / "log.jsonl") if "id" in row]
    assert len(ids) == len(set(ids)), "an image was refined twice"
    assert not list(out.path.rglob(".*")), "an incomplete file was left"


def test_killed_in_folders(tmp_path, slow):
    data = open_data(DATA)
    samples = [data.load(i, ["image", "mask"]) for i in data.ids("train")[:30]]
    made = write_folder(tmp_path / "data", {"train": samples}, data.classes)
    folders = (made / "JPEGImages", made / "SegmentationClass")
    calm = refine_folder(*folders, "slow", tmp_path / "calm", "cpu", 2)
    arguments = (*folders, "slow?seconds=0.03", tmp_path / "out")
    killed(lambda: start(slow.in_folders, *arguments), tmp_path / "out", 30, 1, random.Random(1))
    assert contents(tmp_path / "out") == contents(calm)
    ids = [row["id"] for row in read_log(tmp_path / "out/log.jsonl") if "id" in row]
    assert len(ids) == len(set(ids)) and not list((tmp_path / "out").glob(".*"))


def test_two_at_once_do_the_work_once(tmp_path, slow):
    "The second process waits, then finds everything done."
    run = made_up(tmp_path / "runs")
    said = [tmp_path / f"{i}.txt" for i in range(2)]
    both = [start(slow.in_store, tmp_path / "runs", "slow?seconds=0.1", output=file) for file in said]
    for p in both:
        p.join(120)
    errors = [file.read_text() for file in said]
    assert [p.exitcode for p in both] == [0, 0], errors
    rows = read_log(refined(run, "slow?seconds=0.1").path / "log.jsonl")
    ids = [r["id"] for r in rows if "id" in r]
    assert len(ids) == len(set(ids)) and sum("build" in r for r in rows) == 1
    assert sum("waiting for it" in e for e in errors) == 1


def test_ctrl_c_keeps_what_is_done(tmp_path, slow):
    run = made_up(tmp_path / "runs")
    said = tmp_path / "said.txt"
    process = start(slow.in_store, tmp_path / "runs", "slow?seconds=0.3", output=said)
    folder = refined(run, "slow?seconds=0.3").path
    deadline = time.monotonic() + 60
    while len(state(folder)) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    began = time.monotonic()
    process.join(30)
    errors = said.read_text()
    assert process.exitcode == 1 and "KeyboardInterrupt" in errors and time.monotonic() - began < 10
    kept = state(folder)
    assert 4 <= len(kept) < 36
    assert not list(folder.rglob(".*"))
    assert refined(run, "slow?seconds=0.3").result("train") is None
    refine_run(run, "slow?seconds=0.3", device="cpu", workers=8)
    assert {k: v for k, v in state(folder).items() if k in kept} == kept


def call(*words):
    "Call the command line."
    return CliRunner().invoke(app, [*map(str, words)])


def test_a_bad_image_is_named_and_the_others_are_kept(tmp_path, slow):
    run = made_up(tmp_path / "runs")
    ids = chosen_ids(open_data(DATA), "train", 40)
    no_class = np.zeros((0, 3, 3), np.float16)
    too_small = CachedCam(np.zeros(0, int), no_class, (5, 5), np.zeros(8), np.zeros(8))
    save_cam(cam_path(run.path, "train", ids[20]), too_small)
    done = call("refine", "slow", "--run", run.key, "--runs", tmp_path / "runs", "--device", "cpu")
    assert done.exit_code == 2 and ids[20] in done.stderr and done.stderr.strip().count("wsss_nb:") == 1


BAD = {
    "refine crff --run 0123": ["'crff'", "'crf'"],
    "refine pamr?iteration=3 --run 0123": ["'iterations'"],
    "refine pamr?iterations=-1 --run 0123": ["pamr.iterations"],
    "refine pamr --run 0123": ["'0123'"],
    "refine pamr": ["--run", "--images"],
    "refine pamr --images a --masks b": ["--out"],
    "refine pamr --run 0123 --images a --masks b --out c": ["--run"],
    "refine pamr --images no/a --masks no/b --out c": ["no/a", "no/b"],
    "masks 0123": ["'0123'"],
    "masks 0123 --chain background?score=high": ["background.score"],
    "figure refine.compare --data cooccur?n=8&size=32 --preset smoke": ["Missing: 1 of 1", "--refine"],
}


@pytest.mark.parametrize("typed", BAD)
def test_bad_input_is_one_clear_line(typed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call(*typed.split())
    assert done.exit_code == 2 and done.stdout == "", (done.stdout, done.exception)
    assert done.stderr.startswith("wsss_nb: ") and done.stderr.count("\n") == 1
    for word in BAD[typed]:
        assert word in done.stderr
    assert not any(tmp_path.iterdir()), "a file was written"


def test_folders_that_do_not_fit_are_one_error(tmp_path):
    data = open_data(DATA)
    samples = [data.load(i, ["image", "mask"]) for i in data.ids("train")[:4]]
    made = write_folder(tmp_path / "data", {"train": samples}, data.classes)
    images = made / "JPEGImages"
    masks = made / "SegmentationClass"
    out = tmp_path / "out"
    names = sorted(p.stem for p in masks.iterdir())
    (images / f"{names[0]}.jpg").unlink()
    Image.new("P", (7, 5)).save(masks / f"{names[1]}.png")
    (masks / f"{names[2]}.png").write_bytes(b"no picture")
    done = call("refine", "background?score=0.5", "--images", images, "--masks", masks, "--out", out)
    assert done.exit_code == 2 and done.stderr.count("\n") == 1 and "3 faults" in done.stderr
    assert all(n in done.stderr for n in names[:3]) and names[3] not in done.stderr
    assert not out.exists()


def test_masks_in_the_layout_of_voc(tmp_path):
    run = made_up(tmp_path / "runs")
    data = open_data(DATA)
    out = tmp_path / "voc"
    words = ["masks", run.key, "--runs", tmp_path / "runs", "--out", out, "--device", "cpu"]
    done = call(*words)
    assert done.exit_code == 0, done.stderr
    ids = (out / "ImageSets/Segmentation/train.txt").read_text().split()
    assert sorted(f"{i}.png" for i in ids) == sorted(p.name for p in (out / "SegmentationClass").iterdir())
    for id in ids[:5]:
        mask = Image.open(out / "SegmentationClass" / f"{id}.png")
        assert mask.mode == "P" and mask.getpalette()[3:6] == [128, 0, 0] and mask.size == data.size(id)[::-1]
    again = call(*words, "--chain", "background?score=0.7")
    assert again.exit_code == 2 and "holds masks of chain ''" in again.stderr


def test_a_table_refines_what_it_shows(tmp_path, monkeypatch):
    "While masks are missing, the table shows dashes and the command; --refine makes them, and none twice."
    from wsss_nb.paper import registry
    from wsss_nb.pipeline.masks import masks_of

    run = made_up(tmp_path / "runs")
    rows = (registry.Row("none", "{base}"), registry.Row("half", "{base}", chain="background?score=0.5"))
    columns = {"Seed": "miou", "Mask": "refined::miou", "s": "refined::seconds"}
    table = registry.Table("toy.t1", "A toy", "", columns, rows, reference="none")
    monkeypatch.setitem(registry.ENTRIES, "toy.t1", table)
    words = ["table", "toy.t1", "--data", DATA, "--preset", "smoke", "--set", "inference.limit=40"]
    words += ["--runs", tmp_path / "runs", "--out", tmp_path / "out", "--device", "cpu"]

    def half(done):
        "Return the words of each row 'half'."
        return [line.split() for line in done.stdout.splitlines() if line.startswith("half  ")]

    before = call(*words)
    assert before.exit_code == 0
    assert "Not refined yet: 2 times" in before.stdout and "--run --refine`" in before.stdout
    assert [row[-3:] for row in half(before)] == [["–", "–", "1"]]
    after = call(*words, "--refine")
    assert after.exit_code == 0 and "Not refined" not in after.stdout, after.output
    miou = 100 * refined(run, "background?score=0.5").result("train")["metrics"]["miou"]
    assert [row[-3] for row in half(after)] == [f"{miou:.1f}"]
    stamps = {p: p.stat().st_mtime_ns for p in run.path.rglob("*.png")}
    assert call(*words, "--refine").stdout == after.stdout
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps
    assert masks_of(run, "background?score=0.6") == {}
