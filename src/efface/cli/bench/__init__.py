"""Benchmark protocols: canvas."""

from __future__ import annotations

from efface.cli.dispatch import dispatch

PROTOCOLS = ("canvas",)
"""One small file each."""


def main(args: list[str]) -> None:
    """Run a protocol."""
    dispatch(__name__, PROTOCOLS, args, title=__doc__ or "", usage="efface bench PROTOCOL [options]")
