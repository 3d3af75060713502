"""The sparse autoencoder: z = TopK(ReLU(W_enc (x − b_dec) + b_enc)), x̂ = z W_dec + b_dec.

TopK: Makhzani & Frey 2014 and Gao et al. 2024 (arXiv 2406.04093). BatchTopK and the threshold that replaces it at
inference: Bussmann et al. 2024 (arXiv 2412.06410). On diffusion models: SAeUron (arXiv 2501.18052).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efface.errors import EffaceError, UsageError

Rule = Literal["topk", "batchtopk", "threshold"]


@dataclass(frozen=True)
class CoderConfig:
    """Shape of an autoencoder, and which latents are active."""

    width: int
    """Inputs: channels of the site."""
    latents: int
    """Size of the dictionary (paper: 16 times the width)."""
    k: int = 32
    """Active latents of a vector (paper: 32)."""
    rule: Rule = "topk"
    """`topk`: the k largest of each vector; `batchtopk`: the k largest on average over a batch, for training;
    `threshold`: all above one learned threshold, which batchtopk becomes at inference."""

    def __post_init__(self) -> None:
        if not 0 < self.k <= self.latents:
            raise UsageError(f"k is {self.k} with {self.latents} latents; expected 1 to {self.latents}.")


class Code(NamedTuple):
    """Active latents of many vectors, as a sparse matrix in compressed rows."""

    values: Tensor
    """Activations (active,), all above 0."""
    latents: Tensor
    """Which latent each belongs to (active,)."""
    offsets: Tensor
    """Where each vector's begin, and the end of the last (rows + 1)."""

    @property
    def rows(self) -> Tensor:
        """Which vector each activation belongs to (active,)."""
        return torch.repeat_interleave(self.offsets.diff())

    def dense(self, latents: int) -> Tensor:
        """(rows latents)"""
        full = self.values.new_zeros(len(self.offsets) - 1, latents)
        return full.index_put((self.rows, self.latents), self.values)


class Coder(nn.Module):
    """A sparse autoencoder with decoder rows of unit length.

    Args:
        config: its shape.
        seed: of the initial encoder; the decoder starts as its copy, rows scaled to unit length, biases at zero.
    """

    def __init__(self, config: CoderConfig, *, seed: int = 0):
        super().__init__()
        self.config = config
        generator = torch.Generator().manual_seed(seed)
        bound = config.width**-0.5
        weight = (torch.rand(config.latents, config.width, generator=generator) * 2 - 1) * bound
        self.encoder = nn.Linear(config.width, config.latents, device="meta").to_empty(device="cpu")
        self.encoder.weight.data = weight
        self.encoder.bias.data = torch.zeros(config.latents)
        self.W_dec = nn.Parameter(F.normalize(weight, dim=1))
        self.b_dec = nn.Parameter(torch.zeros(config.width))
        self.register_buffer("threshold", torch.zeros(()))

    threshold: Tensor
    """Least activation of an active latent under the rule `threshold`; learned while training with batchtopk."""

    def activations(self, x: Tensor) -> Tensor:
        """Every latent before selection (... latents) of vectors (... width), in the coder's dtype.

        Raises:
            EffaceError: the vectors have another width.
        """
        if x.shape[-1] != self.config.width:
            raise EffaceError(
                f"the activations have {x.shape[-1]} channels where the autoencoder reads {self.config.width}: "
                "was it trained on another site?"
            )
        return F.relu(self.encoder(x.to(self.b_dec.dtype) - self.b_dec))

    def encode(self, x: Tensor) -> Code:
        """Active latents of vectors (rows width) by the coder's own rule."""
        return self.select(self.activations(x))

    def select(self, activations: Tensor, k: int | None = None) -> Code:
        """The active ones among activations (rows latents): the coder's own k of them, or another number."""
        k = k or self.config.k
        if self.config.rule == "topk":
            values, latents = top(activations, k)
            rows = torch.arange(len(activations), device=activations.device).repeat_interleave(k)
            return compressed(values.flatten(), latents.flatten(), rows, len(activations))
        if self.config.rule == "threshold":
            rows, latents = (activations > self.threshold).nonzero(as_tuple=True)
            return compressed(activations[rows, latents], latents, rows, len(activations))
        values, places = largest(activations, k * len(activations), k)
        places, order = places.sort()
        rows = places.div(self.config.latents, rounding_mode="floor")
        return compressed(values[order], places % self.config.latents, rows, len(activations))

    def decode(self, code: Code) -> Tensor:
        """Vectors (rows width) of a code."""
        summed = F.embedding_bag(
            code.latents, self.W_dec, code.offsets, mode="sum", per_sample_weights=code.values, include_last_offset=True
        )
        return summed + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions of vectors (... width)."""
        return self.decode(self.encode(x.flatten(0, -2))).reshape(x.shape)

    def at_inference(self) -> Coder:
        """The same coder with the rule that inference uses: batchtopk becomes its learned threshold."""
        if self.config.rule != "batchtopk":
            return self
        other = Coder.sharing(self)
        other.config = replace(self.config, rule="threshold" if self.threshold > 0 else "topk")
        return other

    @classmethod
    def sharing(cls, coder: Coder) -> Coder:
        """A coder with the very same weights, whose configuration may be another."""
        other = cls.__new__(cls)
        nn.Module.__init__(other)
        other.config = coder.config
        other.encoder, other.W_dec, other.b_dec = coder.encoder, coder.W_dec, coder.b_dec
        other.register_buffer("threshold", coder.threshold)
        return other

    @torch.no_grad()
    def normalise(self) -> None:
        """Bring decoder rows back to unit length."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp(min=torch.finfo(self.W_dec.dtype).tiny))


