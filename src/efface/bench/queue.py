"""Which unit a worker does next: those of the erasures that it has attached, since attaching costs time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from efface.bench.unit import Unit


class Queue:
    """Units to do, in groups of the same erasures; safe for one thread."""

    def __init__(self, units: Iterable[Unit]):
        self.groups: dict[tuple[str, ...], deque[Unit]] = {}
        self.at: dict[int, tuple[str, ...]] = {}
        for unit in units:
            self.groups.setdefault(unit.erasures, deque()).append(unit)

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))

    def take(self, taker: int) -> Unit | None:
        """The next unit for one of the takers: of its group, of one that nobody is at, or of the longest; None at the end."""
        group = self.at.get(taker)
        if group is None or not self.groups[group]:
            left = [erasures for erasures, units in self.groups.items() if units]
            if not left:
                return None
            untouched = [erasures for erasures in left if erasures not in self.at.values()]
            group = untouched[0] if untouched else max(left, key=lambda erasures: len(self.groups[erasures]))
            self.at[taker] = group
        return self.groups[group].popleft()

    def put_back(self, unit: Unit) -> None:
        """Do a unit again, next in its group, because its taker died."""
        self.groups[unit.erasures].appendleft(unit)

    def leave(self, taker: int) -> None:
        """A taker is gone; its group is nobody's."""
        self.at.pop(taker, None)
