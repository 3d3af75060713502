"""One training step's loss and gradients in closed form: everything beside the encoder's product touches active latents only.

With a = x − b_dec, z the code, x̂ = z W_dec + b_dec and V the batch's total variance, the loss is
FVU = Σ|x̂ − x|²/V, and with g = 2(x̂ − x)/V and dz = g W_decᵀ on the active latents

    dW_dec = zᵀ g,  dW_enc = dzᵀ a,  db_enc = Σ dz,  db_dec = Σ g − (Σ dz) W_enc.

With several numbers of active latents the loss is the mean of their FVUs (Multi-TopK, Gao et al. 2024, arXiv 2406.04093,
appendix A.3): the strongest latents then say most, and a reconstruction from few of them is good as well.

AuxK (the same paper) lets dead latents model what is left, r = x − x̂, held constant. The public code of SAeUron trains it on −r,
lets its gradient run into x̂, decodes with b_dec, and takes latents after the ReLU, where dead ones have none, and under
batchtopk the best of the batch instead of each vector's (`published_auxk`).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from efface.sae.autoencoder import SparseAutoencoder, SparseCode, to_sparse_code

AUXK_ROWS = 256
"""Rows of which dead latents are looked for at a time, since their activations are copied."""


@dataclass
class Workspace:
    """Buffers reused at every step: allocating them anew takes a quarter of a step."""

    product: Tensor
    """The encoder's product (rows latents)."""
    encoder: Tensor
    """Gradient of the encoder's weight (latents width)."""
    decoder: Tensor
    """Gradient of the decoder (latents width)."""

    @classmethod
    def of(cls, sae: SparseAutoencoder, rows: int) -> Workspace:
        """Allocate buffers for batches of `rows` vectors."""
        weight = sae.W_dec.detach()
        return cls(weight.new_empty(rows, len(weight)), torch.empty_like(weight), torch.empty_like(weight))


class Step(NamedTuple):
    """Loss of one batch and the gradients of its parameters, as `SparseAutoencoder.parameters()` orders and names them."""

    fvu: Tensor
    """Share of the variance unexplained by the reconstruction from the autoencoder's own k, 0 to 1."""
    auxk: Tensor
    """Share of the residual unexplained by dead latents, scaled by how many are dead; 0 without any."""
    code: SparseCode
    """Active latents."""
    gradients: dict[str, Tensor]
    """Parameter name -> gradient."""


@torch.no_grad()
def step(
    sae: SparseAutoencoder,
    x: Tensor,
    *,
    multi_k: Sequence[int] = (),
    dead: Tensor | None = None,
    alpha: float = 1 / 32,
    workspace: Workspace | None = None,
    published_auxk: bool = False,
) -> Step:
    """Loss FVU + α·AuxK of a batch, and its gradients.

    Args:
        sae: the autoencoder in training; its rule selects active latents.
        x: vectors (rows width).
        multi_k: further numbers of active latents whose reconstructions count.
        dead: which latents are dead (latents,); None leaves AuxK out.
        alpha: weight of AuxK.
        workspace: holds the returned gradients until the next step that uses it.
        published_auxk: whether AuxK is that of SAeUron's public code.
    """
    workspace = workspace or Workspace.of(sae, len(x))
    a = x - sae.b_dec
    before = torch.addmm(sae.encoder.bias, a, sae.encoder.weight.T, out=workspace.product)
    # The largest are those of the ReLU; what is not above 0 is left out of a code.
    codes = [sae.select(before, k) for k in (sae.config.k, *multi_k)]
    errors = [sae.decode(code) - x for code in codes]
    code = codes[0]
    error = errors[0]
    variance = (x - x.mean(0)).norm().square().clamp(min=torch.finfo(x.dtype).tiny)
    g = _concatenate(errors) * (2 / (variance * len(codes)))
    gradients = _gradients(sae, _concatenate_codes(codes), _concatenate([a] * len(codes)), g, workspace)
    gradients["b_dec"] += g.sum(0)
    auxk = x.new_zeros(())
    if dead is not None and bool(dead.any()):
        if published_auxk:
            auxk, more = _published_auxk(sae, before, dead, a, error, code, variance, alpha)
        else:
            auxk, more = _auxk(sae, before, dead, a, -error, variance, alpha)
        for name, gradient in more.items():
            gradients[name] += gradient
    return Step(fvu=error.norm().square() / variance, auxk=auxk, code=code, gradients=gradients)


