"""The statistics from which an eraser chooses latents: read from files, or taken from pictures of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from efface.concepts.concept import Concept
from efface.errors import UsageError
from efface.models.model import Model
from efface.sae.autoencoder import Coder
from efface.sae.harvest import HarvestConfig
from efface.sae.lookup import coder_folder
from efface.sae.statistics import Labelled, Statistics, statistics

if TYPE_CHECKING:
    from efface.erasers.saeuron import Config


def known_statistics(config: Config, sites: Sequence[str], concepts: Sequence[Concept]) -> dict[str, Statistics] | None:
    """Every site's statistics from files, where there are some that know every concept.

    Raises:
        UsageError: the statistics that were asked for lack a concept.
    """
    found: dict[str, Statistics] = {}
    for site in sites:
        path = Path(config.statistics) if config.statistics else coder_folder(config.coder, site)
        if path.is_dir():
            path = (path / site if (path / site).is_dir() else path) / "statistics.safetensors"
        if not config.statistics and not path.exists():
            return None
        found[site] = Statistics.load(path)
        lacking = [concept.name for concept in concepts if concept.name not in found[site].concepts]
        if lacking and config.statistics:
            raise UsageError(
                f"{path} has no statistics of {lacking[0]!r}; it has {', '.join(found[site].concepts[:8])}…"
            )
        if lacking:
            return None
    return found


def taken_statistics(
    model: Model, coders: dict[str, Coder], concepts: Sequence[Concept], config: Config
) -> dict[str, Statistics]:
    """Draw pictures of every concept and of what is kept, and take every site's statistics from them."""
    if not config.keep:
        raise UsageError("there is nothing to compare the concept with: give prompts of what is kept (--keep).")
    pictures = [
        Labelled(prompts[i % len(prompts)], (name,), config.seed + i)
        for name, prompts in (*((c.name, c.prompts()) for c in concepts), ("", list(config.keep)))
        for i in range(config.images)
    ]
    harvest = HarvestConfig(tuple(coders), config.draw_steps, config.guidance)
    kinds = {c.name: "concept" for c in concepts} | {"": "concept"}
    return statistics(model, coders, pictures, kinds, harvest)
