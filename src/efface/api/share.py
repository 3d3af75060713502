"""Share an erasure or autoencoders by their path: a folder with a model card, written locally or to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from efface.erasures import Erasure, share
from efface.io.hub import require_name, upload, write_files
from efface.sae import share as autoencoders


def save_folder(what: Path, folder: Path, *, audit: Path | None = None, licence: str | None = None) -> Path:
    """Write an erasure's file, or a folder of autoencoders, with a model card into a folder.

    Args:
        what: an erasure's file, or the folder of one autoencoder or of a run with one for each site.
        folder: made if need be; files of the same names in it are replaced.
        audit: the folder that `efface audit` wrote, whose figures the card shows and which is shared with it.
        licence: identifier for the card's header.

    Raises:
        EffaceError: there is nothing to share, or no audit in `audit`.
    """
    return write_files(_shared(what, audit, licence), folder)


def push(
    what: Path,
    repository: str,
    *,
    audit: Path | None = None,
    licence: str | None = None,
    private: bool = False,
    token: str | None = None,
) -> str:
    """Write what `save_folder` writes to a repository of the Hub, which is made if need be; returns its address.

    Raises:
        UsageError: the repository's name is none.
        EffaceError: as `save_folder`, or the Hub refuses.
    """
    require_name(repository)
    return upload(_shared(what, audit, licence), repository, named=what.name, private=private, token=token)


def _shared(what: Path, audit: Path | None, licence: str | None) -> dict[Path, bytes]:
    if not what.is_dir():
        return share.shared_files(what, Erasure.load(what).summary(), audit, licence)
    if audit is not None:
        share.audit_in(audit)
    return autoencoders.shared_files(what, licence) | share.audit_files(audit)
