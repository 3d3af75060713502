"""Sparse autoencoders on a model: sites, harvest, train, features, inspect, steer."""

from __future__ import annotations

from efface.cli.dispatch import dispatch

COMMANDS = ("sites", "harvest", "train", "features", "inspect", "steer")
"""In the order in which they are used."""


def main(args: list[str]) -> None:
    """Run a subcommand."""
    dispatch(__name__, COMMANDS, args, title=__doc__ or "", usage="efface sae COMMAND MODEL [options]")
