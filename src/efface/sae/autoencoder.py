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
Reads = Literal["output", "difference"]


@dataclass(frozen=True)
class SAEConfig:
    """Shape of an autoencoder, and the rule that selects active latents."""

    width: int
    """Input width: channels of the site."""
    latents: int
    """Size of the dictionary (paper: 16 times the width)."""
    k: int = 32
    """Active latents per vector (paper: 32)."""
    rule: Rule = "topk"
    """`topk`: the k largest of each vector; `batchtopk`: the k largest on average over a batch, for training;
    `threshold`: all above one learned threshold, which batchtopk becomes at inference."""
    reads: Reads = "output"
    """What it reads of its site: the `output`, or the `difference` output − input, as SDXL-unbox's do (arXiv 2410.22366)."""

    def __post_init__(self) -> None:
        if not 0 < self.k <= self.latents:
            raise UsageError(f"k is {self.k} with {self.latents} latents; expected 1 to {self.latents}.")


class SparseCode(NamedTuple):
    """Active latents of many vectors as a sparse matrix in compressed row (CSR) format."""

    values: Tensor
    """Activations (active,), all above 0."""
    latents: Tensor
    """Index of the latent of each activation (active,)."""
    offsets: Tensor
    """Where each vector's activations begin, and where the last ends (rows + 1)."""

    @property
    def rows(self) -> Tensor:
        """Index of the vector of each activation (active,)."""
        return torch.repeat_interleave(self.offsets.diff())

    def dense(self, latents: int) -> Tensor:
        """The same activations as a dense matrix (rows latents)."""
        full = self.values.new_zeros(len(self.offsets) - 1, latents)
        return full.index_put((self.rows, self.latents), self.values)


class SparseAutoencoder(nn.Module):
    """A sparse autoencoder with decoder rows of unit length.

    Args:
        config: shape and selection rule.
        seed: seed of the initial encoder; the decoder starts as its copy with rows of unit length, biases start at zero.
    """

    def __init__(self, config: SAEConfig, *, seed: int = 0):
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
        """Activations of all latents before selection (... latents) for vectors (... width), in the autoencoder's dtype.

        Raises:
            EffaceError: the vectors have another width.
        """
        if x.shape[-1] != self.config.width:
            raise EffaceError(
                f"the activations have {x.shape[-1]} channels where the autoencoder reads {self.config.width}: "
                "was it trained on another site?"
            )
        return F.relu(self.encoder(x.to(self.b_dec.dtype) - self.b_dec))

    def encode(self, x: Tensor) -> SparseCode:
        """Active latents of vectors (rows width), selected by the autoencoder's own rule."""
        return self.select(self.activations(x))

    def select(self, activations: Tensor, k: int | None = None) -> SparseCode:
        """Select the active latents from activations (rows latents); k defaults to that of the configuration."""
        k = k or self.config.k
        if self.config.rule == "topk":
            values, latents = top(activations, k)
            rows = torch.arange(len(activations), device=activations.device).repeat_interleave(k)
            return to_sparse_code(values.flatten(), latents.flatten(), rows, len(activations))
        if self.config.rule == "threshold":
            rows, latents = (activations > self.threshold).nonzero(as_tuple=True)
            return to_sparse_code(activations[rows, latents], latents, rows, len(activations))
        values, flat = largest(activations, k * len(activations), k)
        flat, order = flat.sort()
        rows = flat.div(self.config.latents, rounding_mode="floor")
        return to_sparse_code(values[order], flat % self.config.latents, rows, len(activations))

    def decode(self, code: SparseCode) -> Tensor:
        """Vectors (rows width) that a code stands for."""
        summed = F.embedding_bag(
            code.latents, self.W_dec, code.offsets, mode="sum", per_sample_weights=code.values, include_last_offset=True
        )
        return summed + self.b_dec

    def forward(self, x: Tensor) -> Tensor:
        """Reconstructions of vectors (... width)."""
        return self.decode(self.encode(x.flatten(0, -2))).reshape(x.shape)

    def at_inference(self) -> SparseAutoencoder:
        """The same autoencoder with the rule used at inference: batchtopk becomes its learned threshold."""
        if self.config.rule != "batchtopk":
            return self
        other = SparseAutoencoder.sharing(self)
        other.config = replace(self.config, rule="threshold" if self.threshold > 0 else "topk")
        return other

    @classmethod
    def sharing(cls, sae: SparseAutoencoder) -> SparseAutoencoder:
        """A second autoencoder on the same tensors, whose configuration may then be replaced."""
        other = cls.__new__(cls)
        nn.Module.__init__(other)
        other.config = sae.config
        other.encoder = sae.encoder
        other.W_dec = sae.W_dec
        other.b_dec = sae.b_dec
        other.register_buffer("threshold", sae.threshold)
        return other

    @torch.no_grad()
    def normalise(self) -> None:
        """Scale decoder rows back to unit length."""
        self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True).clamp(min=torch.finfo(self.W_dec.dtype).tiny))


