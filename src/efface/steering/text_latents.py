"""Latents of text encoders that speak of concepts and of nothing that stays, as ItD chooses them (arXiv 2503.09446)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from efface.erasures.latent_edit import LatentEdit
from efface.erasures.text_edit import active_latents, change, replacement, strength, told
from efface.families.sites import Site
from efface.models.model import Model
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.text_states import PromptStates, TextSites

BATCH = 32
"""Prompts that are encoded at a time."""


class ActiveLatents(NamedTuple):
    """What some prompts have of the latents of one site's autoencoder."""

    share: Tensor
    """Of the prompts, those in which a latent is active (latents,)."""
    peak: Tensor
    """Its largest activation in any of them (latents,)."""
    least: float
    """The least activation that is selected at any position."""


@torch.no_grad()
def latents_of(
    text: TextSites, saes: Mapping[str, SparseAutoencoder], prompts: Sequence[str], count: int | None
) -> dict[str, ActiveLatents]:
    """Site name -> what prompts have of the latents at their own positions.

    Args:
        text: the sites.
        saes: site name -> autoencoder, with its rule at inference.
        prompts: that are read.
        count: of each prompt only the strongest by their largest activation; None takes all.
    """
    sums = {name: torch.zeros(sae.config.latents) for name, sae in saes.items()}
    highest = {name: torch.zeros(sae.config.latents) for name, sae in saes.items()}
    least = dict.fromkeys(saes, float("inf"))
    for read in batches(text, prompts):
        for name, sae in saes.items():
            sae.to(read[name].states.device)
            peaks, smallest = _peaks(read[name], sae)
            if count is not None and count < peaks.shape[1]:
                values, indices = peaks.topk(count, dim=1)
                peaks = torch.zeros_like(peaks).scatter(1, indices, values)
            sums[name] += (peaks > 0).sum(0).cpu()
            highest[name] = torch.maximum(highest[name], peaks.amax(0).cpu())
            least[name] = min(least[name], smallest)
    return {
        name: ActiveLatents(
            share=sums[name] / max(1, len(prompts)),
            peak=highest[name],
            least=least[name],
        )
        for name in saes
    }


def _peaks(read: PromptStates, sae: SparseAutoencoder) -> tuple[Tensor, float]:
    """Largest activation over a prompt's own positions (prompts latents), and the least that is selected at any."""
    prompts, positions = read.own.nonzero(as_tuple=True)
    code = sae.encode(read.states[prompts, positions].float())
    peaks = torch.zeros(len(read.own), sae.config.latents, device=read.states.device)
    flat = prompts[code.rows] * sae.config.latents + code.latents
    peaks.view(-1).scatter_reduce_(0, flat, code.values, "amax")
    return peaks, float(code.values.min()) if len(code.values) else float("inf")


def distinct(own: ActiveLatents, spared: ActiveLatents, ratio: float) -> Tensor:
    """Which latents are active in a concept's prompts and `ratio` times as rarely in retained ones (latents,)."""
    often = own.share >= ratio * spared.share if ratio < float("inf") else spared.share == 0
    return (own.share > 0) & often


def edit_of(sae: SparseAutoencoder, chosen: Tensor, gain: float, least: float) -> LatentEdit:
    """The edit z -> gain·z of some latents, in prompts of any kind.

    Args:
        sae: the autoencoder, with its rule at inference.
        chosen: which latents (latents,).
        gain: what an active latent is multiplied by.
        least: the least activation that is selected in the concept's prompts, from which on a latent counts as active where the
            autoencoder has no threshold of its own.
    """
    latents = chosen.nonzero().squeeze(1)
    gate = float(sae.threshold) if sae.config.rule == "threshold" else 0.999 * least
    row = torch.ones(1, len(latents))
    return LatentEdit(
        encoder=sae.encoder.weight.detach()[latents].float().cpu().clone(),
        bias=sae.encoder.bias.detach()[latents].float().cpu().clone(),
        centre=sae.b_dec.detach().float().cpu().clone(),
        decoder=sae.W_dec.detach()[latents].float().cpu().clone(),
        latents=latents,
        timesteps=torch.zeros(1),
        gate=gate * row,
        gain=gain * row,
        shift=0 * row,
    )


