"""A discriminator that is trained beside a model: which of two prompts were clean latents predicted under?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from efface.io.checkpoint import State, optimizer_state, restore_optimizer
from efface.models.sampling import generator

WIDTHS = (64, 128, 256, 512)
"""Channels after each halving of the side."""


class Discriminator(nn.Module):
    """A PatchGAN (Isola et al., CVPR 2017, arXiv 1611.07004): logits of patches (batch 1 rows columns) of latents.

    Args:
        channels: of the latents.
        side: the shorter side of the latents in cells; small ones are halved fewer than four times.
    """

    def __init__(self, channels: int, side: int):
        super().__init__()
        halvings = max(1, min(len(WIDTHS), side.bit_length() - 2))  # two cells are left at least
        layers: list[nn.Module] = []
        for number, width in enumerate(WIDTHS[:halvings]):
            layers.append(nn.Conv2d(channels, width, 4, stride=2, padding=1))
            if number:
                layers.append(nn.BatchNorm2d(width, track_running_stats=False))
            layers.append(nn.LeakyReLU(0.2))
            channels = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, padding=1))

    def forward(self, latents: Tensor) -> Tensor:
        """Logits: high where it takes latents for those of the erased concept."""
        return self.layers(latents.float())


class Critic:
    """A discriminator and what trains it; it is `Kept` by a training.

    Args:
        shape: (channels height width) of the latents.
        lr: learning rate of Adam.
        seed: of its first weights.
        device: where it is trained.
    """

    def __init__(self, shape: tuple[int, ...], lr: float, seed: int, device: torch.device):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator("discriminator", seed).initial_seed())
            self.net = Discriminator(shape[0], min(shape[1:]))
        self.net.to(device)
        self.optimiser = torch.optim.Adam(self.net.parameters(), lr=lr, betas=(0.5, 0.999))

    def apart(self, latents: Tensor, concept: bool) -> Tensor:
        """How far it is from taking latents (batch channels height width) for the concept's, or for the anchor's: a mean of
        cross-entropies (a scalar)."""
        logits = self.net(latents)
        return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(concept)))

    def learn(self, anchor: Tensor, concept: Tensor) -> Tensor:
        """One step towards telling them apart; returns the loss before it. Gradients that others left in it are dropped."""
        self.optimiser.zero_grad()
        loss = self.apart(anchor.detach(), False) + self.apart(concept.detach(), True)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def state(self) -> State:
        """Weights and moments."""
        return optimizer_state(self.optimiser)

    def restore(self, state: State) -> None:
        """Take up what `state` returned."""
        restore_optimizer(self.optimiser, state)
