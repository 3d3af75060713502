"""The Hugging Face Hub: a path, a folder or OWNER/NAME becomes a local file; files go to a folder or to a repository."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from efface.errors import EffaceError, UsageError, system_reason
from efface.io.atomic import write_atomically

ERASURE = "erasure.safetensors"
AUTOENCODER = ("cfg.json", "sae.safetensors", "statistics.safetensors", "names.safetensors")
"""Files of a site's autoencoder; nothing else in its folder is shared."""
Answer = TypeVar("Answer")
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""Name of a repository: its owner and its own name."""


def cached_snapshot(name: str, revision: str | None = None) -> Path | None:
    """The folder of a repository's files in the Hub's cache; None where it is not there, or the name is none.

    Nobody is asked: the Hub's own functions look for more than files there even where they are told that all is local.
    """
    if not NAME.fullmatch(name):
        return None
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    place = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    ref = place / "refs" / (revision or constants.DEFAULT_REVISION)
    folder = place / "snapshots" / (ref.read_text().strip() if ref.is_file() else revision or "none")
    return folder if folder.is_dir() else None


def erasure_file(source: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """The file of an erasure: itself, the one in a folder, or the one in a repository of the Hub (fetched once).

    What looks like a path is returned whether it exists or not; the Hub is asked for OWNER/NAME only.

    Raises:
        EffaceError: the Hub has none.
    """
    path = Path(source)
    if path.is_dir():
        path = path / ERASURE
    if path.exists() or not NAME.fullmatch(source) or path.suffix == ".safetensors":
        return path
    cached = cached_snapshot(source, revision)
    if cached is not None and (cached / ERASURE).exists():
        return cached / ERASURE
    from huggingface_hub import hf_hub_download

    return Path(_ask(source, lambda: hf_hub_download(source, ERASURE, revision=revision, token=token)))


def autoencoder_folder(source: str) -> Path:
    """The folder of autoencoders: itself, or that of a repository of the Hub (fetched once)."""
    path = Path(source)
    if path.exists() or not NAME.fullmatch(source):
        return path
    cached = cached_snapshot(source)
    if cached is not None and any((*cached.glob("cfg.json"), *cached.glob("*/cfg.json"))):
        return cached
    from huggingface_hub import snapshot_download

    wanted = [pattern for name in AUTOENCODER for pattern in (name, f"*/{name}")]
    return Path(_ask(source, lambda: snapshot_download(source, allow_patterns=wanted)))


def require_name(repository: str) -> None:
    """Raise UsageError where a repository's name is none."""
    if not NAME.fullmatch(repository):
        raise UsageError(f"{repository!r} is no repository; expected OWNER/NAME, or a folder such as ./{repository}.")


def write_files(files: Mapping[Path, bytes], folder: Path) -> Path:
    """Write files by their names into a folder, which is made if need be; raises EffaceError where it cannot be."""
    try:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EffaceError(f"{folder} could not be made ({system_reason(error)}): choose another.") from error
    for name, data in files.items():
        write_atomically(folder / name, data)
    return folder


def upload(
    files: Mapping[Path, bytes], repository: str, *, named: str, private: bool = False, token: str | None = None
) -> str:
    """Write files to a repository of the Hub, which is made if need be; returns its address.

    Args:
        files: by their names.
        repository: OWNER/NAME.
        named: what they are, for the commit's message.
        private: a new repository is private.
        token: instead of the user's own.

    Raises:
        EffaceError: the Hub refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_files(files, Path(scratch))
        _ask(repository, lambda: api.create_repo(repository, private=private, exist_ok=True))
        message = f"Upload with efface: {named}"
        commit = _ask(
            repository, lambda: api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
        )
    return str(commit.commit_url)


def _ask(repository: str, ask: Callable[[], Answer]) -> Answer:
    """The Hub's answer; raises EffaceError with its refusal in a sentence."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    from huggingface_hub.utils import LocalEntryNotFoundError

    try:
        return ask()
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise EffaceError(
            f"{repository!r} is no file or folder here, and the Hub answered: {' '.join(lines[:2])[:300]} "
            "(give a file, a folder, or the OWNER/NAME of a repository you may use)."
        ) from error
