"""GatedDelta: low-rank factors beside layers, which act on a prompt as strongly as it is near to their concept (SPM)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from efface.erasures.beside import layer_beside
from efface.erasures.checks import check_delta
from efface.erasures.delta import WeightDelta
from efface.erasures.erasure import Erasure
from efface.erasures.gated import UNGATED
from efface.erasures.interface import Reader
from efface.erasures.provenance import Provenance
from efface.erasures.transport import TokenReader, Transport, without_graph
from efface.errors import EffaceError
from efface.families.layers import low_rank
from efface.families.networks import Hook
from efface.families.text_call import TextCall
from efface.models.model import Model
from efface.models.precision import without_autocast

GATE = "gate|"
"""How the names of a transport's tensors begin in a file."""

UNREAD = (
    "the denoiser is given text states that the pipeline's text encoder made of no prompt while a gated erasure was attached: the "
    "erasure acts on them with its whole strength."
)


@dataclass(frozen=True, eq=False)
class GatedDelta(Erasure):
    """The output y of a layer becomes y + s Σᵢ γᵢ Bᵢ Aᵢ x, with a weight γᵢ of every concept for every prompt of a batch.

    Weights cannot hold a γ: folded and exported, it is Σᵢ Bᵢ Aᵢ for every prompt.
    """

    deltas: dict[str, Tensor]
    """`CONCEPT|WEIGHT.up` (out rank) and `CONCEPT|WEIGHT.down` (rank in), CONCEPT being its number."""
    transport: Transport

    kind = "gated-delta"
    acts_on = "activations"
    lost_in_weights = UNGATED

    @cached_property
    def linear(self) -> WeightDelta:
        """Σᵢ Bᵢ Aᵢ, with every γ at 1: what weights can hold of it."""
        names = dict.fromkeys(name.partition("|")[2] for name in self.deltas)
        together = {name: [self.deltas[f"{i}|{name}"] for i in range(len(self.transport.tokens))] for name in names}
        return WeightDelta(
            self.provenance,
            {name: torch.cat(parts, dim=1 if name.endswith(".up") else 0) for name, parts in together.items()},
        )

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """What reads tokens, what weighs the prompts of a call, and the factors of every layer."""
        span, denoiser = model.token_spans()[0], model.networks()[0]
        reader = TokenReader(span)
        gate = _Gate(self.transport, TextCall(denoiser.module), reader)
        components = model.components()
        owner = torch.arange(len(self.transport.tokens))
        hooks = [Hook(span.encoder, reader, before=False), Hook(denoiser.module, gate, before=True)]
        for name in self.linear.targets():
            up, down = self.linear.deltas[f"{name}.up"], self.linear.deltas[f"{name}.down"]
            layer = layer_beside(components, name, up, down)
            ranks = owner.repeat_interleave(len(down) // len(owner))
            hooks.append(Hook(layer, _Factors(name, down, up, ranks, gate, scale), before=False))
        return hooks

    def changes_by_row(self, model: Model, scale: float) -> list[Hook]:
        """The same: each prompt has a γ of its own, by the tokens of all prompts that were read."""
        first, *others = self.changes(model, scale)
        return [first._replace(run=Reader(first.run)), *others]

    def foldable(self) -> WeightDelta:
        """The sum of all factors, with a warning."""
        warnings.warn(UNGATED, stacklevel=3)
        return self.linear

    def targets(self) -> list[str]:
        """Full names of the weights that folding changes."""
        return self.linear.targets()

    def touches(self) -> list[str]:
        """Those beside which its factors act."""
        return self.targets()

    def fold(self, name: str, weight: Tensor, scale: float) -> Tensor:
        """W + s Σᵢ Bᵢ Aᵢ."""
        return self.linear.fold(name, weight, scale)

    def factors(self, name: str, weight: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
        """The factors of all concepts side by side."""
        return self.linear.factors(name, weight, scale)

    def tensors(self) -> dict[str, Tensor]:
        return self.deltas | {f"{GATE}{name}": part for name, part in self.transport._asdict().items()}

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> GatedDelta:
        transport = Transport(**{name: tensors[f"{GATE}{name}"] for name in Transport._fields})
        if len(transport.tokens) != len(provenance.concepts):
            raise EffaceError("the gates of the gated delta are not of its concepts: make the erasure again.")
        deltas = {name: tensor for name, tensor in tensors.items() if not name.startswith(GATE)}
        return cls(provenance=provenance, deltas=deltas, transport=transport)

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        missing = [name for name in Transport._fields if f"{GATE}{name}" not in tensors]
        if missing:
            raise EffaceError(f"the gated delta lacks the {', '.join(missing)} of its gate: make the erasure again.")
        transport = Transport(**{name: tensors[f"{GATE}{name}"] for name in Transport._fields})
        transport.check(width)
        deltas = {name: tensor for name, tensor in tensors.items() if not name.startswith(GATE)}
        check_delta(deltas, width)
        names = {name.partition("|")[2] for name in deltas}
        expected = {f"{i}|{name}" for i in range(len(transport.tokens)) for name in names}
        ranks = {deltas[name].shape[0] for name in deltas if name.endswith(".down")}
        if set(deltas) != expected or len(ranks) != 1 or not all(name.endswith((".up", ".down")) for name in names):
            raise EffaceError(
                "the gated delta does not hold factors of one rank of every concept for each of its layers: make the erasure again."
            )


class _Gate:
    """A hook that weighs the prompts of the denoiser's current call."""

    def __init__(self, transport: Transport, call: TextCall, reader: TokenReader):
        self.transport = transport
        self.call = call
        self.reader = reader
        self.read: list[Tensor] = []
        self.weights = torch.ones(1, len(transport.tokens))
        """γ (batch concepts)."""

    @without_graph
    def __call__(self, module: Any, args: Any, kwargs: Any) -> None:
        rows = [row.detach() for row in self.call.states(args, kwargs)]
        if len(rows) == len(self.read) and all(map(torch.equal, rows, self.read)):
            return
        found = [self.reader.tokens_of(row) for row in rows]
        if any(tokens is None and row.any() for tokens, row in zip(found, rows, strict=True)):
            warnings.warn(UNREAD, stacklevel=2)
        weights = [self.transport.weights(row, tokens) for row, tokens in zip(rows, found, strict=True)]
        self.weights = torch.stack(weights).to(rows[0].device)
        self.read = rows


class _Factors:
    """A forward hook that adds s Σᵢ γᵢ Bᵢ Aᵢ x to the output of a layer; copied with its network, it reads the copy's gate."""

    def __init__(self, name: str, down: Tensor, up: Tensor, ranks: Tensor, gate: _Gate, scale: float):
        self.name = name
        self.down = down
        self.up = up
        self.ranks = ranks
        self.gate = gate
        self.scale = scale

    def __call__(self, module: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        if self.down.device != output.device:
            self.down, self.up, self.ranks = (part.to(output.device) for part in (self.down, self.up, self.ranks))
        gain = self.scale * self.gate.weights[:, self.ranks]
        if len(gain) != len(output):
            raise EffaceError(
                f"{self.name} computes {len(output)} rows for {len(gain)} prompts, so that nobody can say which row is of which: "
                "fold the erasure, which acts on all."
            )
        with without_autocast(output.device):
            return output + low_rank(module, args[0], self.down, self.up, gain).to(output.dtype)
