"""Pictures on disk in place of a model's, so that real pictures too are looked at once and recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from efface.bench.engine import Worker
from efface.bench.observer import Observer
from efface.bench.unit import Setting, Unit, units_of
from efface.errors import EffaceError
from efface.io.digest import sha256_of_file


class FileWorker(Worker):
    """Opens pictures instead of drawing them; in the place of prompts, units name the sha256 of each file.

    Args:
        paths: of the pictures.
        judges: judges and measures by their short names.

    Raises:
        EffaceError: a file cannot be read.
    """

    def __init__(self, paths: Sequence[Path], judges: Mapping[str, Observer]):
        self.judges = judges
        self.stack = ExitStack()
        self.attached = ()
        self.digests = [_digest(path) for path in paths]
        self.paths = dict(zip(self.digests, paths, strict=True))

    def units(self) -> list[Unit]:
        """All pictures, in order."""
        names = tuple(f"{name}: {judge.name}" for name, judge in self.judges.items())
        setting = Setting("files", "", "", 0, 0.0, None, None, names, torch.get_num_threads())
        return units_of(setting, (), [(digest, 0) for digest in self.digests])

    def draw(self, unit: Unit) -> list[Any]:
        """The pictures of a unit; raises EffaceError where a file is no picture."""
        pictures = []
        for digest in unit.prompts:
            path = self.paths[digest]
            try:
                with Image.open(path) as picture:
                    pictures.append(picture.convert("RGB"))
            except OSError as error:
                raise EffaceError(f"{path} could not be read as a picture: replace it.") from error
        return pictures


def _digest(path: Path) -> str:
    return sha256_of_file(path, expected="a picture")
