"""Autoencoders and statistics of an eraser's sites: from files, or measured on pictures."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from efface.concepts.concept import Concept
from efface.concepts.sample import Sample
from efface.errors import UsageError
from efface.families.sites import TEXT
from efface.models.model import Model
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.files import notes_of
from efface.sae.harvest import HarvestConfig
from efface.sae.latent_names import load_names, names_folder
from efface.sae.lookup import open_sae, sae_folder
from efface.sae.statistics import Statistics, selected_latents, statistics


class SiteSAEs(NamedTuple):
    """Autoencoders of sites."""

    saes: dict[str, SparseAutoencoder]
    """Site name -> autoencoder."""
    references: dict[str, dict[str, str]]
    """Site name -> hash and source of its autoencoder, and what it reads where that is not the output, as written to an
    erasure's header."""


def open_saes(source: str, sites: Iterable[str]) -> SiteSAEs:
    """The autoencoder of every site; raises EffaceError where there is none."""
    opened = {site: open_sae(source, site) for site in sites}
    references = {site: {"sha256": sha256, "source": source} for site, (_, sha256) in opened.items()}
    for site, (sae, _) in opened.items():
        if sae.config.reads != "output":
            references[site]["reads"] = sae.config.reads
    return SiteSAEs({site: sae for site, (sae, _) in opened.items()}, references)


KnownLatents = dict[tuple[str, str], list[int]]
"""(site, concept) -> the latents that are known to be its own, whatever the published score says."""


def assigned_latents(source: str, sites: Iterable[str], concepts: Sequence[Concept]) -> KnownLatents:
    """The one latent that a training with labels gave to each concept at each site.

    Raises:
        UsageError: an autoencoder was trained without labels, or without that concept.
    """
    found = {}
    for site in sites:
        known = notes_of(sae_folder(source, site)).get("assigned", {})
        for concept in concepts:
            if concept.name not in known:
                raise UsageError(
                    f"the autoencoder of {site} has no latent of its own for {concept.name!r}: train it with --supervised saemnesia "
                    "on pictures of it, or leave --assigned out."
                )
            found[site, concept.name] = [int(known[concept.name])]
    return found


def head_latents(
    source: str,
    names: str | None,
    references: Mapping[str, Mapping[str, str]],
    concepts: Sequence[Concept],
    margin: float,
) -> KnownLatents:
    """The fewest latents by which a sparse head tells each concept at each site.

    Args:
        source: name or folder of the autoencoders.
        names: folder of the heads (`efface sae name -o`); None stands for the autoencoders' own.
        references: site name -> hash of its autoencoder, as `open_saes` gives them.
        concepts: are told.
        margin: share of a concept's logit margin that its latents hold.

    Raises:
        UsageError: there is no head of a site, it does not know a concept, or no latent speaks for one.
        EffaceError: a head is of another autoencoder.
    """
    found = {}
    for site, reference in references.items():
        folder = names_folder(names, source, site)
        named = load_names(folder, reference["sha256"])
        if named is None:
            raise UsageError(
                f"{folder} holds no sparse head of {site}: fit it (`efface sae name`), or choose latents by the published score "
                "(--selection score)."
            )
        for concept in concepts:
            accuracy = named.accuracy_on(concept.name)
            if not accuracy.beats_chance:
                warnings.warn(
                    f"the sparse head of {site} does not tell {concept.name!r} from the others ({accuracy}): the latents that it "
                    "chooses may be any; name the latents on more pictures (efface sae name --seeds).",
                    stacklevel=2,
                )
            found[site, concept.name] = named.choose(concept.name, margin)
    return found


def text_sites_of(source: str, model: Model) -> tuple[str, ...]:
    """The layers of text encoders that a run has autoencoders of; the usual layer of the first text encoder for a folder of one.

    Raises:
        UsageError: the model has no text encoder.
    """
    root = sae_folder(source, TEXT)
    found = sorted(folder.name for folder in root.glob(f"{TEXT}*") if folder.is_dir())
    encoders = list(model.family.text_encoders())
    if not found and not encoders:
        raise UsageError("the model has no text encoder, whose layers could be edited.")
    return tuple(found) or (encoders[0],)


def published_site(concepts: Sequence[Concept]) -> str:
    """The block that SAeUron edits for the kind of concept."""
    return f"unet.up_blocks.1.attentions.{2 if concepts[0].kind == 'style' else 1}"


def load_statistics(
    path: str | None, source: str, sites: Iterable[str], concepts: Sequence[Concept]
) -> dict[str, Statistics] | None:
    """Load every site's statistics; None where there is no file, or where one lacks a concept.

    Args:
        path: file of a site's statistics, or folder of several; None stands for the autoencoders' folder.
        source: name or folder of the autoencoders.
        sites: names of the modules.
        concepts: concepts that the statistics must know.

    Raises:
        UsageError: the statistics at `path` lack a concept.
    """
    stats: dict[str, Statistics] = {}
    for site in sites:
        file = Path(path) if path else sae_folder(source, site)
        if file.is_dir():
            file = (file / site if (file / site).is_dir() else file) / "statistics.safetensors"
        if not path and not file.exists():
            return None
        stats[site] = Statistics.load(file)
        lacking = [concept.name for concept in concepts if concept.name not in stats[site].concepts]
        if lacking and path:
            raise UsageError(
                f"{file} has no statistics of {lacking[0]!r}; it has {', '.join(stats[site].concepts[:8])}…"
            )
        if lacking:
            return None
    return stats


def measure_statistics(
    model: Model,
    saes: dict[str, SparseAutoencoder],
    concepts: Sequence[Concept],
    retained: Sequence[str] | None,
    *,
    images: int,
    steps: int,
    guidance: float,
    seed: int,
) -> dict[str, Statistics]:
    """Measure every site's statistics on `images` pictures of every concept and as many of retained prompts.

    Raises:
        UsageError: there are no retained prompts.
    """
    if not retained:
        raise UsageError("there is nothing to compare the concept with: give prompts of what is kept (--keep).")
    pictures = [
        Sample(prompt=prompts[i % len(prompts)], seed=seed + i, shows=(name,))
        for name, prompts in (*((c.name, c.prompts()) for c in concepts), ("", list(retained)))
        for i in range(images)
    ]
    harvest = HarvestConfig(tuple(saes), steps=steps, guidance=guidance)
    kinds = {c.name: "concept" for c in concepts} | {"": "concept"}
    return statistics(model, saes, pictures, kinds, harvest)


def selection_notes(stats: dict[str, Statistics], concept: str, masks: dict[str, Tensor]) -> list[dict[str, Any]]:
    """The latents selected for a concept at every site with their figures, for an erasure's notes.

    Args:
        stats: site name -> statistics.
        concept: name of the concept.
        masks: site name -> selected latents, as a mask (timesteps latents).
    """
    return [
        {
            "site": site,
            "latent": row.latent,
            "levels": row.timesteps,
            "score": row.score,
            "own": row.own,
            "others": row.others,
        }
        for site, site_stats in stats.items()
        for row in selected_latents(site_stats, concept, masks[site])
    ]
