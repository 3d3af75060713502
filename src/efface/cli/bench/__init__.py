"""Benchmarks: the published protocols on the embedded canvas or on a user's model; every run goes on where it stopped."""

from __future__ import annotations

from efface.cli.dispatch import Command, dispatch
from efface.registry import Registry

PROTOCOLS: Registry[Command] = Registry(
    "protocol",
    "efface.protocols",
    {
        name: f"efface.cli.bench.{name}"
        for name in (
            "canvas",
            "unlearncanvas",
            "i2p",
            "imagenette",
            "artists",
            "celebrities",
            "coco",
            "prompts",
            "table",
        )
    },
    contract=Command,
)
"""One small file each; the last one of efface's own reads what the others leave."""


def main(args: list[str]) -> None:
    """Run a protocol."""
    dispatch(PROTOCOLS, args, title=__doc__ or "", usage="efface bench PROTOCOL [options]")
