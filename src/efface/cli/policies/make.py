"""Write the manifest of policies: which erasures each has, by the sha256 of their files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from efface.cli.arguments import parse
from efface.cli.output import result
from efface.errors import UsageError


@dataclass(frozen=True)
class Request:
    """Write a manifest, which an operator can sign, compare and audit; erasures are named by their paths from its folder."""

    manifest: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MANIFEST")]
    """The file to write."""
    policy: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME=ERASURE,ERASURE…, once for each policy: its erasure files in the order in which they are attached; none after the sign
    for a policy that erases nothing."""
    json: bool = False
    """Print the manifest's JSON."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = parse(Request, args, prog="efface policies make", description=__doc__)
    policies: dict[str, list[Path]] = {}
    for text in request.policy:
        name, sign, files = text.partition("=")
        if not sign or name in policies:
            raise UsageError(
                f"the policy {text!r} is not understood or named before; expected NAME=ERASURE,ERASURE…, once a name."
            )
        policies[name] = [Path(file) for file in files.split(",") if file]
    from efface.cli.policies.check import rows_of
    from efface.erasures.manifest import Manifest

    manifest = Manifest.of(request.manifest, policies)
    manifest.write()
    result(manifest.data, as_json=request.json, rows=[*rows_of(manifest), ("manifest", str(request.manifest))])
