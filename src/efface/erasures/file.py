"""One safetensors file an erasure: the header says everything, a checksum covers every byte, nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from efface.errors import EffaceError

FORMAT = 1
"""Version of this file format; a reader refuses newer ones."""
_BLANK = "0" * 64
_KEY = b'"checksum":"'


def write(path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> int:
    """Write an erasure to a temporary name and rename it; returns its size in bytes.

    Raises:
        EffaceError: a tensor is not finite, or the file cannot be written; nothing is left behind.
    """
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise EffaceError(
                f"the erasure holds values that are not finite (in {name}): it was not saved; check the model."
            )
    metadata = {"efface": json.dumps(header | {"format": FORMAT}), "checksum": _BLANK}
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata)
    at = _checksum_at(data)
    digest = hashlib.sha256(data).hexdigest().encode()
    write_atomically(path, data[:at] + digest + data[at + len(digest) :])
    return len(data)


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes to a temporary name beside `path`, flush them to disk, and rename."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        reason = (error.strerror or str(error)).lower()
        raise EffaceError(
            f"{path} could not be written ({reason}): nothing was changed; choose another place."
        ) from error


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of an erasure file, after every check.

    Raises:
        EffaceError: the file is missing, a pickle, truncated, altered, of a newer format, or no erasure.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise EffaceError(f"{path} could not be read ({reason}); expected an erasure's .safetensors file.") from error
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x04", b"\x80\x05"):
        raise EffaceError(
            f"{path} is a pickle or zip archive, which can run code when opened: expected an erasure in .safetensors."
        )
    header = _raw_header(path, data)
    if "efface" not in header.get("__metadata__", {}):
        raise EffaceError(f"{path} is a safetensors file but no erasure: expected one written by `efface erase`.")
    _verify(path, data)
    try:
        content = json.loads(header["__metadata__"]["efface"])
        tensors = load(data)
    except (json.JSONDecodeError, SafetensorError) as error:  # behind a valid checksum: a foreign writer
        raise EffaceError(f"{path} is damaged ({error}): make the erasure again or fetch another copy.") from error
    if content.get("format", 0) > FORMAT:
        raise EffaceError(
            f"{path} has format {content['format']}, this efface reads up to {FORMAT}: update efface (pip install -U efface)."
        )
    return content, tensors


def _raw_header(path: Path, data: bytes) -> dict[str, Any]:
    """The safetensors header as JSON, checked against the file's length."""
    damaged = EffaceError(f"{path} is damaged or not a safetensors file: make the erasure again or fetch another copy.")
    if len(data) < 8:
        raise EffaceError(f"{path} is truncated: {len(data)} bytes where at least 8 were expected; fetch another copy.")
    size = struct.unpack("<Q", data[:8])[0]
    if size > 100_000_000:
        raise damaged
    if 8 + size > len(data):
        raise EffaceError(
            f"{path} is truncated or damaged: {len(data)} bytes where its header alone needs {8 + size}; fetch another copy."
        )
    try:
        header = json.loads(data[8 : 8 + size])
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise damaged from error
    expected = 8 + size + max(ends, default=0)
    if expected > len(data):
        raise EffaceError(f"{path} is truncated: {len(data)} bytes where {expected} were expected; fetch another copy.")
    return header


def _checksum_at(data: bytes) -> int:
    """Where the 64 hexadecimal digits of the checksum lie; −1 when there are none."""
    at = data.find(_KEY, 8, 8 + struct.unpack("<Q", data[:8])[0])
    return at + len(_KEY) if at >= 0 else -1


def _verify(path: Path, data: bytes) -> None:
    """Compare the checksum with the sha256 of the whole file, its own digits taken as zeros."""
    at = _checksum_at(data)
    found = data[at : at + 64].decode("ascii", "replace") if at >= 0 else "none"
    actual = hashlib.sha256(data[:at] + _BLANK.encode() + data[at + 64 :]).hexdigest()
    if found != actual:
        raise EffaceError(
            f"{path} was altered or damaged: its checksum says {found[:12]}…, its content {actual[:12]}…; fetch another copy."
        )
