"""Together: the erasures of one policy as one, to be audited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from efface.erasures.erasure import Erasure
from efface.errors import EffaceError


@dataclass(frozen=True, eq=False)
class Together(Erasure):
    """Several erasures that are attached one after the other, and taken off together; no file holds it, a manifest names them."""

    held: tuple[Erasure, ...]

    kind = "together"
    acts_on = "activations"

    @classmethod
    def of(cls, erasures: Sequence[Erasure]) -> Erasure:
        """The erasures as one, at least one; a single one is itself."""
        if len(erasures) == 1:
            return erasures[0]
        concepts = {concept.name: concept for erasure in erasures for concept in erasure.provenance.concepts}
        methods = dict.fromkeys(erasure.provenance.method for erasure in erasures)
        origin = replace(
            erasures[0].provenance,
            method=" + ".join(methods),
            config={"erasures": [erasure.digest for erasure in erasures]},
            concepts=tuple(concepts.values()),
            keep=tuple(dict.fromkeys(prompt for erasure in erasures for prompt in erasure.provenance.keep)),
            notes={},
        )
        return cls(provenance=origin, held=tuple(erasures))

    def attach(self, pipeline: Any, *, scale: float = 1.0, fold: bool = False, force: bool = False) -> None:
        """Attach all, in order; none stays where one is refused."""
        with ExitStack() as undo:
            for erasure in self.held:
                erasure.attach(pipeline, scale=scale, fold=fold, force=force)
                undo.callback(erasure.remove, pipeline)
            undo.pop_all()

    def remove(self, pipeline: Any, *, subtract: bool | None = None) -> None:
        """Take all off again."""
        for erasure in reversed(self.held):
            erasure.remove(pipeline, subtract=subtract)

    @contextmanager
    def attached(self, pipeline: Any, *, scale: float = 1.0, fold: bool = False, force: bool = False) -> Iterator[Any]:
        """Context in which all are attached."""
        with ExitStack() as stack:
            for erasure in self.held:
                stack.enter_context(erasure.attached(pipeline, scale=scale, fold=fold, force=force))
            yield pipeline

    def save(self, path: str | Path) -> int:
        """Refused: its erasures have files."""
        raise EffaceError("several erasures have no file together: save each, and write a manifest of policies.")

    def tensors(self) -> dict[str, Tensor]:
        return {f"{number}|{name}": part for number, e in enumerate(self.held) for name, part in e.tensors().items()}

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        raise EffaceError("a file cannot hold several erasures together: read each by itself.")

    @classmethod
    def restore(cls, provenance: Any, tensors: dict[str, Tensor]) -> Self:
        """Refused as `check`."""
        raise EffaceError("a file cannot hold several erasures together: read each by itself.")
