"""An erasure of every kind that can act on some rows of a batch, for the tiny Stable Diffusion."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

import efface
import tiny
from alive import adapter, latent_edit, text_map
from efface.erasures import Erasure, WeightDelta
from efface.erasures.gated_delta import GatedDelta
from efface.erasures.provenance import provenance
from efface.erasures.transport import Transport
from efface.models.model import Model
from tiny_families import pipeline

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}",))
BLOCK = "unet.mid_block.attentions.0"
LAYERS = (f"{BLOCK}.transformer_blocks.0.attn2.to_k", f"{BLOCK}.proj_in", "unet.conv_out")
"""A linear layer, a convolution of 1 x 1 and one of 3 x 3."""


def erasures_of_every_kind(folder: Path) -> dict[str, Erasure]:
    """Kind -> an erasure, all of which move pictures far enough to compare."""
    pipe = pipeline("sd1")
    return {
        "textmap": text_map(),
        "gated-map": efface.erase(
            pipe, CHURCH, method="gated", keep=["a dog"], margin=-2.0, prior="never", aliases=False
        ),
        "activation": latent_edit(folder),
        "adapter": adapter(),
        "gated-delta": _gated_delta(pipe),
        "delta": low_rank_delta(),
        "text-edit": efface.erase(
            pipe, CHURCH, method="itd", keep=["a dog"], **tiny.text_options(pipe, folder / "text")
        ),
    }


GUARDS: dict[str, dict[str, Any]] = {
    "sld": {"preset": "max"},
    "negative-prompt": {},
    "crg": {"threshold": 1e-12},
    "safree": {"window": 1.0, "slope": 50.0, "middle": 0.0},
    "seot": {"start": 0.0, "reference": 5.0},
    "concept-steerers": {"strength": -5.0, "iterations": 3, "factor": 2, "k": 4, "keep": ("a dog", "a cat")},
}
"""Guard -> options under which it moves pictures of the tiny Stable Diffusion."""


@cache
def guard(method: str, concept: str = "church") -> Erasure:
    """A guard for the tiny Stable Diffusion."""
    given = efface.Concept(concept, anchor="cat", templates=("a {}",))
    return efface.erase(pipeline("sd1"), given, method=method, **GUARDS[method])


@cache
def low_rank_delta() -> WeightDelta:
    """Factors beside layers of the denoiser and one of the text encoder."""
    pipe = pipeline("sd1")
    encoder = (path for path, _ in pipe.text_encoder.named_modules() if path.endswith("0.mlp.fc1"))
    return WeightDelta(text_map().provenance, _factors(pipe, (*LAYERS, *(f"text_encoder.{path}" for path in encoder))))


def _gated_delta(pipe: Any) -> GatedDelta:
    model = Model(pipe)
    deltas = {f"0|{name}": part for name, part in _factors(pipe, LAYERS).items()}
    transport = Transport.of(model, [CHURCH.name], [CHURCH.prompts()], centred=True, keep=("a dog",))
    return GatedDelta(provenance(model, "spm", {}, (CHURCH,), []), deltas, transport)


def _factors(pipe: Any, layers: tuple[str, ...]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    factors = {}
    for name in layers:
        component, _, path = name.partition(".")
        weight = getattr(pipe, component).get_submodule(path).weight
        factors[f"{name}.weight.up"] = 0.5 * torch.randn(len(weight), 2, generator=generator)
        factors[f"{name}.weight.down"] = 0.5 * torch.randn(2, weight[0].numel(), generator=generator)
    return factors
