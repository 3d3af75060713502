"""GatedMap: a text map that acts on prompts which name what it erases, and leaves every other one bit for bit as it is."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from efface.erasures.dual import Factors, MapRows
from efface.erasures.gates import Gates
from efface.erasures.provenance import Provenance
from efface.erasures.text_erasure import TextErasure
from efface.erasures.textmap import TextMap
from efface.errors import EffaceError
from efface.families.networks import Hook, TextInput, joint_hook
from efface.models.precision import finite_float32, without_autocast

UNGATED = "weights cannot hold the gates of this erasure: they get its linear map, which acts on every prompt."
"""What folding and exporting say."""


@dataclass(frozen=True, eq=False)
class GatedMap(TextErasure):
    """Text states of a prompt that names some of the concepts pass the map of those; all others pass as they are.

    The map of the active concepts is solved when a set of them is met for the first time. Pooled text, where the erasure has
    rows for it, passes its own map of the same concepts. Weights cannot hold a gate: folded and exported, it is the one map of
    all its concepts.
    """

    gates: Gates
    rows: MapRows
    """Of text states."""
    pooled: MapRows | None = None
    """Of pooled text; None where that passes as it is."""
    _maps: Factors = field(default_factory=dict, init=False, repr=False)
    _pooled_maps: Factors = field(default_factory=dict, init=False, repr=False)

    kind = "gated-map"
    lost_in_weights = UNGATED

    @classmethod
    def of(cls, origin: Provenance, gates: Gates, rows: MapRows, pooled: MapRows | None = None) -> GatedMap:
        """The map with these parts in float32, so that what is saved is what was attached.

        Raises:
            EffaceError: they are not finite.
        """
        single = Gates(
            centre=finite_float32(gates.centre),
            weights=finite_float32(gates.weights),
            thresholds=finite_float32(gates.thresholds),
            concept=gates.concept,
        )
        return cls(
            provenance=origin, gates=single, rows=rows.single(), pooled=None if pooled is None else pooled.single()
        )

    @property
    def concepts(self) -> int:
        """How many concepts it has."""
        return int(self.rows.owner.max()) + 1

    @property
    def width(self) -> int:
        """Width of the text states."""
        return len(self.rows.v)

    @property
    def union(self) -> bool:
        """Whether any open gate brings the map of all concepts, not of those alone whose gates are open."""
        return bool(self.provenance.config.get("union", False))

    def factors_of(self, active: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """U and V (each width rows) of the map of some concepts, in float32."""
        if active not in self._maps:
            self._maps[active] = self.rows.solved(active)
        return self._maps[active]

    def pooled_factors_of(self, active: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
        """The same of the map of pooled text (each pooled rows); None where it has none."""
        if self.pooled is None:
            return None
        if active not in self._pooled_maps:
            self._pooled_maps[active] = self.pooled.solved(active)
        return self._pooled_maps[active]

    @property
    def pooled_width(self) -> int | None:
        """Width of the pooled text that it maps; None where it leaves that as it is."""
        return None if self.pooled is None else len(self.pooled.v)

    @cached_property
    def linear(self) -> TextMap:
        """The one map of all concepts, without gates: what weights can hold of it."""
        everyone = tuple(range(self.concepts))
        u, v = self.factors_of(everyone)
        return TextMap(self.provenance, u, v, *(self.pooled_factors_of(everyone) or ()))

    def map(self, states: Tensor, scale: float = 1.0) -> Tensor:
        """Mapped text states (batch tokens width); the very tensor that came where no gate opens."""
        return self.map_both(states, None, scale)[0]

    def map_both(self, states: Tensor, vectors: Tensor | None, scale: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Mapped text states (batch tokens width) and pooled text (batch pooled), by one decision for each prompt; the very
        tensors that came where no gate opens.

        Raises:
            EffaceError: there is not one pooled vector for each prompt.
        """
        if vectors is not None and (states.ndim != 3 or len(states) != len(vectors)):
            raise EffaceError(
                f"text states of shape {tuple(states.shape)} came with pooled text of shape {tuple(vectors.shape)}: expected one "
                "vector for each prompt, so that its gates decide on both."
            )
        if scale == 0:
            return states, vectors
        with without_autocast(states.device):
            opened = self._opened(states)
            if not opened:
                return states, vectors
            mapped = _mapped(states if states.ndim == 3 else states[None], opened, self.factors_of, scale)
            if vectors is not None and self.pooled is not None:
                vectors = _mapped(vectors, opened, self.pooled_factors_of, scale)
            return mapped.reshape(states.shape), vectors

    def _opened(self, states: Tensor) -> dict[tuple[int, ...], list[int]]:
        """Active concepts -> prompts of a batch of states (batch tokens width) whose gates they open."""
        wide = states.detach().float()
        gates = self.gates.to(wide)
        groups: dict[tuple[int, ...], list[int]] = {}
        for prompt, row in enumerate(gates.open(wide if wide.ndim == 3 else wide[None]).cpu()):
            if row.any():
                active = tuple(range(self.concepts)) if self.union else tuple(row.nonzero().flatten().tolist())
                groups.setdefault(active, []).append(prompt)
        return groups

    def changes_at(self, text: TextInput, pooled: TextInput | None, scale: float) -> list[Hook]:
        """Map what comes to one call."""

        def mapped(states: Tensor) -> Tensor:
            return self.map(states, scale)

        def both_mapped(states: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
            return self.map_both(states, vectors, scale)

        # Which map acts depends on the values.
        change: Any = torch.compiler.disable(mapped)
        change_both: Any = torch.compiler.disable(both_mapped)
        if pooled is None or not self.maps_pooled:
            return [text.hook(change)]
        return [joint_hook(text, pooled, change_both)]

    def foldable(self) -> TextMap:
        """The linear map, with a warning."""
        warnings.warn(UNGATED, stacklevel=3)
        return self.linear

    def fold(self, name: str, weight: Tensor, scale: float) -> Tensor:
        """W M with the linear map."""
        return self.linear.fold(name, weight, scale)

    def factors(self, name: str, weight: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """ΔW of the linear map."""
        return self.linear.factors(name, weight, scale)

    def tensors(self) -> dict[str, Tensor]:
        pooled = {} if self.pooled is None else self.pooled._asdict()
        gates = {f"gate_{name}": part for name, part in self.gates._asdict().items()}
        return self.rows._asdict() | {f"pooled_{name}": part for name, part in pooled.items()} | gates

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> GatedMap:
        """The erasure that `tensors()` came from."""
        gates = Gates(**{name: tensors[f"gate_{name}"] for name in Gates._fields})
        rows = MapRows(**{name: tensors[name] for name in MapRows._fields})
        pooled = None
        if "pooled_owner" in tensors:
            pooled = MapRows(**{name: tensors[f"pooled_{name}"] for name in MapRows._fields})
        return cls(provenance=provenance, gates=gates, rows=rows, pooled=pooled)

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        rows, gates, pooled = (shapes.get(name, (0,))[:1] for name in ("owner", "gate_concept", "pooled_owner"))
        expected = _shapes("", rows, width) | {"gate_centre": (width,), "gate_weights": (*gates, width)}
        expected |= {"gate_thresholds": gates, "gate_concept": gates}
        if "pooled_owner" in shapes:
            expected |= _shapes("pooled_", pooled, (shapes.get("pooled_v") or (0,))[0])
        if shapes != expected or not rows[0] or not gates[0]:
            raise EffaceError(f"the gated map holds {shapes}; expected {expected}: make the erasure again.")
        whole = {"owner", "gate_concept", "pooled_owner"}
        if any(tensor.is_floating_point() == (name in whole) for name, tensor in tensors.items()):
            raise EffaceError("the gated map holds values of wrong types: make the erasure again.")
        owners, *others = ({int(i) for i in tensors[name].unique()} for name in sorted(whole & set(tensors), key=len))
        if owners != set(range(len(owners))) or not all(other <= owners for other in others):
            raise EffaceError(
                "the rows or gates of the gated map are of concepts that it has not: make the erasure again."
            )


def _shapes(prefix: str, rows: tuple[int, ...], width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the parts of MapRows by their names in a file."""
    shapes = {"c": (*rows, width), "difference": (width, *rows), "v": (width, *rows), "owner": rows}
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


def _mapped(
    batch: Tensor,
    opened: dict[tuple[int, ...], list[int]],
    factors: Callable[[tuple[int, ...]], Any],
    scale: float,
) -> Tensor:
    """A batch (batch … width) of which some members pass the map of their concepts; the others' bits stay."""
    mapped = batch.clone()
    for active, members in opened.items():
        x = batch[members].float()
        u, v = (part.to(x) for part in factors(active))
        mapped[members] = (x + scale * (x @ v) @ u.T).to(batch.dtype)
    return mapped
