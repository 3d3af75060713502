"""Whether the erasures of a manifest are the files that it names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from efface.cli.arguments import parse
from efface.cli.output import result

if TYPE_CHECKING:
    from efface.erasures.manifest import Manifest


@dataclass(frozen=True)
class Request:
    """Compare the sha256 of every erasure, and say what each policy erases; fails where one is missing or another file."""

    manifest: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MANIFEST")]
    """A file that `efface policies make` wrote."""
    json: bool = False
    """Print the manifest's JSON."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = parse(Request, args, prog="efface policies check", description=__doc__)
    from efface.erasures.manifest import Manifest

    manifest = Manifest.read(request.manifest)
    manifest.verify()
    result(manifest.data, as_json=request.json, rows=[*rows_of(manifest), ("intact", "yes")])


def rows_of(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """A line for each erasure of each policy."""
    for name, entries in manifest.policies.items():
        if not entries:
            yield name, "erases nothing"
        for entry in entries:
            yield name, f"{', '.join(entry.concepts)} by {entry.method} ({entry.file}, sha256 {entry.sha256[:12]})"
