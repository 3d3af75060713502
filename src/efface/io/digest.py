"""Digests of files, folders, words and tensors: what tells two of them apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from efface.errors import EffaceError, system_reason

_CONTENT = (".safetensors", ".json", ".txt")


def sha256_of_file(*paths: Path, expected: str) -> str:
    """sha256 over the bytes of files, one after the other.

    Args:
        paths: of the files.
        expected: what each should be, for the error.

    Raises:
        EffaceError: a file cannot be read.
    """
    hashed = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    hashed.update(block)
        except OSError as error:
            raise EffaceError(f"{path} could not be read ({system_reason(error)}); expected {expected}.") from error
    return hashed.hexdigest()


def digest(*paths: Path) -> str:
    """The first twelve hexadecimal digits of the sha256 over files of weights."""
    return sha256_of_file(*paths, expected="a file of weights")[:12]


def digest_of_folder(folder: Path) -> str:
    """The digest of a checkpoint's folder: weights, configuration and vocabulary, in the order of their names."""
    return digest(*sorted(path for path in folder.iterdir() if path.suffix in _CONTENT))


def digest_of_words(words: Iterable[str]) -> str:
    """The first eight hexadecimal digits of the sha256 over a list of labels or prompts."""
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


def sha256_of_tensor(tensor: Tensor) -> str:
    """sha256 over a tensor's bytes, as a file holds them."""
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(flat.numpy().tobytes()).hexdigest()


def sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes and float32 values of tensors, in the order of their names."""
    hashed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name}{tuple(tensor.shape)}".encode())
        hashed.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return hashed.hexdigest()


def digest_of_weights(weights: Iterable[Tensor]) -> str:
    """A hash of large tensors that follows every value: shapes, a sum over all bits, and every 64th value exactly.

    Hashing all of SDXL's key and value matrices would take as long as the edit itself.
    """
    hashed = hashlib.sha256()
    for weight in weights:
        flat = weight.detach().contiguous().flatten()
        flat = flat if flat.device.type == "cuda" else flat.cpu()
        bits = flat.view(torch.uint8)
        whole = len(bits) // 8 * 8
        # Eight bytes at a time, wrapping around: summed as they are, no wider copy of the tensor is made.
        total = int(bits[:whole].view(torch.int64).sum())
        hashed.update(f"{tuple(weight.shape)}{weight.dtype}{total}".encode())
        hashed.update(bits[whole:].cpu().numpy().tobytes())
        hashed.update(bits.view(len(flat), flat.element_size())[::64].cpu().numpy().tobytes())
    return hashed.hexdigest()[:32]
