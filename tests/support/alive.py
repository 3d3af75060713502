"""Pipelines of one's own and erasures for them, for tests of what happens to an erasure during a pipeline's life."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import efface
import tiny
from efface.erasures import Adapter, TextMap, WeightDelta
from efface.erasures.adapter import adapter as made_adapter
from tiny_families import pipeline


class OlderTextEncoder(nn.Module):
    """A text encoder as transformers before 5.6 has it: what it computes lies in `text_model`."""

    def __init__(self, inner):
        super().__init__()
        self.text_model = inner
        self.config, self.dtype, self.device = inner.config, inner.dtype, inner.device

    def get_input_embeddings(self):
        return self.text_model.get_input_embeddings()

    def forward(self, *args, **options):
        return self.text_model(*args, **options)


ANCHORS = {"church": "cat", "dog": "art", "garbage truck": "cat"}


def fresh(name: str = "sd1") -> Any:
    """A pipeline of one's own, always with the same weights."""
    pipe = copy.deepcopy(pipeline(name))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def text_map(noun: str = "church", name: str = "sd1") -> TextMap:
    """A text map that moves pictures far enough to compare."""
    made = efface.erase(pipeline(name), efface.Concept(noun, anchor=ANCHORS[noun]), method="uce", keep=["a cow"])
    assert isinstance(made, TextMap)
    return TextMap(made.provenance, made.u * 3.0, made.v)


@cache
def delta(name: str = "sd1") -> WeightDelta:
    """An edit of weights, of the text encoder and of the denoiser."""
    generator = torch.Generator().manual_seed(5)
    pipe = pipeline(name)
    denoiser = "unet" if name == "sd1" else "transformer"
    chosen = {
        "text_encoder": next(n for n, p in pipe.text_encoder.named_parameters() if n.endswith("fc1.weight")),
        denoiser: next(n for n, p in getattr(pipe, denoiser).named_parameters() if n.endswith("to_q.weight")),
    }
    deltas = {
        f"{part}.{path}": 0.5 * torch.randn(getattr(pipe, part).get_parameter(path).shape, generator=generator)
        for part, path in chosen.items()
    }
    return WeightDelta(text_map(name=name).provenance, deltas)


@cache
def adapter(seed: int = 5) -> Adapter:
    """Adapters behind the cross-attention of the tiny Stable Diffusion."""
    generator = torch.Generator().manual_seed(seed)
    pipe = pipeline("sd1")
    parts = {}
    for path, module in pipe.unet.named_modules():
        if path.endswith("attn2"):
            width = module.to_out[0].out_features
            shapes = {"down": (3, width), "down_bias": (3,), "up": (width, 3), "up_bias": (width,)}
            parts |= {f"unet.{path}|{p}": torch.randn(shape, generator=generator) for p, shape in shapes.items()}
    return made_adapter(text_map().provenance, parts)


def latent_edit(folder: Path) -> Any:
    """An edit of activations of the tiny Stable Diffusion."""
    concept = efface.Concept("church", anchor="cat", templates=("a {}", "a {} in noto style"))
    options = tiny.coder_options(pipeline("sd1"), folder)
    return efface.erase(pipeline("sd1"), concept, method="saeuron", keep=["a dog"], **options)


def own(base: Any) -> Any:
    """A pipeline object of one's own over another's networks, as a server gives every thread one."""
    parts = dict(base.components) | {"scheduler": type(base.scheduler).from_config(base.scheduler.config)}
    made = type(base)(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


def shoot(pipe: Any, prompt: str | None = "a church", **more: Any) -> np.ndarray:
    """What a pipeline draws with its own call (1 height width 3)."""
    call = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "np"} | more
    if prompt is not None:
        call["prompt"] = prompt
    torch.manual_seed(0)
    return pipe(generator=torch.Generator().manual_seed(0), **call).images


def gap(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference of two pictures (0 to 1)."""
    return float(np.abs(a.astype(np.float64) - b).max())


def weights(pipe: Any) -> dict[str, torch.Tensor]:
    """Copies of all weights of the networks."""
    parts = {n: m for n, m in pipe.components.items() if isinstance(m, torch.nn.Module)}
    return {f"{n}.{k}": v.clone() for n, m in parts.items() for k, v in m.state_dict().items()}


def assert_same(pipe: Any, before: dict[str, torch.Tensor]) -> None:
    """Every weight is bit for bit what it was."""
    now = weights(pipe)
    assert now.keys() == before.keys()
    for name, tensor in now.items():
        assert torch.equal(tensor, before[name]), name
