"""The dense CRF agrees with pydensecrf2 on the labels of at least 99.99 % of the pixels.

With photographs (folder WSSS_NB_PHOTOS) all combinations are tested, with drawn pictures a part of them."""

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydensecrf.densecrf")

from wsss_nb.bench.crf import agreement, made_up_unary, photo, pictures, pydensecrf  # noqa: E402
from wsss_nb.refine.crf import ImageKernel  # noqa: E402
from wsss_nb.refine.parts.unary import unary_from_labels, unary_from_scores  # noqa: E402

FOLDER = os.environ.get("WSSS_NB_PHOTOS")
LABELS = (2, 4, 21)
PRESETS = ("psa", "irn", "deeplab")
# Without photographs: half of the pairs of picture and preset, each with one number of labels.
COMBINATIONS = [  # (picture, preset, number of labels)
    (i, p, n)
    for i in range(10)
    for j, p in enumerate(PRESETS)
    for k, n in enumerate(LABELS)
    if FOLDER or (i + j) % 6 == 2 * k
]


@pytest.fixture(scope="module")
def images():
    "Ten photographs or drawn pictures."
    if not FOLDER:
        return pictures(10)
    files = sorted(Path(FOLDER).glob("*.jpg"))
    if len(files) < 10:
        pytest.skip(f"fewer than ten photographs in {FOLDER}")
    return [photo(f) for f in files[:: len(files) // 10][:10]]


@pytest.mark.parametrize("preset", PRESETS)
def test_labels(images, preset):
    "All pictures and numbers of labels of a preset; of 21 labels, only our side merges the unlikely ones."
    shares = []
    for i, p, n in COMBINATIONS:
        if p != preset:
            continue
        unary = made_up_unary(images[i].shape[:2], n, seed=i)
        share = agreement(ImageKernel(images[i], preset).infer(unary), pydensecrf(images[i], unary, preset))
        shares.append(share)
        assert share >= 0.9999, f"picture {i}, {n} labels: {100 * share:.4f} % equal"
    worst = 100 * min(shares)
    mean = 100 * np.mean(shares)
    print(f"{preset}: {len(shares)} combinations, worst {worst:.4f} %, mean {mean:.5f} % equal")


def test_probabilities(images):
    "The marginals Q agree, not only the best labels."
    unary = made_up_unary(images[0].shape[:2], 3)
    ours = ImageKernel(images[0]).infer(unary, prune=0)
    peer = pydensecrf(images[0], unary, "psa")
    assert np.abs(ours - peer).max() < 1e-2 and np.abs(ours - peer).mean() < 1e-5


def test_device(images):
    "The torch lattice (used on accelerators) gives the labels of the numba lattice."
    from wsss_nb.refine.parts.crf_torch import TorchKernel
    from wsss_nb.refine.parts.lattice import bilateral_features, spatial_features

    h, w = images[1].shape[:2]
    unary = made_up_unary((h, w), 3, 1)
    for preset in ("psa", "irn"):
        kernel = ImageKernel(images[1], preset)
        p = kernel.preset
        space = spatial_features(h, w, p.gauss_sxy)
        colour = bilateral_features(images[1], p.sxy, p.srgb)
        other = TorchKernel([(space, p.gauss_compat), (colour, p.compat)], "cpu")
        assert agreement(kernel.infer(unary), other(unary.reshape(3, -1), 10).reshape(unary.shape)) >= 0.9999


def test_unaries():
    import pydensecrf.utils as peer

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (7, 9))
    scores = rng.random((3, 7, 9))
    for zero_unsure in (False, True):
        n = 4 - zero_unsure
        ours = unary_from_labels(labels - zero_unsure, n, 0.7, unknown=-1)
        theirs = peer.unary_from_labels(labels, n, 0.7, zero_unsure)
        np.testing.assert_allclose(ours.reshape(n, -1), theirs, atol=1e-6)
    np.testing.assert_allclose(
        unary_from_scores(scores).reshape(3, -1), peer.unary_from_softmax(scores), atol=1e-6
    )
