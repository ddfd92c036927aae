"`wsss_nb eval` on folders and runs, runs against runs, good and bad; boundary measures on photographs; merged shards equal the whole."

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, distance_transform_edt
from typer.testing import CliRunner

from wsss_nb.cli import app
from wsss_nb.data.catalog import open_data
from wsss_nb.data.files import write_map
from wsss_nb.metrics.boundary import BoundaryF, Trimap
from wsss_nb.metrics.curves import FalsePositives
from wsss_nb.metrics.instance import InstanceAP
from wsss_nb.pipeline.experiment import run_recipe
from wsss_nb.pipeline.judge import MaskScores
from wsss_nb.run.presets import make_recipe

CLASSES = ["cow", "boat", "train"]


def call(*words):
    "Call `wsss_nb eval`; it must not raise."
    done = CliRunner().invoke(app, ["eval", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), repr(done.exception)
    return done


def masks(i, size=(60, 80)):
    "Draw a ground truth with a rim of 255, and a slightly shifted prediction; the last class in every third image."
    rng = np.random.default_rng(i)
    y, x = np.mgrid[: size[0], : size[1]]
    truth = np.zeros(size, np.uint8)
    pred = np.zeros(size, np.uint8)
    for c in range(1, 4 if i % 3 == 0 else 3):
        cy, cx, r = rng.integers(15, 45), rng.integers(15, 65), rng.integers(6, 14)
        truth[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = c
        pred[(y - cy - 2) ** 2 + (x - cx) ** 2 < (r + 1) ** 2] = c
    edge = np.any([(truth == c) & (distance_transform_edt(truth == c) <= 1) for c in np.unique(truth)], 0)
    return np.where(edge, np.uint8(255), truth), pred


@pytest.fixture
def folders(tmp_path):
    "Forty images: ground truth as palette PNGs, predictions as grey PNGs."
    for name in ("truth", "pred"):
        (tmp_path / name).mkdir()
    for i in range(40):
        truth, pred = (Image.fromarray(m) for m in masks(i))
        truth.putpalette([k // 3 for k in range(768)])
        truth.save(tmp_path / "truth" / f"im{i:02}.png")
        pred.save(tmp_path / "pred" / f"im{i:02}.png")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path


def compare(folders, *words):
    "Call `wsss_nb eval` on the ground truth and the predictions."
    return call("--truth", folders / "truth", "--pred", folders / "pred", *words)


def expected():
    "Compute the IoU of each class and the pixel accuracy from all pixels at once."
    t, p = (np.concatenate([m[k].ravel() for m in map(masks, range(40))]) for k in (0, 1))
    known = t != 255
    t, p = t[known], p[known]
    return [((t == c) & (p == c)).sum() / ((t == c) | (p == c)).sum() for c in range(4)], (t == p).mean()


def test_two_folders(folders):
    iou, accuracy = expected()
    done = compare(folders, "--classes", folders / "classes.txt")
    assert done.exit_code == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("background", *CLASSES))]
    rows = {line.split()[0]: line.split()[1] for line in lines}
    assert rows == {k: f"{100 * x:.1f}" for k, x in zip(["background", *CLASSES], iou)}
    assert f"40 images: miou {100 * np.mean(iou):.1f}  pixel_accuracy {100 * accuracy:.1f}" in done.stdout
    unnamed = compare(folders)  # as many classes as the ground truth has
    assert unnamed.stdout.splitlines()[-1] == done.stdout.splitlines()[-1]


@pytest.mark.parametrize("kind", ["csv", "json", "md"])
def test_written_and_the_same_for_any_number_of_workers(folders, kind):
    files = [folders / f"{n}.{kind}" for n in (1, 3)]
    for n, file in zip((1, 3), files):
        done = compare(folders, "--trimap", "--boundary", "--workers", n, "--out", file)
        assert done.exit_code == 0 and str(file) in done.stdout
    assert files[0].read_bytes() == files[1].read_bytes()
    iou, accuracy = expected()
    if kind == "csv":
        table = pd.read_csv(files[0], index_col="class")
        np.testing.assert_allclose(table.iou, [*iou, np.mean(iou)])
        assert {"trimap_iou 40", "boundary_f 0.008", "boundary_f 1", "boundary_iou 2"} <= set(table)
        assert table.loc["mean", "pixel_accuracy"] == accuracy
    elif kind == "json":
        found = json.loads(files[0].read_text())
        assert found["images"] == 40 and found["miou"] == pytest.approx(np.mean(iou))
        assert found["per_class"]["background"]["boundary_f 1"] is None
        by_class = [found["per_class"][str(c)]["boundary_iou 2"] for c in (1, 2, 3)]
        assert found["boundary_miou 2"] == pytest.approx(np.mean(by_class)) and 0 < by_class[0] < 1
        assert not any(k.startswith("robustness") for k in found)  # masks have no threshold
    else:
        assert files[0].read_text().count("\n") == 7


def test_a_list_of_ids(folders):
    ids = folders / "val.txt"
    ids.write_text("im03\nim04\n")
    (folders / "pred" / "im09.png").unlink()  # not in the list, so it is not missed
    assert "2 images" in compare(folders, "--ids", ids).stdout
    ids.write_text("im03\nim09\n")
    assert "im09: no prediction" in compare(folders, "--ids", ids).stderr


def test_a_few_masks_drawn_by_hand(folders):
    "Masks without a ground truth are not judged, and counted; a ground truth without a mask is a fault."
    for file in sorted((folders / "truth").iterdir())[3:]:
        file.unlink()
    done = compare(folders)
    assert done.exit_code == 0 and "3 images" in done.stdout
    assert "Not judged, as there is no ground truth: 37 of 40 masks" in done.stderr
    (folders / "pred" / "im00.png").unlink()
    missed = compare(folders)
    assert missed.exit_code == 2 and "im00: no prediction" in missed.stderr and "--ids FILE" in missed.stderr


@pytest.mark.parametrize("classes", [True, False])
def test_a_score_of_nothing_is_refused(folders, classes):
    for file in (folders / "truth").iterdir():
        Image.fromarray(np.where(np.arange(60 * 80).reshape(60, 80) % 7, 0, 255).astype(np.uint8)).save(file)
    done = compare(folders, *(("--classes", folders / "classes.txt") if classes else ()))
    assert done.exit_code == 2 and done.stdout == "" and "no pixel of a class" in done.stderr


def test_everything_wrong_is_one_error(folders):
    (folders / "pred" / "im00.png").unlink()
    (folders / "truth" / "im01.png").unlink()
    Image.new("L", (80, 61)).save(folders / "pred" / "im02.png")
    Image.new("L", (80, 60), 7).save(folders / "pred" / "im03.png")
    Image.new("RGB", (80, 60)).save(folders / "pred" / "im04.png")
    (folders / "truth" / "im05.png").write_bytes((folders / "truth" / "im06.png").read_bytes()[:60])
    done = compare(folders, "--classes", folders / "classes.txt")
    assert done.exit_code == 2 and done.stdout == "" and done.stderr.count("wsss_nb: ") == 1
    for words in (
        "5 faults in 38 masks",
        "im00: no prediction in",
        "differ in size (60×80 and 61×80",
        "im03: prediction has label 7, outside 0…3",
        "im04.png is a colour picture",
        "truth/im05.png",
    ):
        assert words in done.stderr, words
    for i in range(10, 30):
        (folders / "pred" / f"im{i}.png").unlink()
    assert "and 15 more" in compare(folders, "--classes", folders / "classes.txt").stderr


@pytest.mark.parametrize(
    "typed, words",
    [
        ("", "Evaluate what?"),
        ("--truth {0}/truth", "Evaluate what?"),
        ("1234 --truth {0}/truth --pred {0}/pred", "Evaluate what?"),
        ("--truth {0}/none --pred {0}/pred", "No folder"),
        ("--truth {0} --pred {0}/pred", "No PNGs in"),
        ("--truth {0}/truth --pred {0}/pred --classes {0}/none.txt", "No file none.txt"),
        ("--truth {0}/truth --pred {0}/pred --out x.xls", "'.xls'"),
        ("--truth {0}/truth --pred {0}/pred --threshold 0.3", "are for runs"),
        ("1234 --classes {0}/classes.txt", "for two folders"),
        ("--truth {0}/truth --pred {0}/pred --instances", "are for runs"),
    ],
)
def test_bad_calls(folders, typed, words):
    done = call(*typed.format(folders).split())
    assert done.exit_code == 2 and words in done.stderr and done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    "Two tiny runs; in the folder of the first lie refined masks."
    folder = tmp_path_factory.mktemp("runs")
    data = open_data("cooccur?n=16&size=64")
    short = {"training.steps": 4, "augment.crop": 64, "augment.long_side": [64, 72]}
    recipes = [make_recipe("cam", data.name, "smoke", seed=s, overrides=short) for s in (0, 1)]
    runs = [run_recipe(recipe, folder, "cpu", 0) for recipe in recipes]
    (refined := runs[0].path / "refined" / "mine" / "masks" / "train").mkdir(parents=True)
    for id in data.ids("train"):
        write_map(refined / f"{id}.png", data.load(id, ("mask",))["mask"].roll(1, 1))
    return folder, runs


def test_runs(store, tmp_path):
    folder, runs = store
    at = [100 * r.result["metrics"]["miou"] for r in runs]
    one = call(runs[0].key, "--runs", folder, "--boundary", "--trimap", "--out", tmp_path / "one.json")
    assert one.exit_code == 0, one.stderr
    found = json.loads((tmp_path / "one.json").read_text())
    best = f"best mIoU {100 * found['robustness_best']:.1f} at {found['robustness_at']:.2f}"
    for words in (
        f"miou {at[0]:.1f}",
        "leak",
        "0.008 of the diagonal",
        "boundary mIoU",
        best,
        "within 95 % of it",
    ):
        assert words in one.stdout
    assert found["robustness_low"] <= found["robustness_at"] <= found["robustness_high"]
    assert 0 < found["robustness_area"] <= found["robustness_best"]
    two = call(*(r.key[:8] for r in runs), "--runs", folder, "--out", tmp_path / "two.csv")
    table = two.stdout.splitlines()
    assert len(table) == 4 and "within_95" in table[0]
    assert all(r.key in line and f"{x:.1f}" in line for r, x, line in zip(runs, at, table[1:]))
    assert list(pd.read_csv(tmp_path / "two.csv").masks.unique()) == [r.key for r in runs]
    assert not (runs[0].path / "two.csv").exists() and runs[0].result["metrics"]["miou"] == at[0] / 100


def test_detail_of_stored_runs_in_a_table(store, tmp_path):
    "The table's numbers by size, at outlines and over thresholds are those of `eval`; the runs' results stay."
    folder, runs = store
    before = [(r.path / "result.json").read_bytes() for r in runs]
    words = ["--data", "cooccur?n=16&size=64", "--preset", "smoke", "--runs", folder, "--out", tmp_path]
    words += ["--methods", ",".join(f"run:{r.key}" for r in runs), "--detail", "--name", "detail"]
    done = CliRunner().invoke(app, ["ablate", *map(str, words)])
    assert done.exit_code == 0, done.output
    assert "mIoU by size" in done.stdout and "Detail: mIoU of the classes where they cover" in done.stdout
    table = pd.read_csv(tmp_path / "detail.csv", dtype={"runs": str})
    means = table.pivot(index="runs", columns="column", values="mean")  # a run per row
    call(*(r.key for r in runs), "--runs", folder, "--sizes", "--boundary", "--out", tmp_path / "eval.json")
    found = json.loads((tmp_path / "eval.json").read_text())
    for key in found:
        names = {"boundary mIoU": ("boundary_miou 2", 100), "area": ("robustness_area", 100)}
        names |= {"width": ("robustness_width", 1), "5-20 %": ("size_miou 5-20 %", 100)}
        for column, (name, scale) in names.items():
            assert means.loc[key, column] == pytest.approx(scale * found[key][name]), column
    assert [(r.path / "result.json").read_bytes() for r in runs] == before


def test_runs_against_runs(store):
    folder, runs = store
    a, b = (r.key for r in runs)
    names = ["miou", "precision", "recall"]

    def row(done, name):
        "Read the numbers of a row."
        assert done.exit_code == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if line.startswith(name))
        return [float(x) for x in line.split()[1:] if x != "-"]

    one = call(b, "--against", a, "--runs", folder)
    at = [r.result["metrics"] for r in runs]
    for name in names:
        before, after, difference, low, high = row(one, name)
        assert [before, after] == [round(100 * m[name], 1) for m in at]
        assert difference == pytest.approx(100 * (at[1][name] - at[0][name]), abs=0.051) and low <= high
    assert f"after: cam (smoke, seed 1, {b[:6]}" in one.stdout and "train, 8 images" in one.stdout
    swapped = call(f"{a},{b}", "--against", f"{b},{a}", "--runs", folder)
    assert "std over seeds" in swapped.stdout and row(swapped, "miou")[2] == 0
    same = call(a, "--against", a, "--split", "val", "--runs", folder)
    assert row(same, "miou")[2:] == [0, 0, 0] and "\nval, " in same.stdout
    bad = call(a, "--against", f"{a},{b}", "--runs", folder)
    assert bad.exit_code == 2 and "1 against 2" in bad.stderr and bad.stderr.count("\n") == 1


def test_refined_masks(store):
    folder, runs = store
    done = call(runs[0].key, "--runs", folder, "--masks", "mine", "--boundary")
    assert done.exit_code == 0 and "mine of run" in done.stdout and "1 px" in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("1 px"))
    assert float(row.split()[-1]) == pytest.approx(100, abs=1.5)  # shifted by one pixel
    for run, name, words in (
        (runs[0], "psb", "'psb' of train. It has: mine."),
        (runs[1], "mine", "wsss_nb refine"),
    ):
        bad = call(run.key, "--masks", name, "--runs", folder)
        assert bad.exit_code == 2 and words in bad.stderr, bad.stderr


