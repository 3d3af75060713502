"""Share erasures and autoencoders: a folder with a model card, written locally or to the Hugging Face Hub by the same code."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from efface.erasures.file import write_atomically
from efface.errors import EffaceError, UsageError

ERASURE = "erasure.safetensors"
AUTOENCODER = ("cfg.json", "sae.safetensors", "statistics.safetensors")
"""What a site's autoencoder consists of; nothing else in its folder is shared."""
AUDIT = ("card.html", "card.json")
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""Of a repository: its owner and its own name."""


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
    from efface.report.model_card import autoencoder_card, erasure_card

    found = None if audit is None else _audit_in(audit)
    if what.is_dir():
        sites = _autoencoders_in(what)
        card, files = autoencoder_card(sites, licence), {p.relative_to(what): p for s in sites for p in _parts_of(s)}
    else:
        card, files = erasure_card(what, found, licence), {Path(ERASURE): what}
    if audit is not None:
        files |= {Path(name): audit / name for name in AUDIT}
    written = {name: source.read_bytes() for name, source in files.items()} | {Path("README.md"): card.encode()}
    try:
        for name in written:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EffaceError(
            f"{folder} could not be made ({(error.strerror or str(error)).lower()}): choose another."
        ) from error
    for name, data in written.items():
        write_atomically(folder / name, data)
    return folder


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
    from huggingface_hub import HfApi

    if not NAME.fullmatch(repository):
        raise UsageError(f"{repository!r} is no repository; expected OWNER/NAME, or a folder such as ./{repository}.")
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = save_folder(what, Path(scratch), audit=audit, licence=licence)
        _asked(repository, lambda: api.create_repo(repository, private=private, exist_ok=True))
        said = f"Upload with efface: {what.name}"
        done = _asked(
            repository, lambda: api.upload_folder(repo_id=repository, folder_path=folder, commit_message=said)
        )
    return str(done.commit_url)


def erasure_file(source: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """The file of an erasure: itself, the one in a folder, or the one in a repository of the Hub (fetched once).

    What looks like a path is given back whether it exists or not; only OWNER/NAME is asked of the Hub.

    Raises:
        EffaceError: the Hub has none.
    """
    path = Path(source)
    if path.is_dir():
        path = path / ERASURE
    if path.exists() or not NAME.fullmatch(source) or path.suffix == ".safetensors":
        return path
    from huggingface_hub import hf_hub_download

    return Path(_asked(source, lambda: hf_hub_download(source, ERASURE, revision=revision, token=token)))


def autoencoder_folder(source: str) -> Path:
    """The folder of autoencoders: itself, or that of a repository of the Hub (fetched once)."""
    path = Path(source)
    if path.exists() or not NAME.fullmatch(source):
        return path
    from huggingface_hub import snapshot_download

    wanted = [pattern for name in AUTOENCODER for pattern in (name, f"*/{name}")]
    return Path(_asked(source, lambda: snapshot_download(source, allow_patterns=wanted)))


def _asked(repository: str, ask: Callable[[], Any]) -> Any:
    """The Hub's answer; its refusal in a sentence."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import LocalEntryNotFoundError

    try:
        return ask()
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        said = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise EffaceError(
            f"{repository!r} is no file or folder here, and the Hub answered: {' '.join(said[:2])[:300]} "
            "(give a file, a folder, or the OWNER/NAME of a repository you may use)."
        ) from error


def _audit_in(folder: Path) -> dict[str, Any]:
    """The figures of one erasure's audit."""
    try:
        found = json.loads((folder / AUDIT[1]).read_text())
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or "groups" not in found or not (folder / AUDIT[0]).is_file():
        raise EffaceError(
            f"{folder} holds no audit of one erasure ({' and '.join(AUDIT)}): make one with `efface audit`."
        )
    return found


def _autoencoders_in(folder: Path) -> list[Path]:
    """The folder itself, or its folders, that hold an autoencoder."""
    sites = [p for p in (folder, *sorted(folder.iterdir())) if (p / AUTOENCODER[1]).is_file()]
    if not sites:
        raise EffaceError(f"{folder} holds no autoencoder ({AUTOENCODER[1]}): give the folder of one, or of a run.")
    return sites


def _parts_of(site: Path) -> list[Path]:
    return [site / name for name in AUTOENCODER if (site / name).is_file()]
