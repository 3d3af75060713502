"""Folders of pictures whose sub-folders say what the pictures show: FOLDER/church/noto/1.png shows a church in noto style."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from efface.errors import EffaceError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class PictureFile(NamedTuple):
    """A picture on disk, and what its folders say of it."""

    path: Path
    name: str = ""
    """What it shows; empty for a picture that lies in no sub-folder."""
    style: str = ""
    """In which style; empty where there is no second sub-folder."""


def pictures_in(folder: Path | str) -> list[PictureFile]:
    """The pictures of a folder and its sub-folders, sorted by their paths.

    Raises:
        EffaceError: there is no such folder, or no picture in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise EffaceError(
            f"{root} is no folder: expected one with pictures, or with a sub-folder of pictures for every concept."
        )
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise EffaceError(f"{root} holds no picture: expected files that end in {', '.join(SUFFIXES)}.")
    return [_labelled(path, path.relative_to(root).parts[:-1]) for path in paths]


def _labelled(path: Path, parents: Sequence[str]) -> PictureFile:
    """A picture by the names of the folders above it."""
    name, style = (*parents[:2], "", "")[:2]
    return PictureFile(path, name.replace("_", " "), style.replace("_", " "))
