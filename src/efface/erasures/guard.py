"""Guard: what happens while a picture is drawn, stored as texts and numbers; no weight changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Protocol, get_type_hints

from torch import Tensor

from efface.erasures.erasure import Erasure
from efface.erasures.interface import Reader
from efface.erasures.provenance import Provenance
from efface.erasures.transport import TokenReader
from efface.errors import EffaceError
from efface.families.networks import Hook
from efface.models.model import Model
from efface.registry import Registry

GUARD = "guard"
"""Entry of the configuration that holds the rule's name and fields."""
RULES: Registry[type[Rule]] = Registry(
    "guard", None,
    {
        "sld": "efface.erasures.guards.sld:SLD",
        "negative-prompt": "efface.erasures.guards.negative:NegativePrompt",
        "crg": "efface.erasures.guards.crg:CRG",
        "safree": "efface.erasures.guards.safree:Safree",
        "seot": "efface.erasures.guards.seot:Seot",
        "steer": "efface.erasures.guards.steer:Steer",
    },
)  # fmt: skip
"""What a guard can do."""


class Rule(Protocol):
    """What a guard does: a frozen dataclass of texts, numbers and truth values."""

    @property
    def phrases(self) -> tuple[str, ...]:
        """Texts of what is guarded against."""
        ...

    def require(self, model: Model) -> None:
        """Raise EffaceError where a model cannot be guarded so."""
        ...

    def hooks(self, model: Model, scale: float, vectors: Mapping[str, Tensor]) -> list[Hook]:
        """What is to happen; raises EffaceError where a model cannot be guarded so."""
        ...


@dataclass(frozen=True, eq=False)
class Guard(Erasure):
    """Rules that act while pictures are drawn, on text states or on what the denoiser returns.

    At a scale s the change is s times as large. Several guards on one pipeline act one after the other, each with its own text.
    """

    vectors: dict[str, Tensor]
    """Directions, of rules that have one; the others hold texts and numbers alone."""

    kind = "guard"
    acts_on = "sampling"

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """What it does, in order.

        Raises:
            EffaceError: the configuration names no rules that this efface knows.
        """
        entries = self.provenance.config.get(GUARD)
        if not isinstance(entries, list) or not entries:
            raise EffaceError("the guard says nothing of what it does: make the erasure again.")
        return tuple(_rule(entry) for entry in entries)

    @property
    def reads_prompts_only(self) -> bool:
        """Whether pooled text beside the states escapes it."""
        from efface.erasures.guards.door import TextRule

        return any(isinstance(rule, TextRule) for rule in self.rules)

    @property
    def acts_in_encoders(self) -> bool:
        """Whether text states that are given pass it by."""
        from efface.erasures.guards.steer import Steer

        return any(isinstance(rule, Steer) for rule in self.rules)

    def touches(self) -> list[str]:
        """The tensors by which its model is known; its texts are encoded by whatever model it is attached to."""
        return [str(name) for name in self.provenance.config.get("known_by", ())]

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """The hooks of all rules.

        Raises:
            EffaceError: the model cannot be guarded so.
        """
        return [hook for rule in self.rules for hook in rule.hooks(model, scale, self.vectors)]

    def changes_by_row(self, model: Model, scale: float) -> list[Hook]:
        """The same, but that what reads prompts reads all of a batch."""
        hooks = self.changes(model, scale)
        return [h._replace(run=Reader(h.run)) if isinstance(h.run, TokenReader) else h for h in hooks]

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.vectors)

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        """Raise EffaceError where a file holds anything but directions; `width` is not used."""
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if not all(t.ndim == 2 and len(t) and t.is_floating_point() for t in tensors.values()) or len(tensors) > 1:
            raise EffaceError(f"the guard holds {shapes}; expected at most one direction: make the erasure again.")

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> Guard:
        """The erasure that `tensors()` came from; raises EffaceError where its rules are not what they should be."""
        guard = cls(provenance, dict(tensors))
        steering = [
            rule
            for entry, rule in zip(provenance.config.get(GUARD, ()), guard.rules, strict=True)
            if entry["rule"] == "steer"
        ]
        if bool(steering) != bool(tensors):
            raise EffaceError("the guard's direction and its rules do not fit: make the erasure again.")
        return guard


def entry_of(name: str, rule: Any) -> dict[str, Any]:
    """A rule as the configuration holds it."""
    held = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(rule).items()}
    return {"rule": name} | held


def known_by(model: Model) -> list[str]:
    """Names of few tensors that tell a model from others: the first that reads text, and the last of every text encoder."""
    names = [f"{model.text_projections()[0].name}.weight"]
    for component, encoder in model.family.text_encoders().items():
        names += [f"{component}.{name}" for name, _ in list(encoder.named_parameters())[-1:]]
    return names


def _rule(entry: Any) -> Rule:
    """The rule of an entry of the configuration."""
    name = str(entry.get("rule")) if isinstance(entry, dict) else ""
    if name not in RULES:
        raise EffaceError(f"the guard's rule is {name[:40]!r}; this efface knows {', '.join(RULES)}: update efface.")
    kind: Any = RULES.load(name)
    held = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items() if key != "rule"}
    hints = get_type_hints(kind)
    wrong = set(held) ^ {field.name for field in fields(kind)}
    for key in set(held) - wrong:
        wrong |= set() if _fits(held[key], hints[key]) else {key}
    if wrong:
        raise EffaceError(
            f"the guard's rule {name} has {', '.join(sorted(wrong))[:200]} missing, unknown or wrong: make the erasure again."
        )
    return kind(**held)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a file is of the type of a rule's field."""
    if hint is float:
        return type(value) in (int, float) and abs(value) < float("inf")
    if hint in (bool, str):
        return type(value) is hint
    return isinstance(value, tuple) and all(isinstance(part, str) for part in value)
