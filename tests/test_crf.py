"""The dense CRF beside pydensecrf2: the same labels on at least 99.99 % of the pixels.

Pictures are photographs from the folder named by WSSS_NB_PHOTOS (every combination), else made ones (a spread of combinations)."""

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydensecrf.densecrf")

from wsss_nb.bench.crf import agreement, made_up_unary, photo, pictures, pydensecrf  # noqa: E402
from wsss_nb.refine.crf import ImageKernel  # noqa: E402
from wsss_nb.refine.parts.unary import unary_from_labels, unary_from_scores  # noqa: E402

FOLDER = os.environ.get("WSSS_NB_PHOTOS")
LABELS, PRESETS = (2, 4, 21), ("psa", "irn", "deeplab")
# without photographs every other pair of picture and preset, with one number of labels each
COMBINATIONS = [
    (i, p, n)
    for i in range(10)
    for j, p in enumerate(PRESETS)
    for k, n in enumerate(LABELS)
    if FOLDER or (i + j) % 6 == 2 * k
]


@pytest.fixture(scope="module")
def images():
    if not FOLDER:
        return pictures(10)
    files = sorted(Path(FOLDER).glob("*.jpg"))
    if len(files) < 10:
        pytest.skip(f"fewer than ten photographs in {FOLDER}")
    return [photo(f) for f in files[:: len(files) // 10][:10]]


@pytest.mark.parametrize("preset", PRESETS)
def test_labels(images, preset):
    "Every picture and number of labels of a preset; with 21, the unlikely ones are merged on our side only."
    worst, equal, count = 1.0, 0, 0
    for i, p, n in COMBINATIONS:
        if p != preset:
            continue
        unary = made_up_unary(images[i].shape[:2], n, seed=i)
        share = agreement(ImageKernel(images[i], preset).infer(unary), pydensecrf(images[i], unary, preset))
        worst, equal, count = min(worst, share), equal + share, count + 1
        assert share >= 0.9999, f"picture {i}, {n} labels: {100 * share:.4f} % equal"
    print(
        f"{preset}: {count} combinations, worst {100 * worst:.4f} %, mean {100 * equal / count:.5f} % equal"
    )


def test_probabilities(images):
    "Q itself, not only its best label."
    unary = made_up_unary(images[0].shape[:2], 3)
    ours, peer = ImageKernel(images[0]).infer(unary, prune=0), pydensecrf(images[0], unary, "psa")
    assert np.abs(ours - peer).max() < 1e-2 and np.abs(ours - peer).mean() < 1e-5


def test_device(images):
    "The torch lattice, as on an accelerator, labels as the numba one does."
    from wsss_nb.refine.parts.crf_torch import TorchKernel
    from wsss_nb.refine.parts.lattice import bilateral_features, spatial_features

    for preset in ("psa", "irn"):
        kernel, unary = ImageKernel(images[1], preset), made_up_unary(images[1].shape[:2], 3, 1)
        p, (h, w) = kernel.preset, images[1].shape[:2]
        colour = bilateral_features(images[1], p.sxy, p.srgb)
        other = TorchKernel(
            [(spatial_features(h, w, p.gauss_sxy), p.gauss_compat), (colour, p.compat)], "cpu"
        )
        assert agreement(kernel.infer(unary), other(unary.reshape(3, -1), 10).reshape(unary.shape)) >= 0.9999


def test_unaries():
    import pydensecrf.utils as peer

    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 4, (7, 9)), rng.random((3, 7, 9))
    for zero_unsure in (False, True):
        n = 4 - zero_unsure
        ours = unary_from_labels(labels - zero_unsure, n, 0.7, unknown=-1)
        np.testing.assert_allclose(
            ours.reshape(n, -1), peer.unary_from_labels(labels, n, 0.7, zero_unsure), atol=1e-6
        )
    np.testing.assert_allclose(
        unary_from_scores(scores).reshape(3, -1), peer.unary_from_softmax(scores), atol=1e-6
    )
