"""Fit decoder rows to an anchor: a concept's active latents then write what its anchor's prompt would write (ours).

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

from efface.concepts.sample import evenly_spaced
from efface.erasures.activation import members
from efface.erasures.latent_edit import LatentEdit
from efface.families.sites import Site
from efface.models.model import Model
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.harvest import HarvestConfig, capture, record_sites, sites_of
from efface.sae.statistics import Statistics

if TYPE_CHECKING:
    from efface.families.text import Text

BATCH = 32
"""Pictures drawn at a time."""
RETAINED = 4
"""Retained pictures per picture of the concept: more must stay the same than must change."""


class AnchorFit(NamedTuple):
    """How decoder rows are fitted."""

    latents: int
    """Latents chosen per concept and site, for all timesteps; an autoencoder with fewer gives all of its own."""
    steps: int
    """Denoising steps of the pictures on which rows are fitted."""
    guidance: float
    """Guidance scale of those pictures."""
    seed: int
    """First seed of those pictures."""
    preserve_weight: float
    """p, the weight of retained prompts."""
    ridge: float
    """λ, as a share of the mean activity."""
    exact: bool
    """Whether a latent must be among the k largest of its position, rather than above a threshold."""


def anchor_edits(
    model: Model,
    saes: dict[str, SparseAutoencoder],
    stats: dict[str, Statistics],
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    retained: Sequence[str],
    fit: AnchorFit,
) -> dict[str, LatentEdit]:
    """Fit the edit of every site that leads prompts to their anchors.

    Args:
        model: unerased.
        saes: site name -> autoencoder.
        stats: site name -> statistics, which must know the concepts.
        names: names of the concepts; latents of each are chosen by their mean score over all timesteps.
        pairs: prompt and anchor prompt of each picture.
        retained: prompts on which nothing should change.
        fit: options of the fit.
    """
    systems = {site: _LeastSquares(saes[site], stats[site], names, fit) for site in saes}
    sites = sites_of(model, tuple(saes), saes)
    for start in range(0, len(pairs), BATCH):
        some = pairs[start : start + BATCH]
        texts = [model.encode([pair[side] for pair in some]) for side in (0, 1)]

        def compare(latents: Tensor, timestep: float, texts: Sequence[Text] = texts) -> None:
            own, anchor = (_states(model, sites, latents, timestep, text) for text in texts)
            for name, system in systems.items():
                system.add_concept(timestep, own[name], anchor[name] - own[name])

        for text in texts:  # at noisy latents of the concept's pictures, and at those of its anchor's
            _visit_latents(model, text, fit, start, compare)
    others = evenly_spaced(retained, RETAINED * len(pairs), repeat=True)
    harvest = HarvestConfig(tuple(saes), fit.steps, fit.guidance)
    for start in range(0, len(others), BATCH):
        some = others[start : start + BATCH]
        first = fit.seed + len(pairs) + start
        for step in capture(model, some, range(first, first + len(some)), harvest, saes=saes):
            for name, states in step.states.items():
                systems[name].add_retained(step.timestep, states.float().cpu())
    return {name: system.solve() for name, system in systems.items()}


class _LeastSquares:
    """Normal equations of one site's fit, summed in float64."""

    def __init__(self, sae: SparseAutoencoder, stats: Statistics, names: Sequence[str], fit: AnchorFit):
        best = [stats.scores(name).mean(0).topk(min(fit.latents, sae.config.latents)).indices for name in names]
        latents = torch.cat(best).unique()
        gate = torch.stack([stats.everything(name) for name in names]).amin(0)[:, latents]
        if not fit.exact:
            gate = torch.maximum(gate, stats.cutoff[:, None])
        self.sae = sae
        self.fit = fit
        self.template = LatentEdit(
            encoder=sae.encoder.weight.detach()[latents].clone(),
            bias=sae.encoder.bias.detach()[latents].clone(),
            centre=sae.b_dec.detach().clone(),
            decoder=torch.zeros(len(latents), sae.config.width),
            latents=latents,
            timesteps=stats.timesteps.clone(),
            gate=gate,
            gain=torch.full_like(gate, 2.0),  # adds gain·z − z = z times the fitted rows
            shift=torch.zeros_like(gate),
        )
        self.gram = torch.zeros(len(latents), len(latents), dtype=torch.double)
        self.retained_gram = torch.zeros_like(self.gram)
        self.cross = torch.zeros(len(latents), sae.config.width, dtype=torch.double)
        self.n_concept = 0
        self.n_retained = 0

    def active(self, timestep: float, states: Tensor) -> Tensor:
        """Activations of the chosen latents where the edit will count them as active, else 0 (positions chosen)."""
        edit = self.template
        z = torch.relu((states - edit.centre) @ edit.encoder.T + edit.bias)
        on = z > edit.gate[edit.nearest(torch.tensor([timestep]))]
        if self.fit.exact:
            on = on & members(self.sae, states, edit.latents)
        return torch.where(on, z, 0.0).flatten(0, 1).double()

    def add_concept(self, timestep: float, states: Tensor, difference: Tensor) -> None:
        """Add states under the concept's prompts, and the difference that the anchor's make (each batch tokens width)."""
        z = self.active(timestep, states)
        self.gram += z.T @ z
        self.cross += z.T @ difference.flatten(0, 1).double()
        self.n_concept += len(z)

    def add_retained(self, timestep: float, states: Tensor) -> None:
        """Add states (batch tokens width) that should not change."""
        z = self.active(timestep, states)
        self.retained_gram += z.T @ z
        self.n_retained += len(z)

    def solve(self) -> LatentEdit:
        """The edit with the fitted rows; at p = 1 retained positions weigh as much in sum as those of the concept."""
        system = self.gram + self.fit.preserve_weight * self.retained_gram * (self.n_concept / self.n_retained)
        scale = system.diagonal().mean().clamp(min=torch.finfo(torch.float32).tiny)
        system = system + self.fit.ridge * scale * torch.eye(len(system), dtype=torch.double)
        return self.template._replace(decoder=torch.linalg.solve(system, self.cross).float())


@torch.no_grad()
def _states(model: Model, sites: Sequence[Site], latents: Tensor, timestep: float, text: Text) -> dict[str, Tensor]:
    """Activations of the sites (batch tokens width) for noisy latents and a text, in float32 on the CPU."""
    with record_sites(sites) as activations:
        model.predict(latents, torch.full((len(latents),), timestep, device=latents.device), text)
    return {name: states.float().cpu() for name, states in activations.items()}


@torch.no_grad()
def _visit_latents(
    model: Model, text: Text, fit: AnchorFit, first: int, watch: Callable[[Tensor, float], None]
) -> None:
    """Draw a batch and call `watch` with the noisy latents and the timestep before every step."""
    seeds = range(fit.seed + first, fit.seed + first + len(text.states))
    for _ in model.denoise(text, seeds=seeds, steps=fit.steps, guidance=fit.guidance, watch=watch):
        pass
