"""What the subcommands share: which prompts, which sites, how pictures are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from efface.errors import UsageError


def prompts_named(name: str | None, pipeline: Any) -> list[str]:
    """Prompts from a .txt file with one a line, or `canvas` for all captions of the emoji canvas (its default)."""
    from efface.profiles.emoji import is_canvas

    if name in (None, "canvas"):
        if not is_canvas(pipeline):
            raise UsageError(
                "the model has no prompts of its own: give a .txt file with one prompt a line (--prompts)."
            )
        from efface.profiles.emoji.sae_data import all_captions

        return all_captions()
    path = Path(str(name))
    if not path.is_file():
        raise UsageError(f"{path} is not a file; expected a .txt file with one prompt a line, or canvas.")
    prompts = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not prompts:
        raise UsageError(f"{path} has no prompts; expected one a line.")
    return prompts


def sites_named(patterns: tuple[str, ...], pipeline: Any) -> tuple[str, ...]:
    """The patterns given, the canvas's default sites, or the paper's two blocks."""
    from efface.profiles.emoji import is_canvas
    from efface.profiles.emoji.sae_data import SITES

    if patterns:
        return patterns
    return SITES if is_canvas(pipeline) else ("unet.up_blocks.1.attentions.1", "unet.up_blocks.1.attentions.2")


def drawing(pipeline: Any, steps: int | None, guidance: float | None) -> dict[str, Any]:
    """Steps and guidance: the user's, the canvas's standard, or the paper's 50 at 9."""
    from efface.profiles import emoji as canvas

    own = canvas.is_canvas(pipeline)
    return {
        "steps": steps or (canvas.STEPS if own else 50),
        "guidance": guidance if guidance is not None else (canvas.GUIDANCE if own else 9.0),
    }


def labelled(path: Path | None, seeds: int, pipeline: Any) -> tuple[list[Any], dict[str, str]]:
    """Pictures of many concepts, from a JSON file {"kind": {"concept": ["prompt", …]}} or the canvas's benchmark."""
    from efface.profiles.emoji import is_canvas
    from efface.profiles.emoji.sae_data import labelled_pictures
    from efface.sae.statistics import Labelled

    if path is None:
        if not is_canvas(pipeline):
            raise UsageError(
                "the model has no concepts of its own: give a JSON file of kinds, concepts and prompts (--concepts)."
            )
        return labelled_pictures(seeds)
    try:
        kinds = json.loads(path.read_text())
        pictures = [
            Labelled(prompt, (concept,), seed)
            for concepts in kinds.values()
            for concept, prompts in concepts.items()
            for prompt in prompts
            for seed in range(seeds)
        ]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(
            f'{path} could not be read ({error}); expected JSON of the form {{"style": {{"noto": ["a cat …"]}}}}.'
        ) from error
    return pictures, {concept: kind for kind, concepts in kinds.items() for concept in concepts}
