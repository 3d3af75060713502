"""The direction of a concept in the autoencoder of a text encoder's layer (concept steerers, arXiv 2501.19066)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.io.progress import tell
from efface.models.caller import aside
from efface.models.model import Model
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder

VECTORS = 65536
"""States from which an autoencoder is trained at most."""


def middle_layer(model: Model) -> str:
    """Path of the layer three quarters up the first text encoder, and below its last; the authors' ninth of CLIP's twelve.

    Raises:
        EffaceError: the encoder has no list of layers.
    """
    encoder = model.token_spans()[0].encoder
    component = next((name for name, part in model.family.text_encoders().items() if part is encoder), None)
    stacks = [
        (name, part) for name, part in encoder.named_modules() if isinstance(part, nn.ModuleList) and len(part) > 1
    ]
    if component is None or not stacks:
        raise EffaceError("the text encoder has no list of layers: name the layer that is steered with --layer.")
    path, layers = max(stacks, key=lambda pair: (len(pair[1]), -pair[0].count(".")))
    return f"{component}.{path}.{min(3 * len(layers) // 4, len(layers) - 2)}"


@torch.no_grad()
def layer_states(model: Model, layer: str, prompts: Sequence[str]) -> Tensor:
    """What a layer of a text encoder returns for prompts, encoded one by one (prompts tokens width); shorter ones end in zeros."""
    component, _, path = layer.partition(".")
    found: list[Tensor] = []

    def look(module: Any, args: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[0].detach().float().cpu())

    module = model.family.text_encoders()[component].get_submodule(path)
    handle = module.register_forward_hook(look)
    try:
        with aside():
            for prompt in prompts:
                model.encode([prompt])
    finally:
        handle.remove()
    longest = max(map(len, found))
    return torch.stack([nn.functional.pad(part, (0, 0, 0, longest - len(part))) for part in found])


def direction(model: Model, sae: SparseAutoencoder, layer: str, text: str) -> Tensor:
    """r = z W_dec with z = ReLU(W (x − b) + b_l), all latents, no bias: (tokens width), or its mean over the text (1 width) where
    prompts stand in a template or have no fixed length."""
    (x,) = layer_states(model, layer, [text])
    with torch.no_grad():
        r = sae.activations(x) @ sae.W_dec
    spans = model.token_spans()
    if model.family.reads_padding and not any(span.before or span.pads_left for span in spans):
        return r.float()
    return r[x.any(1)].mean(0, keepdim=True).float()


def train_on_states(
    states: Tensor, *, latents: int, k: int, iterations: int, lr: float, seed: int
) -> SparseAutoencoder:
    """A k-sparse autoencoder of some states (rows width), trained on the mean square error by Adam; latents that die stay dead."""
    generator = torch.Generator().manual_seed(seed)
    sae = SparseAutoencoder(SAEConfig(states.shape[1], latents, k), seed=seed)
    sae.b_dec.data = states.mean(0)
    spread = (states - states.mean(0)).square().mean().clamp(min=1e-12)
    optimiser = torch.optim.Adam(sae.parameters(), lr=lr)
    for number in range(iterations):
        batch = states[torch.randint(len(states), (min(1024, len(states)),), generator=generator)]
        loss = (sae(batch) - batch).square().mean() / spread
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        sae.normalise()
        if number % 50 == 0:
            tell(
                f"autoencoder of the text encoder: {number} of {iterations} iterations, FVU {float(loss.detach()):.3f}"
            )
    return sae.requires_grad_(False)
