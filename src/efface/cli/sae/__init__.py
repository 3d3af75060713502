"""Sparse autoencoders on a model: sites, harvest, train, features, inspect, steer."""

from __future__ import annotations

import importlib
from pathlib import Path

from efface.errors import UsageError

COMMANDS = ("sites", "harvest", "train", "features", "inspect", "steer")
"""In the order in which they are used."""


def main(args: list[str]) -> None:
    """Run a subcommand."""
    if not args or args[0] in ("-h", "--help"):
        folder = Path(__file__).parent
        quotes = '"""'
        lines = [f"  {n:9} {(folder / f'{n}.py').read_text().split(quotes)[1].splitlines()[0]}" for n in COMMANDS]
        print("\n".join([__doc__ or "", "", "usage: efface sae COMMAND MODEL [options]", "", *lines]))
        raise SystemExit(0 if args else 2)
    if args[0] not in COMMANDS:
        raise UsageError(f"efface sae has no command {args[0]!r}; expected one of: {', '.join(COMMANDS)}.")
    importlib.import_module(f"efface.cli.sae.{args[0]}").main(args[1:])
