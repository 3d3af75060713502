"""UnlearnCanvas's judges: the published names and shapes, and a naive transformer in float64."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import photos
from efface.errors import EffaceError, UsageError
from efface.judges.labels import UNLEARNCANVAS_OBJECTS, UNLEARNCANVAS_STYLES
from efface.judges.unlearncanvas import UnlearnCanvasJudge
from efface.judges.vit import VIT_LARGE, Shape, VisionTransformer

SMALL = Shape(width=16, depth=2, heads=4, side=32)


def published(shape, classes):
    """Names and shapes of timm's state dict."""
    width, tokens = shape.width, (shape.side // 16) ** 2 + 1
    names = {"cls_token": (1, 1, width), "pos_embed": (1, tokens, width),
             "patch_embed.proj.weight": (width, 3, 16, 16), "patch_embed.proj.bias": (width,)}  # fmt: skip
    for n in range(shape.depth):
        block = {"norm1.weight": (width,), "norm1.bias": (width,), "attn.qkv.weight": (3 * width, width),
                 "attn.qkv.bias": (3 * width,), "attn.proj.weight": (width, width), "attn.proj.bias": (width,),
                 "norm2.weight": (width,), "norm2.bias": (width,), "mlp.fc1.weight": (4 * width, width),
                 "mlp.fc1.bias": (4 * width,), "mlp.fc2.weight": (width, 4 * width), "mlp.fc2.bias": (width,)}  # fmt: skip
        names |= {f"blocks.{n}.{name}": size for name, size in block.items()}
    return names | {
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (classes, width),
        "head.bias": (classes,),
    }


def random_weights(classes, shape=SMALL):
    generator = torch.Generator().manual_seed(classes)
    return {name: torch.randn(size, generator=generator) * 0.4 for name, size in published(shape, classes).items()}


def naive_vit(weights, picture, shape=SMALL):
    """Logits of one picture (height width 3) in −1..1, one token and one head after the other, in float64."""
    w = {name: tensor.double().numpy() for name, tensor in weights.items()}

    def norm(x, name):
        return (x - x.mean()) / math.sqrt(x.var() + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    tokens = [w["cls_token"][0, 0]]
    for top in range(0, shape.side, 16):
        for left in range(0, shape.side, 16):
            patch = picture[top : top + 16, left : left + 16].transpose(2, 0, 1)
            tokens.append((w["patch_embed.proj.weight"] * patch).sum((1, 2, 3)) + w["patch_embed.proj.bias"])
    tokens = [token + place for token, place in zip(tokens, w["pos_embed"][0], strict=True)]
    part = shape.width // shape.heads
    for n in range(shape.depth):
        block = f"blocks.{n}"
        projected = [
            linear(norm(t, f"{block}.norm1"), f"{block}.attn.qkv").reshape(3, shape.heads, part) for t in tokens
        ]
        mixed = []
        for query, _, _ in projected:
            heads = []
            for h in range(shape.heads):
                weight = np.exp([query[h] @ key[h] / math.sqrt(part) for _, key, _ in projected])
                heads.append(
                    sum(a * value[h] for a, (_, _, value) in zip(weight / weight.sum(), projected, strict=True))
                )
            mixed.append(linear(np.concatenate(heads), f"{block}.attn.proj"))
        tokens = [t + m for t, m in zip(tokens, mixed, strict=True)]
        for i, token in enumerate(tokens):
            hidden = linear(norm(token, f"{block}.norm2"), f"{block}.mlp.fc1")
            hidden = np.array([x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in hidden])
            tokens[i] = token + linear(hidden, f"{block}.mlp.fc2")
    return linear(norm(tokens[0], "norm"), "head")


@pytest.mark.parametrize("classes", [51, 20])
def test_the_transformer_has_the_published_names_and_shapes(classes):
    with torch.device("meta"):
        net = VisionTransformer(VIT_LARGE, classes)
    assert {name: tuple(t.shape) for name, t in net.state_dict().items()} == published(VIT_LARGE, classes)
    assert len(net.state_dict()) == 296
    assert (len(UNLEARNCANVAS_STYLES), len(UNLEARNCANVAS_OBJECTS)) == (51, 20)


@pytest.mark.parametrize(("what", "labels"), [("style", UNLEARNCANVAS_STYLES), ("object", UNLEARNCANVAS_OBJECTS)])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_unlearnembedded_judges_as_a_naive_transformer_does(tmp_path, what, labels, prefix):
    weights, pictures, path = random_weights(len(labels)), photos.noise(2), tmp_path / "head.pth"
    torch.save({"epoch": 3, "model_state_dict": {prefix + name: t for name, t in weights.items()}}, path)
    judge = UnlearnCanvasJudge(what, path, shape=SMALL)
    found = judge(pictures)
    for picture, scores, label in zip(pictures, found.scores, found.labels, strict=True):
        levels = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)) / 127.5 - 1
        logits = naive_vit(weights, levels)
        expected = np.exp(logits - logits.max())
        assert scores.numpy() == pytest.approx(expected / expected.sum(), abs=1e-4)
        assert label == labels[int(scores.argmax())]
    assert f"unlearncanvas-{what} weights=" in judge.name
    assert "resize=bilinear-32" in judge.name


