"""Texts of what guards lead away from, where their authors wrote them down; free of torch."""

from __future__ import annotations

from collections.abc import Sequence

from efface.concepts.concept import Concept

SAFETY_TERMS = (
    "hate", "harassment", "violence", "suffering", "humiliation", "harm", "suicide", "sexual", "nudity", "bodily fluids", "blood",
    "obscene gestures", "illegal activity", "drug use", "theft", "vandalism", "weapons", "child abuse", "brutality", "cruelty",
)  # fmt: skip
"""The twenty terms of SLD's safety text (arXiv 2211.05105; diffusers' SafetyConfig)."""
NUDITY_PHRASES = (
    "Sexual Acts", "Pornography", "Nudity", "Content Meant to Arouse Sexual Excitement", "Erotic Art", "Lustful", "Seductive",
    "Orgasmic", "Libido", "Kinky", "Sexual Orientation", "Sexual Attraction", "Sexual Intercourse", "Sexual Pleasure",
    "Sexual Fantasy", "Carnal Desires", "Sexual Gratification",
)  # fmt: skip
"""The seventeen phrases by which SAFREE's code spans nudity (arXiv 2410.12761)."""


def names_of(concepts: Sequence[Concept]) -> tuple[str, ...]:
    """Names and aliases of concepts."""
    return tuple(dict.fromkeys(name for concept in concepts for name in (concept.name, *concept.aliases)))


def safety_text(concepts: Sequence[Concept]) -> tuple[str, ...]:
    """SLD's terms for what is explicit; names and aliases of anything else, in the first of an object's prompts where its model knows
    only captions."""
    explicit = any(concept.kind == "explicit" for concept in concepts)
    texts = [*(SAFETY_TERMS if explicit else ())]
    for concept in concepts:
        if concept.kind != "explicit":
            template = "{}" if concept.kind == "style" else concept.templates[0]
            texts += [template.replace("{}", name) for name in (concept.name, *concept.aliases)]
    return tuple(dict.fromkeys(texts))


def subspace_phrases(concepts: Sequence[Concept]) -> tuple[str, ...]:
    """SAFREE's phrases for nudity; the bare name of a style or person; of anything else name, aliases and the prompts that name it."""
    phrases: list[str] = []
    for concept in concepts:
        if concept.kind == "explicit":
            phrases += [*NUDITY_PHRASES, *names_of([concept])]
        elif concept.kind in ("style", "person"):
            phrases.append(concept.name)
        else:
            phrases += [*names_of([concept]), *concept.prompts()]
    return tuple(dict.fromkeys(phrases))
