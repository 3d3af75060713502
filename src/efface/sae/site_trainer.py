"""The autoencoder of one site in training."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from efface.io.checkpoint import moments_of, set_moments, under
from efface.sae.autoencoder import Coder, CoderConfig, geometric_median
from efface.sae.config import TrainConfig
from efface.sae.distributed import average, largest, same_everywhere, world
from efface.sae.loss import Room, step, without_parallel_


class Source(Protocol):
    """Where activations come from: drawn anew (`harvest.Stream`) or from disk (`shards.Shards`)."""

    names: list[str]
    """Sites."""

    def round(self, index: int) -> dict[str, Tensor]:
        """Site name -> vectors (rows width); round `index` always holds the same ones."""
        ...


class Pupil:
    """The autoencoder of one site in training: weights, moments, and how long each latent has been silent."""

    def __init__(self, width: int, config: TrainConfig):
        shape = CoderConfig(width, config.latents or config.expansion * width, config.k, config.rule)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.coder, self.config = Coder(shape, seed=config.seed).to(self.device), config
        self.optimiser = torch.optim.Adam(self.coder.parameters(), lr=config.lr, betas=(0.9, 0.999), fused=True)
        self.silent = torch.zeros(shape.latents, dtype=torch.long, device=self.device)
        self.began = False
        self.room: Room | None = None

    def learn(self, x: Tensor, step_number: int) -> dict[str, float]:
        """One step on vectors (rows width); returns the line of the log."""
        config, coder, x = self.config, self.coder, x.to(self.device)
        if not self.began:
            coder.b_dec.data = same_everywhere(geometric_median(x))
            self.began = True
        total = config.steps * config.batch * world()
        dead = self.silent > config.dead_after * total
        if self.room is None or len(self.room.product) != len(x):
            self.room = Room.of(coder, len(x))
        found = step(coder, x, multi_k=config.multi_k, dead=dead, alpha=config.alpha, room=self.room)
        gradients = found.gradients
        gradients["W_dec"] = without_parallel_(gradients["W_dec"], coder.W_dec)
        average(list(gradients.values()))
        norm = torch.stack([g.norm() for g in gradients.values()]).norm()
        for name, parameter in coder.named_parameters():
            parameter.grad = gradients[name] if norm <= config.clip else gradients[name].mul_(config.clip / norm)
        self.optimiser.param_groups[0]["lr"] = config.lr * (1 - step_number / config.steps)
        self.optimiser.step()
        coder.normalise()
        self._note(found.code.latents, found.code.values, len(x), step_number)
        return {
            "fvu": float(found.fvu),
            "auxk": float(found.auxk),
            "l0": len(found.code.values) / len(x),
            "dead": float(dead.float().mean()),
            "norm": float(norm),
        }

    def _note(self, latents: Tensor, values: Tensor, rows: int, step_number: int) -> None:
        """Remember which latents fired, and the least activation that was selected."""
        fired = torch.zeros(len(self.silent), device=self.device).index_fill_(0, latents, 1.0)
        largest(fired)
        self.silent = torch.where(fired > 0, 0, self.silent + rows * world())
        if self.config.rule == "batchtopk" and len(values):
            decay = 0.0 if step_number == 0 else 0.99
            self.coder.threshold.lerp_(same_everywhere(values.min()), 1 - decay)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""
        tensors = {f"coder.{k}": v for k, v in self.coder.state_dict().items()} | {"silent": self.silent}
        tensors |= {f"adam.{index}.{name}": v for (index, name), v in moments_of(self.optimiser).items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go back to a state that `state` gave."""
        self.coder.load_state_dict(under(tensors, "coder."))
        keys = {name: name.partition(".") for name in under(tensors, "adam.")}
        moments = {(int(index), moment): tensors[f"adam.{name}"] for name, (index, _, moment) in keys.items()}
        set_moments(self.optimiser, moments)
        self.silent, self.began = tensors["silent"].to(self.device), True