def top(activations: Tensor, k: int, groups: int = 16) -> tuple[Tensor, Tensor]:
    """Values and indices of the k largest of each row (rows latents), unsorted; two to three times as fast as `topk`.

    The k largest of a row lie in the k groups with the largest maxima, so only those groups need to be sorted.
    """
    rows, latents = activations.shape
    size = latents // groups
    if latents % groups or size < 4 * k:
        return activations.topk(k, dim=1, sorted=False)
    # Group j holds the latents j, j + size, j + 2 size, …: maxima of whole stretches of memory.
    best = activations.view(rows, groups, size).amax(1).topk(k, dim=1, sorted=False).indices
    members = (best[:, None] + torch.arange(groups, device=activations.device)[:, None] * size).flatten(1)
    values, indices = activations.gather(1, members).topk(k, dim=1, sorted=False)
    return values, members.gather(1, indices)


def largest(activations: Tensor, count: int, k: int) -> tuple[Tensor, Tensor]:
    """Values of the `count` largest entries of a matrix (rows latents), and their indices in the flattened matrix.

    Candidates are the 4k largest of each row: sorting the whole matrix would take as long as the encoder's product, and
    four times its memory. Where a row turns out to have more that count, twice as many are.
    """
    rows, latents = activations.shape
    width = min(4 * k, latents)
    while True:
        values, indices = top(activations, width)
        best = values.flatten().topk(count, sorted=False)
        if width == latents or not bool((values.amin(1) > best.values.min()).any()):
            flat = indices + torch.arange(rows, device=activations.device)[:, None] * latents
            return best.values, flat.flatten()[best.indices]
        width = min(2 * width, latents)


def to_sparse_code(values: Tensor, latents: Tensor, rows: Tensor, count: int) -> SparseCode:
    """A code of `count` vectors, from entries sorted by row; zeros are inactive and left out."""
    active = values > 0
    if not bool(active.all()):
        values = values[active]
        latents = latents[active]
        rows = rows[active]
    offsets = torch.zeros(count + 1, dtype=torch.long, device=values.device)
    offsets[1:] = torch.bincount(rows, minlength=count).cumsum(0)
    return SparseCode(values, latents, offsets)


@torch.no_grad()
def geometric_median(vectors: Tensor, iterations: int = 100, tolerance: float = 1e-6) -> Tensor:
    """The point (width,) with the least summed distance to vectors (rows width), by Weiszfeld's iteration.

    Raises:
        EffaceError: the vectors are not finite.
    """
    if not torch.isfinite(vectors).all():
        raise EffaceError("the activations hold values that are not finite: check the model's weights and dtype.")
    point = vectors.mean(0)
    for _ in range(iterations):
        weights = 1 / (vectors - point).norm(dim=1, keepdim=True).clamp(min=1e-12)
        previous = point
        point = (vectors * weights).sum(0) / weights.sum()
        if (point - previous).norm() <= tolerance * point.norm():
            break
    return point
