"""What sparse heads tell by the canvas's own autoencoders, and whether the latents that they choose erase as well as the score's.

`efface sae name emoji` fits the heads on drawn pictures; then every concept is erased twice by `saeuron` with the canvas's settings,
once by the published score and once by the heads (`--selection head`), and asked for by name in every style.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from quality import canvas

from efface.api.erase import erase
from efface.cli import main as efface
from efface.erasures import ActivationEdit, Erasure
from efface.profiles.emoji.exam import draw
from efface.profiles.emoji.questions import by_own_name
from efface.profiles.emoji.sae_data import SITES
from efface.sae.latent_names import FILE, LatentNames

KIND = "object"
"""Of the concepts whose head counts."""
model = cache(canvas)


def sparse_head(
    folder: Path, concepts: Sequence[str], seeds: int, once: Callable[[str, Callable[[], Any]], Any]
) -> dict[str, float]:
    """Accuracy of the best site's head and the latents that it counts, UA by both choices, and the latents of one over the other's.

    Args:
        folder: of the heads.
        concepts: objects that are erased.
        seeds: pictures of every pair of object and style, by which the heads are fitted and checked.
        once: measures under a name, and keeps what it found.
    """
    if not all((folder / site / FILE).exists() for site in SITES):
        efface(["sae", "name", "emoji", "-o", str(folder), "--seeds", str(seeds)])
    heads = {site: LatentNames.load(folder / site / FILE).summary()["kinds"][KIND] for site in SITES}
    for site, head in heads.items():
        print(f"{site}: {head['accuracy']:.1%} of {head['held_out']} held out, {head['active']:.1f} latents each")
    best = max(heads.values(), key=lambda head: head["accuracy"])
    options = {"score": {}, "head": {"selection": "head", "names": str(folder)}}
    found = {
        how: [once(f"{how}-{name}", lambda n=name, o=own: erased(n, o)) for name in concepts]
        for how, own in options.items()
    }
    ua = {
        how: 100 * sum(row["gone"] for row in rows) / sum(row["shown"] for row in rows) for how, rows in found.items()
    }
    latents = {how: sum(row["latents"] for row in rows) for how, rows in found.items()}
    return {
        "accuracy": round(100 * best["accuracy"], 2),
        "active": round(best["active"], 2),
        "ua_score": round(ua["score"], 2),
        "ua_gap": round(ua["score"] - ua["head"], 2),
        "latents_ratio": round(latents["head"] / latents["score"], 3),
    }


def erased(concept: str, options: dict[str, Any]) -> dict[str, float]:
    """Of the pictures of a concept by name, those that the unerased model shows and of these those that are gone; and the latents."""
    asked = by_own_name(concept)
    erasure = erase(model().pipeline, concept, method="saeuron", **options)
    before = draw(model(), asked)
    with erasure.attached(model().pipeline):
        after = draw(model(), asked)
    gone = [not now.things[0] for was, now in zip(before, after, strict=True) if was.things[0]]
    return {"gone": sum(gone), "shown": len(gone), "latents": latents_of(erasure)}


def latents_of(erasure: Erasure) -> int:
    """Latents that an erasure scales at any timestep, all sites together."""
    assert isinstance(erasure, ActivationEdit)
    return sum(len(edit.latents) for edit in erasure.edits.values())
