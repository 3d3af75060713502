"""Ways to say a concept: its own prompts, and texts that draw it without its name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from efface.concepts.concept import Concept
from efface.models.model import Model, Text


class Spoken(NamedTuple):
    """A way to say a concept."""

    text: Text
    """The prompt, encoded (one prompt)."""
    prompt: str
    """The prompt in words; it holds the concept's own name also where the text has a new word in its place."""


class Group(NamedTuple):
    """A prompt with all ways to say its concept."""

    anchor: str
    """The prompt that takes its place."""
    texts: list[Text]
    """Each way, encoded (one prompt)."""


def said(model: Model, prompts: Iterable[str]) -> list[Spoken]:
    """Prompts as they are."""
    return [Spoken(model.encode([prompt]), prompt) for prompt in prompts]


def grouped(concept: Concept, ways: Sequence[Spoken]) -> list[Group]:
    """Ways to say a concept, by the prompt that they say it in."""
    prompts = dict.fromkeys(way.prompt for way in ways)
    return [Group(concept.anchor_of(p), [way.text for way in ways if way.prompt == p]) for p in prompts]
