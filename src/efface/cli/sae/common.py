"""What the subcommands share: which prompts, which sites, how pictures are drawn."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.cli.model_options import ModelOptions, seed_of
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.sae.harvest import HarvestConfig


def prompts_named(name: str | None, pipeline: Any) -> list[str]:
    """Prompts from a .txt file with one a line, or `canvas` for all that the model's profile knows (the default)."""
    from efface.profiles.base import profile_of

    if name in (None, "canvas"):
        return profile_of(pipeline).prompts()
    path = Path(str(name))
    if not path.is_file():
        raise UsageError(f"{path} is not a file; expected a .txt file with one prompt a line, or canvas.")
    prompts = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not prompts:
        raise UsageError(f"{path} has no prompts; expected one a line.")
    return prompts


def sites_named(patterns: tuple[str, ...], pipeline: Any) -> tuple[str, ...]:
    """The user's patterns, the sites of the model's profile, or the paper's two blocks."""
    from efface.profiles.base import profile_of

    return patterns or profile_of(pipeline).sae_sites()


def sampling_of(pipeline: Any, steps: int | None, guidance: float | None, options: ModelOptions) -> dict[str, Any]:
    """Steps, guidance and size: the user's, the model's standard, or the paper's 50 at 9; and the first seed, if it was named."""
    from efface.profiles.base import profile_of

    usual = profile_of(pipeline).sae_sampling()
    chosen = {"steps": steps or None, "guidance": guidance, "side": options.size, "seed": seed_of(options)}
    return usual | {name: value for name, value in chosen.items() if value is not None}


def labelled(path: Path | None, seeds: int, pipeline: Any, first: int | None) -> tuple[list[Any], dict[str, str]]:
    """Pictures of many concepts, from a JSON file {"kind": {"concept": ["prompt", …]}} or the model's own benchmark.

    Args:
        path: of the file.
        seeds: pictures of each prompt.
        pipeline: the model.
        first: seed of the first picture of each prompt; None is that of the purpose.
    """
    from efface.concepts.sample import Sample
    from efface.profiles.base import profile_of

    if path is None:
        pictures, kinds = profile_of(pipeline).labelled(seeds)
        moved = 0 if first is None else first - min(picture.seed for picture in pictures)
        return [replace(picture, seed=picture.seed + moved) for picture in pictures], kinds
    try:
        kinds = json.loads(path.read_text())
        pictures = [
            Sample(prompt=prompt, seed=seed, shows=(concept,))
            for concepts in kinds.values()
            for concept, prompts in concepts.items()
            for prompt in prompts
            for seed in range(first or 0, (first or 0) + seeds)
        ]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(
            f'{path} could not be read ({error}); expected JSON of the form {{"style": {{"noto": ["a cat …"]}}}}.'
        ) from error
    return pictures, {concept: kind for kind, concepts in kinds.items() for concept in concepts}


class Labels(NamedTuple):
    """What pictures show."""

    shows: dict[str, tuple[str, ...]]
    """Prompt -> the concepts in its picture."""
    kinds: dict[str, str]
    """Kind of each concept, by its name."""


def labels_named(path: Path | None, pipeline: Any) -> Labels:
    """What prompts show, from such a file or the model's own benchmark; a prompt that stands under several concepts shows all."""
    pictures, kinds = labelled(path, 1, pipeline, None)
    shows: dict[str, tuple[str, ...]] = {}
    for picture in pictures:
        shows[picture.prompt] = tuple(dict.fromkeys((*shows.get(picture.prompt, ()), *picture.shows)))
    return Labels(shows, kinds)


def harvest_decisions(pipeline: Any, config: HarvestConfig) -> dict[str, Any]:
    """What is decided of activations that are harvested: the model, and how its pictures are drawn."""
    from efface.api.decisions import about_model

    return about_model(pipeline, config.side) | {k: v for k, v in asdict(config).items() if k != "side"}
