"""Maps of cross-attention: which pixels look at which tokens, and where a picture shows a concept by them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.models.model import Model, Text
from efface.training.latents import Noisy

THRESHOLD = 0.1
"""Share of the strongest attention above which a pixel shows a concept (Receler's authors)."""


class CrossAttention(NamedTuple):
    """An attention of the denoiser's pixels to the tokens of a text."""

    name: str
    """Full name, for example `unet.mid_block.attentions.0.transformer_blocks.0.attn2`."""
    module: Any
    """A module with `to_q`, `to_k`, `heads`; its output is (batch pixels width)."""


def cross_attentions(model: Model) -> list[CrossAttention]:
    """Every cross-attention of the denoiser, in order.

    Raises:
        EffaceError: it has none, since text and picture share its layers.
    """
    network = model.networks()[0]
    read = {projection.name for projection in model.text_projections()}
    found = [
        CrossAttention(f"{network.name}.{path}", module)
        for path, module in network.module.named_modules()
        if path.endswith("attn2") and f"{network.name}.{path}.to_k" in read  # SD 3.5 has others of that name
    ]
    if not found:
        raise EffaceError(
            f"the denoiser of this {model.family.name} pipeline has no cross-attention (text and picture share its layers), which "
            "this method stands on: choose another."
        )
    return found


class _Recorder:
    """Keeps queries, keys and mask of one attention's last call."""

    def __init__(self, attention: Any):
        self.heads = int(attention.heads)
        self.parts: dict[str, Tensor] = {}
        self.bias: Tensor | None = None

    def part(self, name: str) -> Any:
        """A hook that keeps what a layer gives: the norm of queries or keys comes after their matrix, and counts."""

        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            split = output if output.ndim == 4 else output.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            self.parts[name] = split

        return hook

    def mask(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """A hook that keeps the additive mask of a call, which leaves padding out."""
        self.bias = kwargs.get("attention_mask")

    def probabilities(self) -> Tensor:
        """softmax(Q Kᵀ / √d) (batch heads pixels tokens)."""
        q, k = self.parts["q"].float(), self.parts["k"].float()
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return (scores if self.bias is None else scores + self.bias[:, None].float()).softmax(-1)


@contextmanager
def attention_maps(model: Model) -> Iterator[list[_Recorder]]:
    """Context in which every cross-attention is recorded; `probabilities` of each are those of its last call."""
    with ExitStack() as stack:
        recorders = []
        for _, attention in cross_attentions(model):
            recorder = _Recorder(attention)
            layers = {"q": (attention.to_q, attention.norm_q), "k": (attention.to_k, attention.norm_k)}
            for name, modules in layers.items():
                for module in filter(None, modules):
                    stack.callback(module.register_forward_hook(recorder.part(name)).remove)
            stack.callback(attention.register_forward_pre_hook(recorder.mask, with_kwargs=True).remove)
            recorders.append(recorder)
        yield recorders


def positions_of(model: Model, prompt: str, name: str) -> list[int]:
    """Positions of a name's tokens in a prompt, or of all its content where it does not hold the name."""
    span = model.token_spans()[0]
    head, found, _ = prompt.partition(name)
    begin = span.position(head.strip() if found else "", prompt) + 1
    end = span.position(head + name if found else prompt, prompt) + 1
    return [span.start + position for position in range(begin, max(end, begin + 1))]


@torch.no_grad()
def concept_mask(model: Model, at: Noisy, text: Text, positions: Sequence[int]) -> Tensor:
    """Which pixels of noisy latents show what some tokens name, by the frozen model's attention (batch 1 rows columns).

    The maps are those of the layers nearest to a quarter of the latents' side, which for Stable Diffusion are the 16 x 16 ones:
    the mean over tokens, heads and layers, scaled to 0 … 1, where it is at least 0.1.
    """
    with attention_maps(model) as recorders:
        model.predict(at.z, at.timestep, text)
    rows, columns = at.z.shape[-2:]
    maps = [recorder.probabilities()[..., list(positions)].mean((1, 3)) for recorder in recorders]
    size = min((m.shape[1] for m in maps), key=lambda pixels: abs(pixels - rows * columns / 16))
    mean = torch.stack([m for m in maps if m.shape[1] == size]).mean(0)
    least, most = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
    scaled = (mean - least) / (most - least).clamp(min=torch.finfo(mean.dtype).tiny)
    return (scaled >= THRESHOLD).unflatten(1, (1, *sides(size, rows, columns)))


def resized(mask: Tensor, pixels: int) -> Tensor:
    """A mask (batch 1 rows columns) for a layer of so many pixels (batch pixels)."""
    rows, columns = mask.shape[-2:]
    return F.interpolate(mask.float(), sides(pixels, rows, columns)).flatten(1) > 0.5


def sides(pixels: int, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of so many pixels in the shape of a picture."""
    height = round((pixels * rows / columns) ** 0.5)
    return height, pixels // height
