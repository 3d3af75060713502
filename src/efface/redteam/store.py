"""The folder of an attack: what is done, what is under way, and the pictures; every file is whole or not there."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from efface.errors import EffaceError, UsageError
from efface.io.atomic import write_atomically
from efface.io.checkpoint import read_state, write_state
from efface.io.images import save_picture


class Page(NamedTuple):
    """One file: tensors, and what JSON can say."""

    data: Any
    tensors: dict[str, Tensor]


class Book:
    """Pages by name in a folder, or in memory where no folder is given.

    Args:
        folder: is made; what it holds is gone on with.
        identity: everything that determines the result; a folder of another attack is refused. None only reads.

    Raises:
        UsageError: the folder belongs to another attack.
    """

    def __init__(self, folder: Path | None, identity: dict[str, Any] | None):
        self.folder, self.identity = folder, identity
        self.pages: dict[str, Page] = {}
        self.drawn: dict[str, Image.Image] = {}
        if folder is None or identity is None:
            return
        (folder / "pictures").mkdir(parents=True, exist_ok=True)
        described = json.dumps(identity, sort_keys=True, indent=1)
        path = folder / "attack.json"
        if path.exists() and path.read_text() != described:
            raise UsageError(f"{folder} holds another attack, or one with other options: name another folder.")
        write_atomically(path, described.encode())

    def read(self, name: str) -> Page | None:
        """A page; None where there is none."""
        path = self._path(name)
        if path is None:
            return self.pages.get(name)
        if not path.exists():
            return None
        try:
            tensors, metadata = read_state(path)
            return Page(json.loads(metadata["data"]), tensors)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise EffaceError(f"{path} is damaged ({error}): delete it, and that part is done again.") from error

    def write(self, name: str, data: Any, tensors: dict[str, Tensor]) -> None:
        """Put a page in place."""
        path = self._path(name)
        if path is None:
            self.pages[name] = Page(json.loads(json.dumps(data)), tensors)
            return
        write_state(path, tensors, {"data": json.dumps(data)})

    def drop(self, name: str) -> None:
        """Take a page out."""
        self.pages.pop(name, None)
        path = self._path(name)
        if path is not None:
            path.unlink(missing_ok=True)

    def keep(self, name: str, picture: Image.Image) -> None:
        """Put a picture in place."""
        if self.folder is None:
            self.drawn[name] = picture
        else:
            save_picture(picture, self.folder / "pictures" / f"{name}.png")

    def picture(self, name: str) -> Image.Image | None:
        """A picture; None where there is none."""
        if self.folder is None:
            return self.drawn.get(name)
        path = self.folder / "pictures" / f"{name}.png"
        if not path.exists():
            return None
        with Image.open(path) as picture:
            return picture.convert("RGB")

    def _path(self, name: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{name}.safetensors"


def digest(tensors: dict[str, Tensor]) -> str:
    """sha256 over named tensors."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name}{tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()
