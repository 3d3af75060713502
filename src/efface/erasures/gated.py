"""GatedMap: a text map that acts on prompts which name what it erases, and leaves every other one bit for bit as it is."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.erasures.dual import solve_active
from efface.erasures.erasure import Erasure
from efface.erasures.provenance import Provenance
from efface.erasures.textmap import TextMap
from efface.errors import EffaceError
from efface.families.networks import Hook
from efface.models.model import Model
from efface.models.precision import finite_float32, without_autocast

UNGATED = "weights cannot hold the gates of this erasure: they get its linear map, which acts on every prompt."
"""What folding and exporting say."""


class Gates(NamedTuple):
    """When a prompt names a concept: some position x of it has wᵀ(x − μ) / |x − μ| above a threshold."""

    centre: Tensor
    """μ (width,)."""
    weights: Tensor
    """w of each gate, of length 1 (gates width)."""
    thresholds: Tensor
    """(gates,)"""
    concept: Tensor
    """Index of the concept that each gate is of (gates,)."""

    def scores(self, states: Tensor) -> Tensor:
        """wᵀ(x − μ) / |x − μ| (… gates) of text states (… width)."""
        centred = states - self.centre
        length = centred.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(centred.dtype).tiny)
        return centred @ self.weights.T / length

    def open(self, states: Tensor) -> Tensor:
        """Which concepts each prompt names (batch concepts), of text states (batch tokens width)."""
        opened = (self.scores(states) > self.thresholds).any(dim=1)
        concepts = torch.zeros(len(states), int(self.concept.max()) + 1, dtype=torch.int32, device=states.device)
        index = self.concept.expand(len(states), -1)
        return concepts.scatter_add_(1, index, opened.int()) > 0

    def to(self, like: Tensor) -> Gates:
        """The same on the device of a tensor."""
        return Gates(**{name: part.to(like.device) for name, part in self._asdict().items()})


@dataclass(frozen=True, eq=False)
class GatedMap(Erasure):
    """Text states of a prompt that names some of the concepts pass the map of those; all others pass as they are.

    The map of the active concepts is M = I + e (T − C)ᵀ (I + e C V)⁻¹ Vᵀ over their rows, with e = 1 / their number; it is
    solved when a set of them is met for the first time. Weights cannot hold a gate: folded and exported, it is the one map
    of all its concepts.
    """

    gates: Gates
    c: Tensor
    """C (rows width)."""
    difference: Tensor
    """(T − C)ᵀ (width rows)."""
    v: Tensor
    """V (width rows)."""
    owner: Tensor
    """Index of the concept that each row belongs to (rows,)."""
    _maps: dict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)
    """Active concepts -> factors of their map, of those that were met."""

    kind = "gated-map"
    acts_on = "text"

    @classmethod
    def of(cls, origin: Provenance, gates: Gates, c: Tensor, difference: Tensor, v: Tensor, owner: Tensor) -> GatedMap:
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
            provenance=origin,
            gates=single,
            c=finite_float32(c),
            difference=finite_float32(difference),
            v=finite_float32(v),
            owner=owner,
        )

    @property
    def concepts(self) -> int:
        """How many concepts it has."""
        return int(self.owner.max()) + 1

    @property
    def width(self) -> int:
        """Width of the text states."""
        return len(self.v)

    @property
    def union(self) -> bool:
        """Whether any open gate brings the map of all concepts, not of those alone whose gates are open."""
        return bool(self.provenance.config.get("union", False))

    def factors_of(self, active: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """U and V (each width rows) of the map of some concepts, in float32."""
        if active not in self._maps:
            mine = torch.isin(self.owner, torch.tensor(active, dtype=self.owner.dtype))
            c, v, difference = self.c[mine].double(), self.v[:, mine].double(), self.difference[:, mine].double()
            u, v = solve_active(c, difference, v, 1 / len(active))
            self._maps[active] = finite_float32(u), finite_float32(v)
        return self._maps[active]

    @cached_property
    def linear(self) -> TextMap:
        """The one map of all concepts, without gates: what weights can hold of it."""
        u, v = self.factors_of(tuple(range(self.concepts)))
        return TextMap(self.provenance, u, v)

    def map(self, states: Tensor, scale: float = 1.0) -> Tensor:
        """Mapped text states (batch tokens width); the very tensor that came where no gate opens."""
        if scale == 0:
            return states
        with without_autocast(states.device):
            return self._mapped(states, scale)

    def _mapped(self, states: Tensor, scale: float) -> Tensor:
        """The same, in the arithmetic of this module whatever the program around it uses."""
        wide = states.detach().float()
        gates = self.gates.to(wide)
        batch = wide if wide.ndim == 3 else wide[None]
        opened = gates.open(batch).cpu()
        if not opened.any():
            return states
        mapped = states.clone()
        rows = mapped if wide.ndim == 3 else mapped[None]
        for active, members in self._groups(opened).items():
            u, v = (part.to(wide) for part in self.factors_of(active))
            x = (states if wide.ndim == 3 else states[None])[members].float()
            rows[members] = (x + scale * (x @ v) @ u.T).to(states.dtype)
        return mapped

    def _groups(self, opened: Tensor) -> dict[tuple[int, ...], list[int]]:
        """Active concepts -> prompts of a batch (batch concepts)."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for prompt, row in enumerate(opened):
            if row.any():
                active = tuple(range(self.concepts)) if self.union else tuple(row.nonzero().flatten().tolist())
                groups.setdefault(active, []).append(prompt)
        return groups

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """Map the text states on their way into every network that reads them."""

        def mapped(states: Tensor) -> Tensor:
            return self.map(states, scale)

        change: Any = torch.compiler.disable(mapped)  # which map acts depends on the values

        return [text.hook(change) for network in model.networks() for text in network.text_inputs]

    def attach(self, pipeline: Any, *, scale: float = 1.0, fold: bool = False, force: bool = False) -> None:
        """As of `Erasure.attach`; folding says that the gates are lost."""
        if fold:
            warnings.warn(UNGATED, stacklevel=2)
        super().attach(pipeline, scale=scale, fold=fold, force=force)

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

    def targets(self) -> None:
        """Every text projection, once folded."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        rows = {"c": self.c, "difference": self.difference, "v": self.v, "owner": self.owner}
        return rows | {f"gate_{name}": part for name, part in self.gates._asdict().items()}

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> GatedMap:
        """The erasure that `tensors()` came from."""
        gates = Gates(**{name: tensors[f"gate_{name}"] for name in Gates._fields})
        rows = {name: tensors[name] for name in ("c", "difference", "v", "owner")}
        return cls(provenance=provenance, gates=gates, **rows)

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        rows, gates = (shapes.get(name, (0,))[:1] for name in ("owner", "gate_concept"))
        expected = {"c": (*rows, width), "difference": (width, *rows), "v": (width, *rows), "owner": rows}
        expected |= {"gate_centre": (width,), "gate_weights": (*gates, width)}
        expected |= {"gate_thresholds": gates, "gate_concept": gates}
        if shapes != expected or not rows[0] or not gates[0]:
            raise EffaceError(f"the gated map holds {shapes}; expected {expected}: make the erasure again.")
        whole = {"owner", "gate_concept"}
        if any(tensor.is_floating_point() == (name in whole) for name, tensor in tensors.items()):
            raise EffaceError("the gated map holds values of wrong types: make the erasure again.")
        of_rows, of_gates = ({int(i) for i in tensors[name].unique()} for name in ("owner", "gate_concept"))
        if of_rows != set(range(len(of_rows))) or not of_gates <= of_rows:
            raise EffaceError(
                "the rows or gates of the gated map are of concepts that it has not: make the erasure again."
            )