def top(activations: Tensor, k: int, groups: int = 16) -> tuple[Tensor, Tensor]:
    """The k largest of each row (rows latents) and which they are, in no order; two to three times as fast as `topk`.

    The k largest of a row lie in the k groups with the largest maxima, so only those groups need to be sorted.
    """
    rows, latents = activations.shape
    size = latents // groups
    if latents % groups or size < 4 * k:
        return activations.topk(k, dim=1, sorted=False)
    # Group j holds the latents j, j + size, j + 2 size, …: maxima of whole stretches of memory.
    best = activations.view(rows, groups, size).amax(1).topk(k, dim=1, sorted=False).indices
    members = (best[:, None] + torch.arange(groups, device=activations.device)[:, None] * size).flatten(1)
    values, chosen = activations.gather(1, members).topk(k, dim=1, sorted=False)
    return values, members.gather(1, chosen)


def largest(activations: Tensor, count: int, k: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of all (rows latents), and their places in the flattened matrix.

    Candidates are the 4k largest of each row: sorting the whole matrix would take as long as the encoder's product. Where
    a row turns out to have more that count, all are sorted after all.
    """
    rows, latents = activations.shape
    width = min(4 * k, latents)
    values, chosen = top(activations, width)
    places = chosen + torch.arange(rows, device=activations.device)[:, None] * latents
    best = values.flatten().topk(count, sorted=False)
    if width < latents and bool((values.amin(1) > best.values.min()).any()):
        best = activations.flatten().topk(count, sorted=False)
        return best.values, best.indices
    return best.values, places.flatten()[best.indices]


def compressed(values: Tensor, latents: Tensor, rows: Tensor, count: int) -> Code:
    """A code of `count` vectors from its entries sorted by row; entries of 0 are inactive and left out."""
    active = values > 0
    if not bool(active.all()):
        values, latents, rows = values[active], latents[active], rows[active]
    offsets = torch.zeros(count + 1, dtype=torch.long, device=values.device)
    offsets[1:] = torch.bincount(rows, minlength=count).cumsum(0)
    return Code(values, latents, offsets)


@torch.no_grad()
def geometric_median(vectors: Tensor, rounds: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The point (width,) with the least summed distance to vectors (rows width), by Weiszfeld's iteration.

    Raises:
        EffaceError: the vectors are not finite.
    """
    if not torch.isfinite(vectors).all():
        raise EffaceError("the activations hold values that are not finite: check the model's weights and dtype.")
    point = vectors.mean(0)
    for _ in range(rounds):
        weights = 1 / (vectors - point).norm(dim=1, keepdim=True).clamp(min=1e-12)
        before, point = point, (vectors * weights).sum(0) / weights.sum()
        if (point - before).norm() <= tolerance * point.norm():
            break
    return point
