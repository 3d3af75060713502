"""The folder of an attack: what is done, what is under way, and the images; every file is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from efface.errors import EffaceError, UsageError
from efface.io.atomic import write_atomically
from efface.io.checkpoint import read_state, write_state
from efface.io.images import save_picture

View = Literal["original", "erased", "attacked"]
"""Who drew an image of a sample: the original model, the erased one, or the erased one under attack."""
VIEWS: tuple[View, ...] = ("original", "erased", "attacked")


class Record(NamedTuple):
    """The contents of one file."""

    data: Any
    """Plain JSON."""
    tensors: dict[str, Tensor]


class RunStore:
    """Records and images by name in a folder, or in memory where no folder is given.

    Args:
        folder: is made if it is missing; a run that it holds is resumed.
        identity: everything that determines the result; a folder of another attack is refused. None only reads.

    Raises:
        UsageError: the folder belongs to another attack.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any] | None):
        self.folder = folder
        self.identity = identity
        self.records: dict[str, Record] = {}
        self.images: dict[tuple[int, View], Image.Image] = {}
        if folder is None or identity is None:
            return
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        described = json.dumps(identity, sort_keys=True, indent=1)
        path = folder / "attack.json"
        if path.exists() and path.read_text() != described:
            raise UsageError(f"{folder} holds another attack, or one with other options: name another folder.")
        write_atomically(path, described.encode())

    def read(self, name: str) -> Record | None:
        """The record of that name; None where there is none."""
        path = self._path(name)
        if path is None:
            return self.records.get(name)
        if not path.exists():
            return None
        try:
            tensors, metadata = read_state(path)
            return Record(json.loads(metadata["data"]), tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise EffaceError(f"{path} is damaged ({error}): delete it, and that part is done again.") from error

    def write(self, name: str, data: Any, tensors: dict[str, Tensor]) -> None:
        """Put a record in place."""
        path = self._path(name)
        if path is None:
            self.records[name] = Record(json.loads(json.dumps(data)), tensors)
            return
        write_state(path, tensors, {"data": json.dumps(data)})

    def delete(self, name: str) -> None:
        """Remove a record, where there is one."""
        self.records.pop(name, None)
        path = self._path(name)
        if path is not None:
            path.unlink(missing_ok=True)

    def save_image(self, number: int, view: View, image: Image.Image) -> None:
        """Put an image of the sample of that number in place."""
        if self.folder is None:
            self.images[number, view] = image
        else:
            save_picture(image, self._image_path(self.folder, number, view))

    def image(self, number: int, view: View) -> Image.Image | None:
        """An image of the sample of that number; None where there is none."""
        if self.folder is None:
            return self.images.get((number, view))
        path = self._image_path(self.folder, number, view)
        if not path.exists():
            return None
        with Image.open(path) as image:
            return image.convert("RGB")

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.safetensors"

    @staticmethod
    def _image_path(folder: Path, number: int, view: View) -> Path:
        return folder / "pictures" / f"{number:03}-{view}.png"
