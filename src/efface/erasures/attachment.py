"""An erasure on a pipeline."""

from __future__ import annotations

from dataclasses import dataclass, field

from efface.erasures.interface import ModelEdit


@dataclass(eq=False)
class Attachment:
    """An erasure on a pipeline; how often it was attached is counted, what it does is done once."""

    erasure: ModelEdit
    scale: float
    folded: bool
    """Whether it lives in weights."""
    force: bool = False
    """Whether it may sit on other weights than those it was made for."""
    count: int = 1
    """How many times it was attached and not yet removed."""
    blocks: set[object] = field(default_factory=set)
    """The `with erasure.attached(...)` blocks that are open, of whatever thread; a copy is in none."""

    def __reduce__(self) -> tuple[object, ...]:
        return Attachment, (self.erasure, self.scale, self.folded, self.force, self.count)

    def __deepcopy__(self, memo: dict[int, object]) -> Attachment:
        """A count of its own over the same erasure, which never changes."""
        copied = Attachment(self.erasure, self.scale, self.folded, self.force, self.count)
        memo[id(self)] = copied
        return copied
