"""Judges: make one that explains itself, look at pictures with any."""

from __future__ import annotations

from efface.cli.dispatch import Command, dispatch
from efface.registry import Registry

COMMANDS: Registry[Command] = Registry(
    "command of `efface judge`", None, {name: f"efface.cli.judge.{name}" for name in ("make", "look")}
)
"""In the order in which they are used."""


def main(args: list[str]) -> None:
    """Run a subcommand."""
    dispatch(COMMANDS, args, title=__doc__ or "", usage="efface judge COMMAND [options]")