def test_instances(store, tmp_path):
    "The first call trains IRN, the second one loads it; per class and in the mean, in percent on the terminal."
    pytest.importorskip("faster_coco_eval")
    folder, runs = store
    words = (runs[0].key, "--runs", folder, "--instances", "--device", "cpu", "--out", tmp_path / "ap.csv")
    first, second = call(*words), call(*words)
    assert first.exit_code == 0, first.stderr
    table = pd.read_csv(tmp_path / "ap.csv", index_col="class")
    assert list(table) == ["ap", "ap50", "ap75", "instances"] and table.index[-1] == "mean"
    assert f"{100 * table.loc['mean', 'ap50']:.1f}" in first.stdout and first.stdout == second.stdout
    assert f"instances of cam (smoke, seed 0, {runs[0].key[:6]}" in first.stdout
    assert len(list(runs[0].path.glob("refined/networks/*/irn-*"))) == 1
    assert not (runs[1].path / "refined").exists()


def test_shards_merged_are_the_whole():
    "For every accumulator, counts are equal, and sums of floats are equal up to rounding."

    def score_one(i):
        return MaskScores.start(CLASSES, [1, 5, 40], [0.008, 3]).update(*masks(i), str(i))

    def score(some):
        return sum((score_one(i) for i in some), 0)

    whole = score(range(12))
    total = sum(score(range(k, 12, 3)) for k in range(3))
    assert total.images == 12 and (total.confusion.matrix == whole.confusion.matrix).all()
    assert (total.trimap.counts == whole.trimap.counts).all()
    assert (total.boundary.images == whole.boundary.images).all()
    assert (total.boundary_iou.counts == whole.boundary_iou.counts).all()
    np.testing.assert_allclose(total.boundary.sums, whole.boundary.sums, rtol=1e-12)

    def false_positives(some):
        logits = {i: np.random.default_rng(i).normal(size=3) for i in some}
        return sum(FalsePositives(3).update([i % 3], logits[i], *masks(i)) for i in some)

    merged = (false_positives(range(5)) + false_positives(range(5, 12))).summary()
    np.testing.assert_allclose(list(merged.values()), list(false_positives(range(12)).summary().values()))
    pytest.importorskip("faster_coco_eval")

    def found(i):
        truth, pred = (np.stack([m == c for c in (1, 2)]) for m in masks(i))
        return truth, [0, 1], pred, [0, 1], np.random.default_rng(i).random(2)

    def instances(some):
        return sum((InstanceAP(2).update(*found(i)) for i in some), 0)

    assert (instances(range(6)) + instances(range(6, 12))).summary() == instances(range(12)).summary()