@torch.no_grad()
def peaks_of(
    text: TextSites, edits: Mapping[str, LatentEdit], saes: Mapping[str, SparseAutoencoder], prompts: Sequence[str]
) -> dict[str, Tensor]:
    """Site name -> largest activation of each chosen latent at a prompt's own positions (prompts chosen); arguments as of
    `strengths`."""
    found: dict[str, list[Tensor]] = {name: [] for name in edits}
    for read in batches(text, prompts):
        for name, edit in edits.items():
            states = read[name].states.float()
            z = active_latents(edit.to(states), states, saes.get(name))
            found[name].append((z * read[name].own[..., None].to(z.device)).amax(1).cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def tells_of(peaks: Tensor, floor: Tensor, certainty: float) -> Tensor:
    """Activation above which each chosen latent tells of a concept (chosen,), such that every prompt that can be told is.

    It is the larger of its floor and a share of its largest activation. In a prompt where no latent is that strong, the one that is
    the most above its floor tells from there on.

    Args:
        peaks: largest activation in each of the concept's prompts (prompts chosen).
        floor: what no retained prompt has (chosen,).
        certainty: that share.
    """
    tells = torch.maximum(floor, certainty * peaks.amax(0))
    for row in peaks:
        if not (row > tells).any():
            best = int((row - floor).argmax())
            tells[best] = torch.minimum(tells[best], floor[best])
    return tells


@torch.no_grad()
def strengths(
    text: TextSites,
    edits: Mapping[str, LatentEdit],
    tells: Mapping[str, Tensor],
    saes: Mapping[str, SparseAutoencoder],
    prompts: Sequence[str],
) -> dict[str, Tensor]:
    """Site name -> m of every prompt (prompts,), as the gate measures it; `saes` names those of exact mode."""
    found: dict[str, list[Tensor]] = {name: [] for name in edits}
    for read in batches(text, prompts):
        for name, edit in edits.items():
            states = read[name].states.float()
            own = edit.to(states)
            z = told(active_latents(own, states, saes.get(name)), tells[name])
            found[name].append(strength(change(own, z), read[name].own).cpu())
    return {name: torch.cat(parts) if parts else torch.zeros(0) for name, parts in found.items()}


@torch.no_grad()
def published_strengths(
    text: TextSites,
    edits: Mapping[str, LatentEdit],
    saes: Mapping[str, SparseAutoencoder],
    prompts: Sequence[str],
    *,
    largest: bool,
) -> dict[str, Tensor]:
    """The same as the authors' code calibrates it: of the replaced states, over all positions or of the largest one."""
    found: dict[str, list[Tensor]] = {name: [] for name in edits}
    for read in batches(text, prompts):
        for name, edit in edits.items():
            states, begin = read[name].states.float(), ~(read[name].own | read[name].behind)
            squares = replacement(saes[name], edit.to(states), states, ~begin).square().mean(2)
            found[name].append((squares.amax(1) if largest else squares.mean(1)).cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def batches(text: TextSites, prompts: Sequence[str]) -> Iterator[dict[str, PromptStates]]:
    """Prompts read a few at a time."""
    for start in range(0, len(prompts), BATCH):
        yield text.read(prompts[start : start + BATCH])


@torch.no_grad()
def unreached(model: Model, sites: Sequence[Site]) -> str:
    """What of the text does not depend on some layers, in words; empty where all of it does."""
    before = model.encode(["a"])  # transformers' own hooks are there from the first call on

    def shake(site: Site) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            states = site.read(output)
            return site.write(output, -1.5 * states - 1)

        return hook

    with ExitStack() as stack:
        for site in sites:
            stack.callback(site.module.register_forward_hook(shake(site), prepend=True).remove)
        after = model.encode(["a"])
    present, moved = before.states != 0, before.states != after.states
    channels = present.any(1) & ~moved.any(1)
    tokens = present.any(2) & ~moved.any(2)
    parts = []
    if channels.any() or tokens.any():
        share = float((present & ~moved).float().sum() / present.float().sum())
        parts.append(f"{share:.0%} of the text states")
    if before.pooled is not None and after.pooled is not None and torch.equal(before.pooled, after.pooled):
        parts.append("the pooled text")
    return " and ".join(parts)
