"""Policies for single requests: write their manifest, check it."""

from __future__ import annotations

from efface.cli.dispatch import Command, dispatch
from efface.registry import Registry

COMMANDS: Registry[Command] = Registry(
    "command of `efface policies`", None, {name: f"efface.cli.policies.{name}" for name in ("make", "check")}
)
"""In the order in which they are used."""


def main(args: list[str]) -> None:
    """Run a subcommand."""
    dispatch(COMMANDS, args, title=__doc__ or "", usage="efface policies COMMAND MANIFEST [options]")
