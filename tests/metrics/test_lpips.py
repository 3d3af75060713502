"""LPIPS against a naive float64 implementation, on random weights of the published names and shapes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import photos
from efface.errors import EffaceError, UsageError
from efface.metrics.lpips import Lpips, alexnet, vgg16

# Published convolutions: index in torchvision's `features` -> output and input channels, kernel.
ALEX = {0: (64, 3, 11), 3: (192, 64, 5), 6: (384, 192, 3), 8: (256, 384, 3), 10: (256, 256, 3)}
VGG = {
    0: (64, 3, 3), 2: (64, 64, 3), 5: (128, 64, 3), 7: (128, 128, 3), 10: (256, 128, 3), 12: (256, 256, 3),
    14: (256, 256, 3), 17: (512, 256, 3), 19: (512, 512, 3), 21: (512, 512, 3), 24: (512, 512, 3), 26: (512, 512, 3),
    28: (512, 512, 3),
}  # fmt: skip
HEADS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


def trunk_weights(convolutions):
    generator = torch.Generator().manual_seed(1)
    weights = {"classifier.6.bias": torch.zeros(1000)}
    for number, (out, into, side) in convolutions.items():
        scale = (2 / (into * side * side)) ** 0.5
        weights[f"features.{number}.weight"] = torch.randn(out, into, side, side, generator=generator) * scale
        weights[f"features.{number}.bias"] = torch.randn(out, generator=generator) * 0.1
    return weights


def head_weights(network):
    generator = torch.Generator().manual_seed(2)
    return {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1, generator=generator) for i, c in enumerate(HEADS[network])}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Network -> trunk's file, heads' file."""
    folder, found = tmp_path_factory.mktemp("lpips"), {}
    for network, convolutions in (("alex", ALEX), ("vgg", VGG)):
        found[network] = (folder / f"{network}-trunk.pth", folder / f"{network}.pth")
        torch.save(trunk_weights(convolutions), found[network][0])
        torch.save(head_weights(network), found[network][1])
    return found


def convolved(x, weight, bias, stride, padding):
    """A convolution as one matrix product over all its windows (channels height width)."""
    side = weight.shape[2]
    rows = (x.shape[1] + 2 * padding - side) // stride + 1
    windows = F.unfold(x[None], side, padding=padding, stride=stride)[0]
    return (weight.flatten(1) @ windows + bias[:, None]).unflatten(1, (rows, -1))


def pooled(x, side):
    """The largest of each window of side x side, two apart."""
    rows, columns = ((size - side) // 2 + 1 for size in x.shape[1:])
    shifted = [x[:, r : r + 2 * rows - 1 : 2, c : c + 2 * columns - 1 : 2] for r in range(side) for c in range(side)]
    return torch.stack(shifted).amax(0)


def naive(network, picture, other):
    """LPIPS of two pictures, one after the other, in float64."""
    trunk = {name: t.double() for name, t in trunk_weights(ALEX if network == "alex" else VGG).items()}
    heads = [t.double().flatten() for t in head_weights(network).values()]
    strides, pads, pools = (
        {0: 4},
        {0: 2, 3: 2},
        {3: 3, 6: 3} if network == "alex" else dict.fromkeys((5, 10, 17, 24), 2),
    )
    taps = tuple(ALEX) if network == "alex" else (2, 7, 14, 21, 28)
    depths = []
    for image in (picture, other):
        x = torch.tensor(np.asarray(image), dtype=torch.float64).permute(2, 0, 1) / 127.5 - 1
        x = (x - torch.tensor([-0.030, -0.088, -0.188])[:, None, None]) / torch.tensor([0.458, 0.448, 0.450])[
            :, None, None
        ]
        states = []
        for number in ALEX if network == "alex" else VGG:
            x = pooled(x, pools[number]) if number in pools else x
            stride, pad = (strides.get(number, 1), pads.get(number, 1)) if network == "alex" else (1, 1)
            x = convolved(x, trunk[f"features.{number}.weight"], trunk[f"features.{number}.bias"], stride, pad).clamp(
                min=0
            )
            if number in taps:
                states.append(x / x.norm(dim=0, keepdim=True).clamp(min=1e-10))
        depths.append(states)
    return sum(float(((a - b) ** 2 * h[:, None, None]).sum(0).mean()) for a, b, h in zip(*depths, heads, strict=True))


def pictures(count=3, size=(64, 48)):
    return photos.noise(count, size)


@pytest.mark.parametrize(("network", "size"), [("alex", (64, 48)), ("vgg", (40, 32))])
def test_lpips_equals_the_naive_one(files, network, size):
    images = pictures(3, size)
    others = [images[1], images[2], Image.new("RGB", size, (10, 200, 90))]
    found = Lpips(network, *files[network])(images, others)
    expected = [naive(network, a, b) for a, b in zip(images, others, strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0.1


def test_lpips_is_a_distance_and_does_not_depend_on_the_batch(files):
    measure, images = Lpips("alex", *files["alex"]), pictures(20)
    assert torch.equal(measure(images, images), torch.zeros(20))
    there, back = measure(images, images[::-1]), measure(images[::-1], images)
    assert torch.allclose(there, back, rtol=1e-5)
    assert torch.allclose(measure(images[18:], images[::-1][18:]), there[18:], rtol=1e-5)


@photos.needed
def test_lpips_grows_with_the_damage(files):
    measure = Lpips("alex", *files["alex"], side=64)
    portrait = photos.astronaut()
    blurred = [portrait.resize((side, side)).resize((512, 512)) for side in (64, 16, 4)]
    near, middle, far = measure([portrait] * 3, blurred).tolist()
    assert near < middle < far < measure([portrait], [photos.cat()]).item() * 3
    assert "resize=bicubic-64" in measure.name


@pytest.mark.parametrize(("build", "expected"), [(alexnet, ALEX), (vgg16, VGG)])
def test_trunks_have_torchvisions_names_and_shapes(build, expected):
    with torch.device("meta"):
        found = {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}
    shapes = {f"{n}.weight": (out, into, side, side) for n, (out, into, side) in expected.items()}
    assert found == shapes | {f"{n}.bias": (out,) for n, (out, _, _) in expected.items()}


def test_lpips_refuses_what_it_cannot_compare(files, tmp_path):
    measure = Lpips("alex", *files["alex"])
    with pytest.raises(UsageError, match="give pairs"):
        measure(pictures(2), pictures(1))
    with pytest.raises(UsageError, match="cannot be compared"):
        measure(pictures(1), pictures(1, (48, 48)))
    with pytest.raises(UsageError, match="at least 32"):
        measure(pictures(1, (20, 20)), pictures(1, (20, 20)))
    with pytest.raises(UsageError, match="different sizes"):
        measure([*pictures(1), *pictures(1, (48, 48))], pictures(2))
    with pytest.raises(EffaceError, match=r"lacks 2\.weight and 21 more: expected torchvision's state dict of VGG16"):
        Lpips("vgg", files["alex"][0], files["vgg"][1])
    with pytest.raises(EffaceError, match=r"lin1\.model\.1\.weight of shape \(1, 128, 1, 1\) .* five heads of LPIPS"):
        Lpips("alex", files["alex"][0], files["vgg"][1])
    with pytest.raises(EffaceError, match="could not be read"):
        Lpips("alex", tmp_path / "none.pth", files["alex"][1])
    names = {Lpips("alex", *files["alex"]).name, Lpips("alex", *files["alex"], side=64).name}
    assert len(names) == 2
