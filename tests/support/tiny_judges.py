"""Tiny judges and networks with random weights: of real classes where a command opens them, written out where a test counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTImageProcessorPil,
)

import tiny
from efface.judges import Verdicts
from efface.metrics.lpips import alexnet


class Hues:
    """A classifier that any picture satisfies: its class is the sum of its levels, modulo the classes."""

    detects = False

    def __init__(self, *classes: str):
        self.classes, self.name = classes, f"hues-1 classes={len(classes)}"

    def __call__(self, images):
        places = torch.tensor([hue(image, len(self.classes)) for image in images])
        scores = torch.nn.functional.one_hot(places, len(self.classes)).double()
        return Verdicts(tuple(self.classes[i] for i in places), scores, places % 5 > 0)


def hue(image, count):
    """Which of `count` classes a picture has."""
    return int(np.asarray(image, dtype=np.int64).sum()) % count


class Spots:
    """A detector: how many quarters of a picture are brighter than half in each colour."""

    name, classes, detects = "spots-1 threshold=127", ("RED", "GREEN", "BLUE"), True

    def __call__(self, images):
        counts = torch.tensor([spots(image) for image in images])
        labels = tuple(self.classes[i] for i in counts.argmax(1))
        return Verdicts(labels, counts / 4, torch.ones(len(images), dtype=torch.bool), counts)


def spots(image):
    """Bright quarters of each colour."""
    array = np.asarray(image.convert("RGB"), dtype=float)
    height, width = array.shape[0] // 2, array.shape[1] // 2
    quarters = [array[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    return [sum(float(q[..., c].mean()) > 127 for q in quarters) for c in range(3)]


class Blocks:
    """Features: the mean of every colour in every quarter (12)."""

    name = "blocks-1"

    def __call__(self, images):
        rows = [np.asarray(image.convert("RGB").resize((2, 2), 4), dtype=np.float32).ravel() for image in images]
        return torch.from_numpy(np.stack(rows))


class Brightness:
    """An agreement: how bright a picture is for each word of its prompt."""

    name = "brightness-1"

    def __call__(self, images, prompts):
        return [float(np.asarray(i).mean()) * len(p.split()) for i, p in zip(images, prompts, strict=True)]


def clip(folder: Path) -> Path:
    """A CLIP checkpoint."""
    tok = tiny.tokenizer()
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": len(tok), "max_position_embeddings": tiny.LENGTH, "initializer_factor": 20.0,
            "bos_token_id": tok.bos_token_id, "eos_token_id": tok.eos_token_id, "pad_token_id": tok.pad_token_id}  # fmt: skip
    torch.manual_seed(0)
    vision = tower | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=tower | text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tok.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def classifier(folder: Path, labels: tuple[str, ...]) -> Path:
    """An image classifier's checkpoint."""
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 48, "width": 48}).save_pretrained(folder)
    return folder


def lpips(folder: Path) -> tuple[Path, Path]:
    """AlexNet's trunk and the heads of LPIPS."""
    torch.manual_seed(0)
    trunk = {f"features.{name}": tensor for name, tensor in alexnet().state_dict().items()}
    heads = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate((64, 192, 384, 256, 256))}
    for name, tensors in (("trunk.pth", trunk), ("heads.pth", heads)):
        torch.save(tensors, folder / name)
    return folder / "trunk.pth", folder / "heads.pth"
