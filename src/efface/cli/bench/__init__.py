"""Benchmarks: the published protocols on the embedded canvas or on a user's model; every run goes on where it stopped."""

from __future__ import annotations

from efface.cli.dispatch import dispatch

PROTOCOLS = ("canvas", "unlearncanvas", "i2p", "imagenette", "artists", "coco", "prompts", "table")
"""One small file each; the last one reads what the others leave."""


def main(args: list[str]) -> None:
    """Run a protocol."""
    dispatch(__name__, PROTOCOLS, args, title=__doc__ or "", usage="efface bench PROTOCOL [options]")
