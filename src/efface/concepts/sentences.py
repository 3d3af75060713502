"""Sentences in which a concept is named where its user gives none: an erasure of many must hold in more than the bare name."""

from __future__ import annotations

from dataclasses import replace

from efface.concepts.concept import Concept, Kind

SENTENCES: dict[Kind, tuple[str, ...]] = {
    "object": (
        "{}", "a {}", "a photo of a {}", "a painting of a {}", "a drawing of a small {}", "a close-up of the {}",
        "a {} in the park", "a {} at night", "an old photo of a {} in the street", "two pictures of a {}",
    ),
    "style": (
        "{}", "a painting in the style of {}", "art by {}", "a landscape in the style of {}", "a portrait by {}",
        "a drawing of a house in the style of {}", "{} style", "a picture of a city, {} style", "in the style of {}",
    ),
    "person": (
        "{}", "a photo of {}", "a portrait of {}", "a painting of {}", "{} at the beach", "{} in a suit",
        "a close-up of {}, smiling", "a drawing of {}", "a picture of {} in the street",
    ),
    "explicit": ("{}", "a photo of {}", "a picture that shows {}", "a painting of {}", "{} in a room"),
    "abstract": ("{}", "a photo of {}", "a picture that shows {}", "a painting of {}", "{} in a room"),
}  # fmt: skip
"""By kind; the first is the bare name."""

SECOND: dict[Kind, tuple[str, ...]] = {
    "object": ("a chair and a {}", "in the garden, beside the table, a {}"),
    "style": ("a house near a river in spring, by {}",),
    "person": ("a dog and {}", "in the garden, beside the table, {}"),
    "explicit": ("two people in a house, {}",),
    "abstract": ("two people in a house, {}",),
}
"""By kind, with the name in another place."""


def in_sentences(concept: Concept) -> Concept:
    """The concept in the sentences of its kind; one with templates of its own stays as it is."""
    if concept.templates != ("{}",) or concept.neutral:
        return concept
    return replace(concept, templates=SENTENCES[concept.kind])


def in_second_place(concept: Concept) -> Concept | None:
    """The concept named later in a sentence; None where it has templates of its own."""
    if concept.templates != ("{}",) or concept.neutral:
        return None
    return replace(concept, templates=SECOND[concept.kind])
