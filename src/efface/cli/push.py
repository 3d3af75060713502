"""Share an erasure or autoencoders with a model card: in a folder, or in a repository of the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from efface.cli.arguments import parse
from efface.cli.output import result


@dataclass(frozen=True)
class Request:
    """Write an erasure, or autoencoders, with a model card and the figures of its audit."""

    what: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ERASURE|FOLDER")]
    """An erasure's file, or the folder of one autoencoder or of a training run."""
    to: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OWNER/NAME|FOLDER")]
    """OWNER/NAME on the Hub, or a folder, written as a path that begins with `.`, `/` or `~`."""
    audit: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder of `efface audit`: its page is shared too, and its figures stand on the card."""
    licence: Annotated[str | None, tyro.conf.arg(metavar="LICENCE")] = None
    """Identifier for the card's header, for example cc-by-4.0."""
    private: bool = False
    """A new repository is private."""
    json: bool = False
    """Print one JSON object."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = parse(Request, args, prog="efface push", description=__doc__)
    from efface.api.share import push, save_folder

    if request.to.startswith((".", "/", "~")):
        folder = Path(request.to).expanduser()
        where = str(save_folder(request.what, folder, audit=request.audit, licence=request.licence))
    else:
        where = push(request.what, request.to, audit=request.audit, licence=request.licence, private=request.private)
    result({"shared": where}, as_json=request.json, rows=[("shared", where)])
