"""What is to be removed: a name, its aliases, what takes its place, and the prompts that speak of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from efface.errors import UsageError

Kind = Literal["object", "style", "person", "explicit", "abstract"]


@dataclass(frozen=True)
class Concept:
    """A concept to erase; every text is plain, `templates` hold one "{}" each for the name."""

    name: str
    """What is erased, in the words of a prompt."""
    kind: Kind = "object"
    """Decides which published hyper-parameters and default anchor apply."""
    aliases: tuple[str, ...] = ()
    """Other names of the same thing; erased only where a method is told to, always excluded from what is kept."""
    anchor: str | None = None
    """What takes its place; None is the method's own default for the kind ("" is the empty prompt)."""
    templates: tuple[str, ...] = ("{}",)
    """Prompts that speak of it: the bare name unless the model knows only captions."""
    neutral: tuple[str, ...] = ()
    """Anchor prompts, one a template, where the anchor is not simply the template filled with another noun."""
    keep: tuple[str, ...] = ()
    """Prompts that this concept's preset proposes to retain."""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise UsageError(f"the concept {self.name!r} is empty: name what is to be erased, for example 'church'.")
        for template in self.templates:
            if template.count("{}") != 1:
                raise UsageError(f"the template {template!r} must contain '{{}}' once, where the concept's name goes.")
        if self.neutral and len(self.neutral) != len(self.templates):
            raise UsageError(
                f"{self.name!r} has {len(self.templates)} templates but {len(self.neutral)} anchor prompts: give one each."
            )

    def prompts(self, name: str | None = None) -> list[str]:
        """The templates filled with the concept's name, or with another noun."""
        return [template.replace("{}", self.name if name is None else name) for template in self.templates]

    def anchors(self, default: str) -> list[str]:
        """The prompts that take the place of `prompts()`, one each; an empty anchor is the empty prompt."""
        if self.neutral:
            return list(self.neutral)
        anchor = default if self.anchor is None else self.anchor
        return self.prompts(anchor) if anchor.strip() else [anchor] * len(self.templates)


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
    known = {c.name: c for preset in PRESETS.values() for c in preset}
    return (known.get(name) or Concept(name),)