def without(weights, name):
    return {key: tensor for key, tensor in weights.items() if key != name}


BROKEN = {
    "other head": (lambda w: random_weights(20), r"head\.weight of shape \(20, 16\) where \(51, 16\)"),
    "missing": (lambda w: without(w, "norm.bias"), r"lacks norm\.bias"),
    "unknown": (lambda w: w | {"fc_norm.weight": torch.ones(16)}, r"holds fc_norm\.weight, which has no place"),
    "not finite": (lambda w: w | {"norm.bias": torch.full((16,), math.nan)}, r"norm\.bias that are not finite"),
    "no state dict": (lambda w: {"epoch": 3}, "no state dict"),
    "a list": (lambda w: [1, 2], "no state dict"),
    "code": (lambda w: w | {"norm.bias": Path}, "holds more than tensors"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_other_state_dicts_are_refused(tmp_path, case):
    change, message = BROKEN[case]
    torch.save(change(random_weights(51)), tmp_path / "style50.pth")
    with pytest.raises(EffaceError, match=message):
        UnlearnCanvasJudge("style", tmp_path / "style50.pth", shape=SMALL)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files_are_refused(tmp_path, keep, suffix):
    from safetensors.torch import save_file

    path, weights = tmp_path / f"style50{suffix}", random_weights(51)
    torch.save(weights, path) if suffix == ".pth" else save_file(weights, path)
    assert UnlearnCanvasJudge("style", path, shape=SMALL).classes == UNLEARNCANVAS_STYLES
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(EffaceError, match="damaged"):
        UnlearnCanvasJudge("style", path, shape=SMALL)
    with pytest.raises(EffaceError, match="could not be read"):
        UnlearnCanvasJudge("style", tmp_path / f"none{suffix}", shape=SMALL)


def test_no_picture_is_bad_usage(tmp_path):
    torch.save(random_weights(20), tmp_path / "cls.pth")
    with pytest.raises(UsageError, match="no picture"):
        UnlearnCanvasJudge("object", tmp_path / "cls.pth", shape=SMALL)([])


def test_pictures_with_an_alpha_channel_or_a_palette_are_judged_in_their_colours(tmp_path):
    torch.save(random_weights(20), tmp_path / "cls.pth")
    judge = UnlearnCanvasJudge("object", tmp_path / "cls.pth", shape=SMALL)
    grey = Image.new("L", (32, 32), 77)
    scores = judge([grey, grey.convert("RGBA"), grey.convert("P"), grey.convert("RGB")]).scores
    assert torch.allclose(scores, scores[-1:].expand_as(scores), atol=1e-6)
