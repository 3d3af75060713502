"""Share an erasure or autoencoders with a model card: in a folder, or in a repository of the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from efface.cli.output import result


@dataclass(frozen=True)
class Request:
    """Write an erasure, or autoencoders, with a model card and the figures of its audit."""

    what: tyro.conf.Positional[Path]
    """An erasure's file, or the folder of one autoencoder or of a training run."""
    to: tyro.conf.Positional[str]
    """OWNER/NAME on the Hub, or a folder, written as a path that begins with `.`, `/` or `~`."""
    audit: Path | None = None
    """Folder of `efface audit`: its page is shared too, and its figures stand on the card."""
    licence: str | None = None
    """Identifier for the card's header, for example cc-by-4.0."""
    private: bool = False
    """A new repository is private."""
    json: bool = False
    """Print one JSON object."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = tyro.cli(Request, args=args, prog="efface push", description=__doc__)
    from efface.api.share import push, save_folder

    if request.to.startswith((".", "/", "~")):
        folder = Path(request.to).expanduser()
        where = str(save_folder(request.what, folder, audit=request.audit, licence=request.licence))
    else:
        where = push(request.what, request.to, audit=request.audit, licence=request.licence, private=request.private)
    result({"shared": where}, as_json=request.json, rows=[("shared", where)])
