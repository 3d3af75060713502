"""The autoencoders of an eraser's sites, and the statistics from which it chooses latents: from files, or from pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from efface.concepts.concept import Concept
from efface.concepts.sample import Labelled
from efface.errors import UsageError
from efface.models.model import Model
from efface.sae.autoencoder import Coder
from efface.sae.harvest import HarvestConfig
from efface.sae.lookup import coder_folder, open_coder
from efface.sae.statistics import Statistics, choices, statistics


class Opened(NamedTuple):
    """The autoencoders of some sites."""

    coders: dict[str, Coder]
    """By the site's name."""
    named: dict[str, dict[str, str]]
    """Site -> hash and source of its autoencoder, as an erasure's header has them."""


def open_coders(source: str, sites: Iterable[str]) -> Opened:
    """The autoencoder of every site; raises EffaceError where there is none."""
    found = {site: open_coder(source, site) for site in sites}
    named = {site: {"sha256": sha256, "source": source} for site, (_, sha256) in found.items()}
    return Opened({site: coder for site, (coder, _) in found.items()}, named)


def published_site(concepts: Sequence[Concept]) -> str:
    """SAeUron's block for the kind of concept."""
    return f"unet.up_blocks.1.attentions.{2 if concepts[0].kind == 'style' else 1}"


def known_statistics(
    path: str | None, coder: str, sites: Iterable[str], concepts: Sequence[Concept]
) -> dict[str, Statistics] | None:
    """Every site's statistics from files, where there are some that know every concept.

    Args:
        path: of the site's statistics, or of several sites' the folder; None looks in the autoencoders' folder.
        coder: where the autoencoders are.
        sites: names of the modules.
        concepts: what must be known.

    Raises:
        UsageError: the statistics that were asked for lack a concept.
    """
    found: dict[str, Statistics] = {}
    for site in sites:
        file = Path(path) if path else coder_folder(coder, site)
        if file.is_dir():
            file = (file / site if (file / site).is_dir() else file) / "statistics.safetensors"
        if not path and not file.exists():
            return None
        found[site] = Statistics.load(file)
        lacking = [concept.name for concept in concepts if concept.name not in found[site].concepts]
        if lacking and path:
            raise UsageError(
                f"{file} has no statistics of {lacking[0]!r}; it has {', '.join(found[site].concepts[:8])}…"
            )
        if lacking:
            return None
    return found


def taken_statistics(
    model: Model,
    coders: dict[str, Coder],
    concepts: Sequence[Concept],
    kept: Sequence[str] | None,
    *,
    images: int,
    steps: int,
    guidance: float,
    seed: int,
) -> dict[str, Statistics]:
    """Draw `images` pictures of every concept and as many of what is kept, and take every site's statistics from them.

    Raises:
        UsageError: nothing is kept.
    """
    if not kept:
        raise UsageError("there is nothing to compare the concept with: give prompts of what is kept (--keep).")
    pictures = [
        Labelled(prompts[i % len(prompts)], (name,), seed + i)
        for name, prompts in (*((c.name, c.prompts()) for c in concepts), ("", list(kept)))
        for i in range(images)
    ]
    harvest = HarvestConfig(tuple(coders), steps, guidance)
    kinds = {c.name: "concept" for c in concepts} | {"": "concept"}
    return statistics(model, coders, pictures, kinds, harvest)


def explained(measured: dict[str, Statistics], concept: str, chosen: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Why latents were chosen for a concept at every site, for an erasure's notes.

    Args:
        measured: site -> statistics.
        concept: its name.
        chosen: site -> which latents, as a mask (levels latents).
    """
    return [
        {"site": site} | choice._asdict()
        for site, found in measured.items()
        for choice in choices(found, concept, chosen[site])
    ]
