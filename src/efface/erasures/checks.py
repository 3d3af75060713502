"""Whether what a file holds is an erasure of its kind, by names, types and shapes; free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from efface.errors import EffaceError


class Part(Protocol):
    """A tensor, in memory or in a file."""

    @property
    def shape(self) -> Any:
        """Its sizes."""
        ...

    @property
    def ndim(self) -> int:
        """How many there are."""
        ...

    def is_floating_point(self) -> bool:
        """Whether it holds no whole numbers."""
        ...


def check_text_map(parts: Mapping[str, Part], width: int) -> None:
    """Raise EffaceError where a file holds anything but the two factors of a map of text states of `width`, and perhaps those of
    one of pooled text."""
    shapes = {name: tuple(part.shape) for name, part in parts.items()}
    u, pooled = shapes.get("u", ()), shapes.get("pooled_u")
    beside = {} if pooled is None else {"pooled_u": pooled, "pooled_v": pooled}
    fits = len(u) == 2 and u[0] == width and shapes == {"u": u, "v": u} | beside and len(pooled or u) == 2
    if not fits or not all(part.is_floating_point() for part in parts.values()):
        raise EffaceError(
            f"the text map holds {shapes}; expected u and v of shape ({width}, rank): make the erasure again."
        )


def check_delta(parts: Mapping[str, Part], width: int) -> None:
    """Raise EffaceError where a file holds anything but changes of weights, each in full or as a product; `width` is not
    used."""
    for name in parts:
        base, _, part = name.rpartition(".")
        if part in ("up", "down") and {f"{base}.up", f"{base}.down"} - set(parts):
            raise EffaceError(f"the weight delta holds {name} without its other factor: make the erasure again.")
        if part == "up" and not _fit(parts[name], parts[f"{base}.down"]):
            raise EffaceError(f"the factors of {base} in the weight delta do not fit: make the erasure again.")
        if part == "up" and base in parts:
            raise EffaceError(f"the weight delta holds {base} twice, in full and as a product: make the erasure again.")
    if any(not part.is_floating_point() for part in parts.values()):
        raise EffaceError("the weight delta holds whole numbers; expected weights: make the erasure again.")
    if not parts:
        raise EffaceError("the weight delta is empty; expected at least one tensor: make the erasure again.")


ADAPTER_PARTS = ("down", "down_bias", "up", "up_bias")
"""Names of the parts of a layer's adapter in files, after the layer's name and a bar."""


def check_adapter(parts: Mapping[str, Part], width: int) -> None:
    """Raise EffaceError where a file holds anything but whole adapters of layers; `width` (of text states) is not used."""
    layers: dict[str, dict[str, Part]] = {}
    for name, part in parts.items():
        layer, _, end = name.rpartition("|")
        layers.setdefault(layer, {})[end] = part
    for layer, found in layers.items():
        shapes = {name: tuple(part.shape) for name, part in found.items()}
        inner, outer = (shapes.get(name, ()) for name in ("down_bias", "up_bias"))
        expected = {"down": (*inner, *outer), "down_bias": inner, "up": (*outer, *inner), "up_bias": outer}
        floating = all(part.is_floating_point() for part in found.values())
        if not layer or shapes != expected or (len(inner), len(outer)) != (1, 1) or not floating:
            raise EffaceError(
                f"the adapter of {layer!r} holds {shapes}; expected {', '.join(ADAPTER_PARTS)} that fit: make the erasure again."
            )
    if not parts:
        raise EffaceError("the adapter is empty; expected at least one layer: make the erasure again.")


def _fit(up: Part, down: Part) -> bool:
    """Whether two factors, (out rank) and (rank in), have a product."""
    return up.ndim == down.ndim == 2 and up.shape[1] == down.shape[0]


CHECKS: dict[str, Callable[[Mapping[str, Part], int], None]] = {
    "textmap": check_text_map,
    "delta": check_delta,
    "adapter": check_adapter,
}
"""Kind -> its check, for the kinds that need no torch for it."""
