"""Measures of pictures: distance to the unerased picture, agreement with the prompt, features for FID, and keeping files."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from efface.bench.unit import Unit
from efface.errors import EffaceError
from efface.io.atomic import write_atomically
from efface.io.images import png_bytes
from efface.metrics.base import Agreement, Comparison, Pictures
from efface.metrics.features import Extractor


class Distance:
    """How far each picture lies from the unerased model's of the same prompt and seed.

    Pictures of the unerased model are kept as PNG files, without loss, when their own unit is measured; an entry is
    therefore recorded for erased models alone, and their units must be measured after.

    Args:
        compare: the distance.
        folder: where the unerased pictures are kept.
    """

    def __init__(self, compare: Comparison, folder: Path):
        self.compare = compare
        self.folder = folder
        self.name = compare.name

    def measure(self, unit: Unit, pictures: Pictures) -> list[dict[str, Any] | None]:
        """`distance` of every picture of an erased model."""
        if not unit.erasures:
            self._keep(unit, pictures)
            return [None] * len(pictures)
        originals = self._originals(replace(unit, erasures=()), len(pictures))
        distances = self.compare(originals, pictures)
        return [{"distance": float(value)} for value in distances]

    def lacks(self, unit: Unit) -> bool:
        """Whether an unerased picture that this unit is compared with is no longer there."""
        return not all(path.exists() for path in self._paths(replace(unit, erasures=()), len(unit.prompts)))

    def _keep(self, unit: Unit, pictures: Pictures) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, picture in zip(self._paths(unit, len(pictures)), pictures, strict=True):
            write_atomically(path, png_bytes(picture.convert("RGB"), compress_level=1))

    def _originals(self, unit: Unit, count: int) -> list[Image.Image]:
        if self.lacks(unit):
            raise EffaceError(
                f"the unerased pictures of the unit {unit.key[:12]}… are not in {self.folder}: draw them before erased ones."
            )
        originals = []
        for path in self._paths(unit, count):
            with Image.open(path) as picture:
                originals.append(picture.convert("RGB"))
        return originals

    def _paths(self, unit: Unit, count: int) -> list[Path]:
        return [self.folder / f"{unit.key}-{i:02}.png" for i in range(count)]


class PromptAgreement:
    """How well each picture agrees with its prompt."""

    def __init__(self, agreement: Agreement):
        self.agreement = agreement
        self.name = agreement.name

    def measure(self, unit: Unit, pictures: Pictures) -> list[dict[str, Any] | None]:
        """`score` of every picture."""
        return [{"score": float(value)} for value in self.agreement(pictures, unit.prompts)]


class Features:
    """What an extractor sees in each picture, kept as float32 so that FID can be taken over any choice of pictures."""

    def __init__(self, extract: Extractor):
        self.extract = extract
        self.name = extract.name

    def measure(self, unit: Unit, pictures: Pictures) -> list[dict[str, Any] | None]:
        """`features` of every picture in base64."""
        rows = self.extract(pictures).detach().float().cpu().numpy().astype("<f4")
        return [{"features": base64.b64encode(row.tobytes()).decode()} for row in rows]


def features_of(entries: Sequence[Mapping[str, Any]], name: str) -> Tensor:
    """Features (pictures width) from the entries of a ledger."""
    rows = [np.frombuffer(base64.b64decode(entry[name]["features"]), "<f4") for entry in entries]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


class ImageSaver:
    """Keeps every picture that is drawn as a file; records nothing, and determines nothing.

    Args:
        folder: a folder for each model is made in it.
        models: name of the folder of a unit's model, by its erasures.
        files: name of a picture's file, by its prompt, seed and guidance.
    """

    name = ""

    def __init__(
        self, folder: Path, models: Mapping[tuple[str, ...], str], files: Mapping[tuple[str, int, float], str]
    ):
        self.folder = folder
        self.models = models
        self.files = files

    def measure(self, unit: Unit, pictures: Pictures) -> list[dict[str, Any] | None]:
        """Save every picture; records None for each."""
        folder = self.folder / self.models[unit.erasures]
        folder.mkdir(parents=True, exist_ok=True)
        for prompt, seed, picture in zip(unit.prompts, unit.seeds, pictures, strict=True):
            name = self.files[prompt, seed, unit.setting.guidance]
            write_atomically(folder / f"{name}.png", png_bytes(picture.convert("RGB"), compress_level=1))
        return [None] * len(pictures)