def naive_boundary(truth, pred, c, r):
    "Compute DAVIS's boundary F of one class, by dilation with a disk."

    def edges(m):
        e, s, d = m.copy(), m.copy(), m.copy()
        e[:, :-1], s[:-1], d[:-1, :-1] = m[:, 1:], m[1:], m[1:, 1:]
        out = (m ^ e) | (m ^ s) | (m ^ d)
        out[-1], out[:, -1] = (m ^ e)[-1], (m ^ s)[:, -1]
        out[-1, -1] = False
        return out

    y, x = np.mgrid[-r : r + 1, -r : r + 1]
    a, b = (edges((m == c) & (truth != 255)) for m in (pred, truth))
    near_a, near_b = (binary_dilation(m, x * x + y * y <= r * r) for m in (a, b))
    p, q = ((u & v).sum() / u.sum() if u.any() else 1.0 for u, v in ((a, near_b), (b, near_a)))
    return 2 * p * q / (p + q) if p + q else 0.0


@pytest.mark.parametrize("shift", [(3, 0), (-2, 7)])
def test_boundaries_of_photographs(shift):
    "On masks of photographs of any size, the measures equal the naive forms at every width."
    photos = Path(os.environ.get("WSSS_NB_PHOTOS", "/nowhere")) / "SegmentationClass"
    files = sorted(photos.glob("*.png"))[:6]
    if not files:
        pytest.skip("no photographs: name their folder in WSSS_NB_PHOTOS")
    for file in files:
        truth = np.array(Image.open(file))
        pred = np.roll(np.where(truth == 255, 0, truth), shift, (0, 1))
        C, radii = int(pred.max()), [1, 5, 17]
        f = BoundaryF(C, radii).update(truth, pred).f()
        shown = [c for c in range(1, C + 1) if ((truth == c) | ((pred == c) & (truth != 255))).any()]
        assert sorted(np.flatnonzero(~np.isnan(f[:, 0])) + 1) == shown
        for c in shown:
            assert f[c - 1].tolist() == [naive_boundary(truth, pred, c, r) for r in radii]
        tri = Trimap(C, radii).update(truth, pred)
        for w in radii:
            band = np.zeros(truth.shape, bool)
            for v in np.unique(truth):
                if not (truth == v).all():
                    band |= (truth == v) & (distance_transform_edt(truth == v) <= w)
            keep = band & (truth != 255)
            counts = np.histogram2d(truth[keep], pred[keep], [np.arange(C + 2)] * 2)[0]
            assert (tri.at(w).matrix == counts).all()
