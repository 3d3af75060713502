"""Training state of one site's autoencoder."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from efface.errors import UsageError
from efface.io.checkpoint import moments_of, set_moments, with_prefix
from efface.sae.autoencoder import Reads, SAEConfig, SparseAutoencoder, geometric_median
from efface.sae.config import SAETrainConfig
from efface.sae.distributed import average, maximum, mean, world
from efface.sae.loss import Workspace, step, without_parallel_
from efface.sae.supervision import Groups, assign, supervise

PUBLISHED_EPS = 6.25e-10
"""Adam's ε in SAeUron's public code."""
PUBLISHED_DEAD_AFTER = 10_000_000
"""Vectors without firing after which a latent counts as dead there."""


class Source(Protocol):
    """Source of activations: drawn on the fly (`stream.ActivationStream`) or read from disk (`shards.Shards`)."""

    names: list[str]
    """Names of the sites."""
    reads: Reads
    """What of the sites the vectors are."""

    def round(self, index: int) -> dict[str, Tensor]:
        """Site name -> vectors (rows width); the same `index` always gives the same vectors. They hold until the next call."""
        ...


@runtime_checkable
class LabelledSource(Source, Protocol):
    """A source that knows what its pictures show."""

    @property
    def concepts(self) -> list[str]:
        """Names of the concepts."""
        ...

    def groups(self) -> dict[str, Groups]:
        """Site name -> pictures of the round that was read last."""
        ...


class SiteTrainer:
    """Training state of one site's SAE: weights, Adam moments, vectors since each latent fired.

    Args:
        width: of the site's vectors.
        config: options of training.
        reads: what of the site the vectors are.
        device: where it is trained; CUDA where there is one by default.
        workspaces: buffers of the steps by their size, which the sites of a run share.
    """

    def __init__(
        self,
        width: int,
        config: SAETrainConfig,
        reads: Reads = "output",
        *,
        device: torch.device | None = None,
        workspaces: dict[tuple[int, ...], Workspace] | None = None,
    ):
        latents = config.latents or config.expansion * width
        shape = SAEConfig(width=width, latents=latents, k=config.k, rule=config.rule, reads=reads)
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.config = config
        self.sae = SparseAutoencoder(shape, seed=config.seed).to(self.device)
        eps = PUBLISHED_EPS if config.as_published else 1e-8
        self.optimiser = torch.optim.Adam(self.sae.parameters(), lr=config.lr, betas=(0.9, 0.999), eps=eps, fused=True)
        self.vectors_since_fired = torch.zeros(shape.latents, dtype=torch.long, device=self.device)
        self.initialised = False
        self.assigned: Tensor | None = None
        """Latent of each concept (concepts,), of SAEmnesia."""
        self.workspaces = {} if workspaces is None else workspaces

    def begin_from(self, sae: SparseAutoencoder) -> None:
        """Take the weights of another autoencoder to start from.

        Raises:
            UsageError: it has another width or number of latents.
        """
        if sae.W_dec.shape != self.sae.W_dec.shape:
            raise UsageError(
                f"the autoencoder to start from has weights of {tuple(sae.W_dec.shape)}, where this run trains "
                f"{tuple(self.sae.W_dec.shape)} (latents, width): name as many latents."
            )
        self.sae.load_state_dict(sae.state_dict())
        self.initialised = True

    def step(self, x: Tensor, step_number: int, groups: Groups | None = None) -> dict[str, float]:
        """Take one optimiser step on vectors (rows width), and on labelled pictures; returns the figures for the log."""
        config = self.config
        sae = self.sae
        x = x.to(self.device, torch.float32)
        if not self.initialised:
            sae.b_dec.data = mean(geometric_median(x))
            self.initialised = True
        vectors = config.steps * config.batch * world()
        dead = self.vectors_since_fired > (PUBLISHED_DEAD_AFTER if config.as_published else config.dead_after * vectors)
        size = (len(x), *sae.W_dec.shape)
        if size not in self.workspaces:
            self.workspaces.clear()
            self.workspaces[size] = Workspace.of(sae, len(x))
        options = {"multi_k": config.multi_k, "alpha": config.alpha, "published_auxk": config.as_published}
        loss = step(sae, x, dead=dead, workspace=self.workspaces[size], **options)
        gradients = loss.gradients
        figures = {} if groups is None else self._supervise(groups, gradients, step_number)
        if not config.as_published:
            without_parallel_(gradients["W_dec"], sae.W_dec)
        average(list(gradients.values()))
        norm = _clip_(gradients, config.clip)
        if config.as_published:
            without_parallel_(gradients["W_dec"], sae.W_dec)
        for name, parameter in sae.named_parameters():
            parameter.grad = gradients[name]
        self.optimiser.param_groups[0]["lr"] = config.lr * (1 - step_number / config.steps)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)  # the gradients' memory is the other sites' too
        sae.normalise()
        self._update_fired(loss.code.latents, loss.code.values, len(x), step_number)
        return {
            "fvu": float(loss.fvu),
            "auxk": float(loss.auxk),
            "l0": len(loss.code.values) / len(x),
            "dead": float(dead.float().mean()),
            "norm": float(norm),
        } | figures

    def _supervise(self, groups: Groups, gradients: dict[str, Tensor], step_number: int) -> dict[str, float]:
        """Add the gradients of the labels; returns their loss for the log."""
        config = self.config
        if config.supervised == "saemnesia" and self.assigned is None:
            self.assigned = assign(self.sae, groups).to(self.device)
        some = groups.some(config.groups, config.seed * 1_000_003 + step_number)
        found = supervise(self.sae, some, config.supervised, self.assigned, config.supervision)
        for name, gradient in found.gradients.items():
            gradients[name] += gradient
        return {"labels": float(found.loss)}

    def _update_fired(self, latents: Tensor, values: Tensor, rows: int, step_number: int) -> None:
        """Update the count of vectors since each latent fired, and the running mean of the least selected activation."""
        fired = torch.zeros(len(self.vectors_since_fired), device=self.device).index_fill_(0, latents, 1.0)
        maximum(fired)
        self.vectors_since_fired = torch.where(fired > 0, 0, self.vectors_since_fired + rows * world())
        if self.config.rule == "batchtopk" and len(values):
            decay = 0.0 if step_number == 0 else 0.99
            self.sae.threshold.lerp_(mean(values.min()), 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """All tensors that the next step depends on, for a checkpoint."""
        tensors = {f"coder.{k}": v for k, v in self.sae.state_dict().items()}
        tensors["silent"] = self.vectors_since_fired  # keys as in checkpoints of runs that may still be resumed
        tensors |= {f"adam.{index}.{name}": v for (index, name), v in moments_of(self.optimiser).items()}
        return tensors if self.assigned is None else tensors | {"assigned": self.assigned}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore a checkpoint that `state` returned."""
        self.sae.load_state_dict(with_prefix(tensors, "coder."))
        keys = {name: name.partition(".") for name in with_prefix(tensors, "adam.")}
        moments = {(int(index), moment): tensors[f"adam.{name}"] for name, (index, _, moment) in keys.items()}
        set_moments(self.optimiser, moments)
        self.vectors_since_fired = tensors["silent"].to(self.device)
        self.assigned = tensors["assigned"].to(self.device) if "assigned" in tensors else None
        self.initialised = True


def _clip_(gradients: dict[str, Tensor], largest: float) -> Tensor:
    """Scale gradients in place so that their common norm is at most `largest`; returns the norm that they had."""
    norm = torch.stack([g.norm() for g in gradients.values()]).norm()
    if norm > largest:
        for gradient in gradients.values():
            gradient.mul_(largest / norm)
    return norm
