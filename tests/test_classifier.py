"Any classifier without a run: CAMs equal to pytorch-grad-cam's, the explorer with bad input, the command's errors."

import math
import time

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from test_explore import jpeg, said, upload
from torch import nn
from torchvision.models import vgg11
from typer.testing import CliRunner

from wsss_nb.api import CamExplorer, grad_cam, layer_cam, plain_cam
from wsss_nb.bench.attribution import our_maps, peer_maps, random_resnet, scaled
from wsss_nb.cli import app
from wsss_nb.core import UserError
from wsss_nb.models.classifier import open_classifier


def small_vit():
    "A ViT of two blocks, whose head is not near zero."
    torch.manual_seed(0)
    sizes = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=5)
    vit = timm.models.vision_transformer.VisionTransformer(**sizes).eval()
    nn.init.normal_(vit.head.weight)
    return vit


@pytest.mark.parametrize("method", ["Grad-CAM", "Layer-CAM"])
@pytest.mark.parametrize("layer", ["layer4", "layer2", "layer3.1.conv2"])
def test_maps_equal_those_of_pytorch_grad_cam(method, layer):
    pytest.importorskip("pytorch_grad_cam")
    network = random_resnet("resnet18")
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    args = network, images, [3, 7, 500], network.get_submodule(layer), method
    assert (our_maps(*args) - peer_maps(*args)).abs().max() < 1e-4


@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM"])
def test_tokens_equal_those_of_pytorch_grad_cam(method):
    "The peer is told how to make maps of tokens; ours finds out, also which layer to take."
    peer = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    vit = small_vit()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def grid(x):
        return x[:, 1:].reshape(len(x), 4, 4, -1).permute(0, 3, 1, 2)

    with getattr(peer, method)(vit, [vit.blocks[-1].norm1], grid) as compute:
        theirs = torch.from_numpy(compute(images, [ClassifierOutputTarget(3)] * 2))
    ours = {"GradCAM": grad_cam, "LayerCAM": layer_cam}[method](vit, images, [3])
    ours = scaled(F.interpolate(scaled(ours), (32, 32), mode="bilinear"))[:, 0]
    assert (ours - theirs).abs().max() < 1e-4


def test_a_large_network_from_each_library():
    "ResNet-50 and Swin of timm, VGG of torchvision: a map of the expected grid at the default layer."
    torch.manual_seed(0)
    networks = {
        (4, 6): timm.create_model("resnet50"),
        (7, 7): timm.create_model("swin_tiny_patch4_window7_224"),
        (2, 3): vgg11(),
    }
    for (h, w), network in networks.items():
        found = grad_cam(network, torch.randn(1, 3, 32 * h, 32 * w), [0, 1])
        assert found.shape == (1, 2, h, w) and found.isfinite().all()
    with pytest.raises(UserError, match="Use Grad-CAM or Layer-CAM"):
        plain_cam(networks[2, 3], torch.randn(1, 3, 64, 96))


@pytest.fixture
def folder(tmp_path):
    "Pictures: a good one, a truncated one, one that is too narrow, and another good one."
    rng = np.random.default_rng(0)
    for name, size in {"a.jpg": (60, 80), "c.png": (1, 300), "d.jpg": (80, 60)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:-200])
    return tmp_path


@pytest.fixture
def explorer(folder):
    "The explorer of the offline network on these pictures."
    shown = CamExplorer(model="", images=folder, device="cpu")
    yield shown
    shown.close()


def test_bad_pictures_are_messages(explorer):
    seen = []
    for _ in range(3):
        explorer.strip.after.click()
        seen.append(said(explorer))
    assert "b.jpg is not a picture" in seen[0] and "c.png has 300 x 1 pixels" in seen[1] and seen[2] == ""
    assert explorer.views[0].picture.alt.startswith("d.jpg") and explorer.work.job is None
    upload(explorer, "cut.jpg", "image/jpeg", b"\xff\xd8 no picture")
    assert "cut.jpg is not a picture" in said(explorer) and explorer.state.image == "d.jpg"
    upload(explorer, "own.jpg", "image/jpeg", jpeg(np.full((50, 70, 3), 90, np.uint8)))
    assert explorer.state.image == "own.jpg" and "Image of 5" in explorer.controls.number.description


def test_classes_by_chips_and_search(explorer):
    state, controls = explorer.state, explorer.controls
    first = explorer.source.see("a.jpg", (), "bn2").top()
    assert [c for c in controls.classes.names] == first and state.classes == ()
    controls.classes.made[first[2]].value = True
    assert state.classes == (first[0], first[2])
    controls.search.value = "zebra"
    assert state.classes == (first[0], first[2], 340) and "zebra" in explorer.views[1].facts.value
    controls.search.value = "retriever"
    assert "classes have" in said(explorer) and controls.search.value == ""
    before = explorer.views[1].rgb
    controls.threshold.value = 0.9
    assert not np.array_equal(before, explorer.views[1].rgb)
    explorer.go(3)
    assert state.classes == (340,)
    controls.methods.made["Grad-CAM"].value = False
    controls.methods.made["Layer-CAM"].value = False
    assert "nothing to show" in said(explorer) and state.methods == ("Layer-CAM",)


def test_the_code_draws_the_view_again(explorer):
    explorer.state.search("zebra")
    explorer.state.view = "mask"
    space = {}
    exec(explorer.as_code(), space)
    again = space["explorer"]
    assert [np.array_equal(a.rgb, b.rgb) for a, b in zip(explorer.views, again.views)] == [True] * 3
    again.close()


def test_many_moves_leave_nothing(explorer):
    network = explorer.source.classifier.network
    explorer.source._seen.limit = 2**16
    for k in range(30):
        explorer.state.image = ("a.jpg", "d.jpg")[k % 2]
        explorer.state.classes = (k,)
    assert explorer.source._seen.bytes <= 2**16 + 60 * 80 * 4 * 3 + 4000
    assert not any(m._forward_hooks for m in network.modules())
    assert all(p.grad is None for p in network.parameters())


def test_probabilities_and_own_names(folder):
    own = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    shown = CamExplorer(model=own, images=folder, names=["cat", "dog"], device="cpu")
    seen = shown.source.see("a.jpg", (), shown.state.layer)
    assert math.isclose(seen.probabilities.sum(), 1, abs_tol=1e-5) and len(seen.top()) == 2
    assert "model=network" in shown.as_code() and "names=['cat', 'dog']" in shown.as_code()
    shown.close()
    with pytest.raises(UserError, match="not class scores"):
        open_classifier(own[:1], device="cpu")


@pytest.mark.parametrize(
    "options, text",
    [
        (["--model", "resnet50"], "--model without pictures"),
        (["3a45", "--images", "."], "either keys of runs"),
        (["--images", "nowhere"], "nowhere does not exist"),
        (["--images", ".", "--model", "resnet5"], "Use for instance resnet50"),
        (["--images", ".", "--layer", "bn7"], "No layer 'bn7'"),
        (["--images", ".", "--weights", "none.pth"], "No weights file none.pth"),
    ],
)
def test_errors_of_the_command_are_one_line(folder, monkeypatch, options, text):
    "Wrong options end the command with exit code 2, also while it serves."
    monkeypatch.chdir(folder)
    monkeypatch.setattr("wsss_nb.commands.app.serve", lambda page, port, browser: time.sleep(60))
    result = CliRunner().invoke(app, ["app", *options, "--port", "0", "--no-browser", "--device", "cpu"])
    assert result.exit_code == 2 and text in result.output and len(result.output.splitlines()) == 1
