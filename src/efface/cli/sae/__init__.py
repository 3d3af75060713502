"""Sparse autoencoders on a model: sites, harvest, train, features, name, inspect, steer."""

from __future__ import annotations

from efface.cli.dispatch import Command, dispatch
from efface.registry import Registry

COMMANDS: Registry[Command] = Registry(
    "command of `efface sae`",
    None,
    {name: f"efface.cli.sae.{name}" for name in ("sites", "harvest", "train", "features", "name", "inspect", "steer")},
)
"""In the order in which they are used."""


def main(args: list[str]) -> None:
    """Run a subcommand."""
    dispatch(COMMANDS, args, title=__doc__ or "", usage="efface sae COMMAND MODEL [options]")
