"""What pictures show, as a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from efface.concepts.sample import Sample


class Labelled(NamedTuple):
    """Pictures, each once, with all that it shows."""

    samples: tuple[Sample, ...]
    labels: Tensor
    """Which concepts a picture shows (pictures concepts)."""


def labelled_pictures(samples: Sequence[Sample], concepts: Sequence[str]) -> Labelled:
    """Samples of the same prompt and seed are one picture, which shows all that each of them was said to show."""
    shows: dict[tuple[str, int], tuple[str, ...]] = {}
    first: dict[tuple[str, int], Sample] = {}
    for sample in samples:
        key = (sample.prompt, sample.seed)
        first.setdefault(key, sample)
        shows[key] = tuple(dict.fromkeys((*shows.get(key, ()), *sample.shows)))
    alone = tuple(replace(first[key], shows=shown) for key, shown in shows.items())
    labels = torch.tensor([[name in sample.shows for name in concepts] for sample in alone], dtype=torch.bool)
    return Labelled(alone, labels.view(len(alone), len(concepts)))


def of_kind(kinds: Mapping[str, str], kind: str) -> tuple[list[str], list[int]]:
    """The concepts of a kind, and which they are among all."""
    found = [(name, at) for at, (name, of) in enumerate(kinds.items()) if of == kind]
    return [name for name, _ in found], [at for _, at in found]
