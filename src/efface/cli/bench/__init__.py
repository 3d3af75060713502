"""Benchmark protocols: canvas."""

from __future__ import annotations

import importlib
from pathlib import Path

from efface.errors import UsageError

PROTOCOLS = ("canvas",)
"""One small file each."""


def main(args: list[str]) -> None:
    """Run a protocol."""
    if not args or args[0] in ("-h", "--help"):
        folder = Path(__file__).parent
        quotes = '"""'
        lines = [f"  {n:9} {(folder / f'{n}.py').read_text().split(quotes)[1].splitlines()[0]}" for n in PROTOCOLS]
        print("\n".join([__doc__ or "", "", "usage: efface bench PROTOCOL [options]", "", *lines]))
        raise SystemExit(0 if args else 2)
    if args[0] not in PROTOCOLS:
        raise UsageError(f"the protocol {args[0]!r} is unknown; expected one of: {', '.join(PROTOCOLS)}.")
    importlib.import_module(f"efface.cli.bench.{args[0]}").main(args[1:])
