"""Choosing by the first word: a command of `efface`, of `efface sae` or `efface bench`, a method, an attack."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from efface.errors import UsageError
from efface.registry import Registry


@runtime_checkable
class Command(Protocol):
    """A module of the command line."""

    def main(self, args: list[str]) -> None:
        """Run the command with the words after its name."""
        ...


def listing(registry: Registry[object]) -> list[str]:
    """A line for each component: its name and the first line of its file, which is read, not imported."""
    described = registry.described()
    width = max(9, *map(len, described))
    return [f"  {name:{width}} {summary}" for name, summary in described.items()]


def first_word(registry: Registry[object], args: list[str], *, title: str, usage: str) -> str:
    """The component that `args` begin with; without any, or where help is asked for, all of them are listed.

    Raises:
        UsageError: an option comes first.
        SystemExit: help was printed, because it was asked for (0) or nothing was (2).
    """
    if not args or args[0] in ("-h", "--help"):
        print("\n".join([title, "", f"usage: {usage}", "", *listing(registry)]))
        raise SystemExit(0 if args else 2)
    if args[0].startswith("-"):
        names = ", ".join(registry)
        raise UsageError(f"the {registry.kind} comes first; expected one of {names}, found {args[0]!r}.")
    return args[0]


def dispatch(registry: Registry[Command], args: list[str], *, title: str, usage: str) -> None:
    """Run the command that `args` begin with, or print help; raises as `first_word` and `Registry.load`."""
    registry.load(first_word(registry, args, title=title, usage=usage)).main(args[1:])
