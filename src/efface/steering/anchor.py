"""Redirect latents: what a concept's active latents write becomes what its anchor's prompt would write (ours).

Latents that are only turned down leave a picture of nothing in particular. At noisy latents on the way to the concept's
pictures and to its anchor's, let d be the difference that the anchor's prompt makes at a position of the site, and z the
active ones of the chosen latents there under the concept's prompt. The rows B, of which z B is added, are those of

    min_B  Σ_concept |z B − d|² + p · Σ_retained |z B|² + λ |B|²,    (ZᵀZ + p Z_rᵀZ_r + λ I) B = Zᵀ D:

UCE's objective (arXiv 2308.14761) with latents in place of text states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from efface.erasures.activation import members
from efface.erasures.latent_edit import Edit
from efface.families.sites import Site
from efface.models.model import Model
from efface.sae.autoencoder import Coder
from efface.sae.harvest import HarvestConfig, captured, reading
from efface.sae.statistics import Statistics
from efface.steering.calibrate import spread

if TYPE_CHECKING:
    from efface.families.text import Text

BATCH = 32
"""Pictures on the way at a time."""
RETAINED = 4
"""Retained pictures for each one of the concept: there is more that must not change than that must."""


class AnchorFit(NamedTuple):
    """How decoder rows are fitted."""

    latents: int
    """Chosen for each concept and site, for all noise levels; all of a smaller autoencoder's."""
    steps: int
    """Denoising steps of the pictures on the way."""
    guidance: float
    """Their guidance scale."""
    seed: int
    """Of those pictures."""
    preserve_weight: float
    """p, the weight of retained prompts."""
    ridge: float
    """λ, as a share of the mean activity."""
    exact: bool
    """Whether a latent must be among the k largest of its position, rather than above a threshold."""


def redirected(
    model: Model,
    coders: dict[str, Coder],
    measured: dict[str, Statistics],
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    kept: Sequence[str],
    how: AnchorFit,
) -> dict[str, Edit]:
    """An edit for every site that leads prompts to their anchors.

    Args:
        model: unerased.
        coders: site name -> autoencoder.
        measured: site name -> its statistics, which know the concepts.
        names: of the concepts; for each, latents are chosen by their mean score over all levels.
        pairs: prompts and what they should be drawn as, one for each picture.
        kept: prompts on which nothing should change.
        how: they are fitted.
    """
    fits = {site: _Fit(coders[site], measured[site], names, how) for site in coders}
    sites = [model.sites(name)[0] for name in coders]
    for start in range(0, len(pairs), BATCH):
        some = pairs[start : start + BATCH]
        texts = [model.encode([pair[side] for pair in some]) for side in (0, 1)]

        def compare(latents: Tensor, level: float, texts: Sequence[Text] = texts) -> None:
            own, anchor = (_states(model, sites, latents, level, text) for text in texts)
            for name, fit in fits.items():
                fit.lead(level, own[name], anchor[name] - own[name])

        for text in texts:  # the way to the concept's pictures, and that to its anchor's
            _follow(model, text, how, start, compare)
    others = spread(kept, RETAINED * len(pairs))
    harvest = HarvestConfig(tuple(coders), how.steps, how.guidance)
    for start in range(0, len(others), BATCH):
        some = others[start : start + BATCH]
        first = how.seed + len(pairs) + start
        for step in captured(model, some, range(first, first + len(some)), harvest):
            for name, states in step.states.items():
                fits[name].hold(step.level, states.float().cpu())
    return {name: fit.edit() for name, fit in fits.items()}


class _Fit:
    """The sums of one site's least squares, in double precision."""

    def __init__(self, coder: Coder, measured: Statistics, names: Sequence[str], how: AnchorFit):
        best = [measured.scores(name).mean(0).topk(min(how.latents, coder.config.latents)).indices for name in names]
        latents = torch.cat(best).unique()
        gate = torch.stack([measured.everything(name) for name in names]).amin(0)[:, latents]
        if not how.exact:
            gate = torch.maximum(gate, measured.cutoff[:, None])
        self.coder, self.how = coder, how
        encoder, bias = (part.detach()[latents].clone() for part in (coder.encoder.weight, coder.encoder.bias))
        rows = torch.zeros(len(latents), coder.config.width)
        twice = torch.full_like(gate, 2.0)  # z + z, of which the first is what the site gave: z B is added
        centre, levels = coder.b_dec.detach().clone(), measured.levels.clone()
        self.plan = Edit(
            encoder=encoder, bias=bias, centre=centre, decoder=rows, latents=latents, levels=levels, gate=gate, gain=twice,
            shift=torch.zeros_like(gate),
        )  # fmt: skip
        self.gram, self.held = (torch.zeros(len(latents), len(latents), dtype=torch.double) for _ in range(2))
        self.cross = torch.zeros(len(latents), coder.config.width, dtype=torch.double)
        self.led = self.kept = 0

    def active(self, level: float, states: Tensor) -> Tensor:
        """The chosen latents where the edit will count them as active (positions chosen)."""
        plan = self.plan
        z = torch.relu((states - plan.centre) @ plan.encoder.T + plan.bias)
        on = z > plan.gate[plan.at(torch.tensor([level]))]
        if self.how.exact:
            on = on & members(self.coder, states, plan.latents)
        return torch.where(on, z, 0.0).flatten(0, 1).double()

    def lead(self, level: float, states: Tensor, difference: Tensor) -> None:
        """Add positions of the concept (batch tokens width) and the difference that its anchor makes."""
        z = self.active(level, states)
        self.gram += z.T @ z
        self.cross += z.T @ difference.flatten(0, 1).double()
        self.led += len(z)

    def hold(self, level: float, states: Tensor) -> None:
        """Add positions (batch tokens width) at which nothing should be added."""
        z = self.active(level, states)
        self.held += z.T @ z
        self.kept += len(z)

    def edit(self) -> Edit:
        """The solution, with as many retained positions as there are of the concept for p = 1."""
        system = self.gram + self.how.preserve_weight * self.held * (self.led / self.kept)
        scale = system.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        system = system + self.how.ridge * scale * torch.eye(len(system), dtype=torch.double)
        return self.plan._replace(decoder=torch.linalg.solve(system, self.cross).float())


@torch.no_grad()
def _states(model: Model, sites: Sequence[Site], latents: Tensor, level: float, text: Text) -> dict[str, Tensor]:
    """What the sites give for noisy latents and a text (batch tokens width), in float32 on the CPU."""
    with reading(sites) as seen:
        model.predict(latents, torch.full((len(latents),), level, device=latents.device), text)
    return {name: states.float().cpu() for name, states in seen.items()}


@torch.no_grad()
def _follow(model: Model, text: Text, how: AnchorFit, first: int, watch: Callable[[Tensor, float], None]) -> None:
    """Draw a batch, and show every noisy state on the way."""
    seeds = range(how.seed + first, how.seed + first + len(text.states))
    for _ in model.denoised(text, seeds=seeds, steps=how.steps, guidance=how.guidance, watch=watch):
        pass