def _auxk(
    sae: SparseAutoencoder, before: Tensor, dead: Tensor, a: Tensor, residual: Tensor, variance: Tensor, alpha: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """AuxK and its gradients: the best dead latents, before the ReLU, model the residual (rows width)."""
    indices = dead.nonzero().squeeze(1)
    half = max(1, sae.config.width // 2)
    scale = min(len(indices) / half, 1.0)
    count = min(half, len(indices))
    parts = [rows[:, indices].topk(count, dim=1, sorted=False) for rows in before.split(AUXK_ROWS)]
    values, best = (torch.cat(found) for found in zip(*parts, strict=True))
    offsets = torch.arange(len(before) + 1, device=a.device) * values.shape[1]
    code = SparseCode(values.flatten(), indices[best].flatten(), offsets)
    error = sae.decode(code) - sae.b_dec - residual
    loss = scale * error.norm().square() / variance
    return loss, _gradients(sae, code, a, error * (2 * alpha * scale / variance), Workspace.of(sae, 0))


def _published_auxk(
    sae: SparseAutoencoder,
    before: Tensor,
    dead: Tensor,
    a: Tensor,
    error: Tensor,
    code: SparseCode,
    variance: Tensor,
    alpha: float,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The public code's AuxK, |ê − e|² with e = x̂ − x and ê the dead latents' reconstruction, and its gradients.

    Both hold b_dec, which cancels, and both have gradients: what the dead latents' codes are told, the active ones' are told negated.

    Args:
        error: e (rows width).
        code: active latents of x̂.
    """
    indices = dead.nonzero().squeeze(1)
    half = max(1, sae.config.width // 2)
    scale = min(len(indices) / half, 1.0)
    k = min(half, len(indices))
    z = before[:, indices].relu()
    rows = torch.arange(len(z), device=z.device)[:, None]
    flat = (z.topk(k, dim=1).indices + rows * len(indices)).flatten()
    if sae.config.rule == "batchtopk":
        flat = z.flatten().topk(k * len(z), sorted=False).indices
    flat = flat.sort().values
    latents = indices[flat % len(indices)]
    auxiliary = to_sparse_code(z.flatten()[flat], latents, flat.div(len(indices), rounding_mode="floor"), len(z))
    apart = sae.decode(auxiliary) - error
    g = apart * (2 * alpha * scale / variance)
    gradients = _gradients(sae, auxiliary, a, g, Workspace.of(sae, 0))
    for name, gradient in _gradients(sae, code, a, -g, Workspace.of(sae, 0)).items():
        gradients[name] += gradient
    return scale * apart.norm().square() / variance, gradients


def _gradients(
    sae: SparseAutoencoder, code: SparseCode, a: Tensor, g: Tensor, workspace: Workspace
) -> dict[str, Tensor]:
    """Gradients of all parameters, given g, that of the reconstruction (rows width); b_dec's holds the encoder's share only."""
    dz = _dots(sae.W_dec, g, code)
    order = code.latents.argsort(stable=True)
    rows = code.rows[order]
    offsets = torch.zeros(sae.config.latents + 1, dtype=torch.long, device=a.device)
    offsets[1:] = torch.bincount(code.latents, minlength=sae.config.latents).cumsum(0)
    bias = torch.zeros_like(sae.encoder.bias).index_add_(0, code.latents, dz)
    return {
        "W_dec": _weighted_sums(code.values[order], rows, offsets, g, workspace.decoder),
        "encoder.weight": _weighted_sums(dz[order], rows, offsets, a, workspace.encoder),
        "encoder.bias": bias,
        "b_dec": -bias @ sae.encoder.weight,
    }


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate along rows, without a copy where there is one part."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _concatenate_codes(codes: Sequence[SparseCode]) -> SparseCode:
    """Concatenate the codes of several batches along rows."""
    if len(codes) == 1:
        return codes[0]
    starts = torch.tensor([0, *(len(code.values) for code in codes)]).cumsum(0).tolist()
    offsets = [code.offsets[min(i, 1) :] + start for i, (code, start) in enumerate(zip(codes, starts, strict=False))]
    values = torch.cat([code.values for code in codes])
    latents = torch.cat([code.latents for code in codes])
    return SparseCode(values, latents, torch.cat(offsets))


def _weighted_sums(weights: Tensor, rows: Tensor, offsets: Tensor, vectors: Tensor, out: Tensor) -> Tensor:
    """Σ of weight · vector over every latent's activations (latents width), into `out`."""
    if _has_sparse_products(vectors):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse")  # notices that the format is young
            shape = (len(offsets) - 1, len(vectors))
            matrix = torch.sparse_csr_tensor(offsets, rows, weights, shape, check_invariants=False)
            return torch.addmm(out, matrix, vectors, beta=0, out=out)
    summed = F.embedding_bag(rows, vectors, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)
    return out.copy_(summed)


def _dots(decoder: Tensor, g: Tensor, code: SparseCode, chunk: int = 2048) -> Tensor:
    """Dot product of each activation's decoder row with its vector's gradient (active,)."""
    if _has_sparse_products(g):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse")
            zeros = torch.zeros_like(code.values)
            shape = (len(g), len(decoder))
            pattern = torch.sparse_csr_tensor(code.offsets, code.latents, zeros, shape, check_invariants=False)
            return torch.sparse.sampled_addmm(pattern, g, decoder.T, beta=0.0).values()
    pieces = zip(code.latents.split(chunk), code.rows.split(chunk), strict=True)
    return torch.cat([(decoder[latents] * g[rows]).sum(1) for latents, rows in pieces])


def _has_sparse_products(like: Tensor) -> bool:
    """Whether torch multiplies CSR matrices on this device: on CUDA, or on the CPU with MKL."""
    return like.dtype in (torch.float32, torch.float64) and (like.is_cuda or torch.backends.mkl.is_available())


@torch.no_grad()
def without_parallel_(gradient: Tensor, decoder: Tensor) -> Tensor:
    """Remove from a decoder's gradient (latents width) its component along each unit-length row, in place."""
    along = torch.bmm(gradient[:, None], decoder[:, :, None])[:, 0]
    return gradient.addcmul_(decoder, along, value=-1)
