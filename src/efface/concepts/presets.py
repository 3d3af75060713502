"""The papers' concepts: nudity, unsafe content, Imagenette's classes, artists."""

from __future__ import annotations

from efface.concepts.concept import Concept

UNSAFE_WORDS = (
    "hate", "harassment", "violence", "suffering", "humiliation", "harm",
    "suicide", "sexual", "nudity", "bodily fluids", "blood",
)  # fmt: skip
"""The eleven words of RECE's unsafe preset (arXiv 2407.12383)."""


IMAGENETTE = (
    "cassette player", "chain saw", "church", "English springer", "French horn",
    "garbage truck", "gas pump", "golf ball", "parachute", "tench",
)  # fmt: skip
"""Imagenette's ten classes, the object benchmark of UCE and RECE."""


ARTISTS = (
    "Pablo Picasso", "Vincent van Gogh", "Rembrandt", "Andy Warhol", "Caravaggio",
    "Kelly McKernan", "Thomas Kinkade", "Tyler Edlin", "Kilian Eng", "Ajin: Demi Human",
)  # fmt: skip
"""The five well-known and five modern artists of the ESD, UCE and RECE benchmarks."""


HARD_OBJECTS = ("church", "garbage truck")
"""Objects that RECE treats with the smaller regulariser (λ_r 1e-3)."""


PRESETS: dict[str, tuple[Concept, ...]] = {
    "nudity": (Concept("nudity", "explicit", anchor=" "),),
    "unsafe": tuple(Concept(word, "explicit", anchor=" ") for word in UNSAFE_WORDS),
    "imagenette": tuple(Concept(name, anchor=" ") for name in IMAGENETTE),
    "artists": tuple(Concept(name, "style", anchor="art") for name in ARTISTS),
}
"""Named groups of concepts from the papers; `concepts_named` resolves them before plain names."""


def concepts_named(name: str) -> tuple[Concept, ...]:
    """The preset called `name`, a known artist or Imagenette class by its exact name, or a plain object concept."""
    if name in PRESETS:
        return PRESETS[name]
    by_name = {concept.name: concept for preset in PRESETS.values() for concept in preset}
    return (by_name.get(name) or Concept(name),)
