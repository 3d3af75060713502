"""One safetensors file an erasure: the header says everything, a checksum covers every byte, nothing is ever unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.errors import EffaceError
from efface.io.atomic import write_atomically
from efface.io.requirements import require_installed
from efface.io.tensor_file import Raw, Values, open_tensors, read_json, read_raw, serialize, values_in, verify

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2
"""Version of this file format; a reader refuses newer ones. Since 2 an erasure names what it touches of its base model, and kinds
come without a new number: a reader that does not know one says so."""


def write(path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> int:
    """Write an erasure to a temporary name and rename it; returns its size in bytes.

    Args:
        path: of the file.
        header: what it says of itself; its `format` is this one where it names none.
        tensors: what it holds.

    Raises:
        EffaceError: a tensor is not finite, or the file cannot be written; nothing is left behind.
    """
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise EffaceError(
                f"the erasure holds values that are not finite (in {name}): it was not saved; check the model."
            )
    data = serialize(tensors, {"efface": json.dumps({"format": FORMAT} | header)})
    write_atomically(path, data)
    return len(data)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of an erasure file, after every check.

    Raises:
        EffaceError: the file is missing, a pickle, truncated, altered, of a newer format, or no erasure.
    """
    raw = _raw(path)
    content = open_tensors(path, "an erasure", raw=raw)
    return _header(path, raw, content.has_checksum), content.tensors


def read_values(path: Path) -> tuple[dict[str, Any], dict[str, Values]]:
    """The same without torch: the tensors as they stand in the file."""
    raw = _raw(path)
    has_checksum = verify(path, raw)
    values = values_in(path, raw)
    return _header(path, raw, has_checksum), values


def _raw(path: Path) -> Raw:
    """The bytes of an erasure file; refuses other safetensors files."""
    raw = read_raw(path, "an erasure")
    if "efface" not in raw.metadata:
        raise EffaceError(f"{path} is a safetensors file but no erasure: expected one written by `efface erase`.")
    return raw


def _header(path: Path, raw: Raw, has_checksum: bool) -> dict[str, Any]:
    """What a file says of itself, of a format that is known."""
    if not has_checksum:
        raise EffaceError(f"{path} was altered or damaged: it has lost its checksum; fetch another copy.")
    try:
        header = read_json(raw.metadata["efface"])
        if not isinstance(header, dict) or type(header.get("format")) is not int:
            raise ValueError("its header is no object with a format")
    except ValueError as error:  # behind a valid checksum: a foreign writer
        raise EffaceError(f"{path} is damaged ({error}): make the erasure again or fetch another copy.") from error
    if header["format"] > FORMAT:
        raise EffaceError(
            f"{path} has format {header['format']}, this efface reads up to {FORMAT}: update efface (pip install -U efface)."
        )
    require_installed(
        f"{path} holds an erasure of kind {str(header.get('kind'))[:40]!r} that", header.get("requires", [])
    )
    return header
