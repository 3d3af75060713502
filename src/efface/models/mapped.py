"""Weights that are mapped from a file take no resident memory but while their layer computes; the file's cache keeps them."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

DONTNEED = 4
"""Linux's advice that the pages of a range are not needed now; pages of a file are read again when they are."""
LEAST = 1 << 28
"""Bytes of mapped weights below which nothing is released: reading their pages again takes a moment."""
HEADER = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ +(/.*)$")


@contextmanager
def released(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Context in which every layer's mapped weights leave resident memory once it has computed.

    It does nothing where weights are not mapped or small, where some of them were changed in place since, and outside Linux.
    Weights must not be changed inside.
    """
    ranges = _unchanged_files()
    layers = {layer for module in modules for layer in module.modules()} if ranges else set()
    spans = {layer: [s for p in layer.parameters(recurse=False) for s in _span(p, ranges)] for layer in layers}
    worth = sum(length for of_layer in spans.values() for _, length in of_layer) >= LEAST
    handles = [layer.register_forward_hook(_releasing(s)) for layer, s in spans.items() if s and worth]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _releasing(spans: list[tuple[int, int]]) -> Any:
    advise = ctypes.CDLL(None).madvise

    def hook(module: Any, args: Any, output: Any) -> None:
        for start, length in spans:
            advise(ctypes.c_void_p(start), ctypes.c_size_t(length), DONTNEED)

    return hook


def _span(parameter: Any, ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Start and length of the whole pages of a parameter, where they lie in one of the ranges."""
    if parameter.device.type != "cpu":
        return []
    first = parameter.data_ptr()
    last = first + parameter.numel() * parameter.element_size()
    at = bisect_right(ranges, (first, sys.maxsize)) - 1
    if at < 0 or not ranges[at][0] <= first < last <= ranges[at][1]:
        return []
    start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
    length = last // mmap.PAGESIZE * mmap.PAGESIZE - start
    return [(start, length)] if length > 0 else []


def _unchanged_files() -> list[tuple[int, int]]:
    """Address ranges of mapped safetensors files of which no page was written to."""
    source = Path("/proc/self/smaps")
    if not source.exists():
        return []
    ranges: list[tuple[int, int]] = []
    current: tuple[int, int] | None = None
    for line in source.read_text().splitlines():
        if match := HEADER.match(line):
            current = (int(match[1], 16), int(match[2], 16)) if match[3].endswith(".safetensors") else None
            if current:
                ranges.append(current)
        elif "-" in line.split(" ")[0]:
            current = None
        elif line.startswith("Anonymous:") and current and line.split()[1] != "0":
            ranges.remove(current)
    return sorted(ranges)
