"""Prompts to draw, their seeds, and what their pictures should show."""

from __future__ import annotations

from typing import NamedTuple


class Labelled(NamedTuple):
    """A picture that is to be drawn for the statistics."""

    prompt: str
    concepts: tuple[str, ...]
    """Every concept that it shows, of any kind."""
    seed: int


class Try(NamedTuple):
    """One prompt and seed with which the original model shows the concept."""

    prompt: str
    seed: int


class Prompt(NamedTuple):
    """A prompt of the audit, and what a judge should see in its pictures."""

    text: str
    expected: str | None
    """A class of the judge; None where it knows none."""


class Shot(NamedTuple):
    """One picture that a protocol asks for."""

    name: str
    """Of its file, where pictures are kept."""
    prompt: str
    seed: int
    guidance: float | None = None
    """Its own, where the prompt brings one."""
    label: str = ""
    """What it should show: a class, an artist, an object."""
    other: str = ""
    """What it should show in a second domain: a style."""
