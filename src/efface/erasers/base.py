"""The contract between methods and what runs them; free of torch.

A method's module holds a frozen dataclass `Config`, and

    erase(model, concepts, config, judge) -> Erasure
    extend(model, erasure, evidence) -> Erasure       the erasure with what attacks found added to it, for hardening
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from efface.errors import EffaceError

if TYPE_CHECKING:
    from efface.concepts.concept import Concept
    from efface.erasures import Erasure
    from efface.models.model import Text

Rows = Literal["last", "subject", "all"]
"""Which token positions are edited or retained: the concept's last token, from there to the end, or all."""

Validation = Callable[["Erasure"], float]
"""Takes an erasure, returns the share of validation pictures that still show the concept."""


class Evidence(NamedTuple):
    """What attacks on an erasure found."""

    concept: Concept
    """What came back."""
    text: Text
    """What was found, encoded by the unerased model (batch tokens width)."""
    prompts: tuple[str | None, ...]
    """The same as words; None where it is an embedding."""
    anchors: tuple[str, ...]
    """The prompt that should take the place of each."""
    images: int
    """Pictures of each prompt, for methods that draw."""
    rounds: int
    """How many attacks it took to find all of it."""

    def words(self) -> list[str]:
        """The prompts that were found; raises EffaceError where there is none."""
        found = [prompt for prompt in self.prompts if prompt is not None]
        if not found:
            raise EffaceError(
                "the attack found embeddings; new statistics need prompts: harden with an attack on words."
            )
        return found


def given(config: type[Any], stored: dict[str, Any]) -> Any:
    """A Config from an erasure's header, which may hold more than its fields, and lists where it has tuples."""
    fields = {name: stored[name] for name in config.__dataclass_fields__ if name in stored}
    return config(**{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()})
