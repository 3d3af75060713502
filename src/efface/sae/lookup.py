"""Look up autoencoders: those of embedded models, in folders, in repositories of the Hugging Face Hub."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from efface.errors import EffaceError
from efface.io import embedded
from efface.io.hub import autoencoder_folder
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.files import load_sae, sae_hash

FOLDERS = "EFFACE_AUTOENCODERS"
"""Environment variable that names further folders in which autoencoders are looked for."""


def sae_folder(source: str, site: str) -> Path:
    """The folder of a site's autoencoder.

    Args:
        source: the name of an embedded model (`emoji`) for its own, the folder of a run or of one autoencoder, or the
            OWNER/NAME of a repository.
        site: name of the module.
    """
    if Path(site).name != site or site in ("", ".", ".."):
        raise EffaceError(f"{site!r} is no name of a module: expected one such as unet.up_blocks.1.attentions.1.")
    root = embedded.folder(source) / "sae" if source in embedded.names() else autoencoder_folder(source)
    return root / site if (root / site).is_dir() else root


@lru_cache(maxsize=8)
def cached_sae(folder: Path, changed: float) -> tuple[SparseAutoencoder, str]:
    """An autoencoder and its hash, read from disk again only when its file has changed."""
    sae = load_sae(folder).requires_grad_(False)
    return sae, sae_hash(sae)


def open_sae(source: str, site: str) -> tuple[SparseAutoencoder, str]:
    """A site's autoencoder and its hash; raises EffaceError where there is none."""
    folder = sae_folder(source, site)
    weights = [p for p in folder.glob("*") if p.suffix in (".safetensors", ".pth", ".pt")]
    if not weights:
        raise EffaceError(
            f"{folder} holds no autoencoder for {site}: train one (`efface sae train`), or give the folder of one."
        )
    return cached_sae(folder, max(p.stat().st_mtime for p in weights))


def find_sae(sha256: str, source: str, site: str) -> SparseAutoencoder:
    """The autoencoder that an erasure names by its hash: where it was, in the folders of EFFACE_AUTOENCODERS, or embedded.

    Raises:
        EffaceError: none of these is it.
    """
    elsewhere = [folder for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]
    found = []
    for place in dict.fromkeys((source, *elsewhere, *embedded.names())):
        try:
            sae, own = open_sae(place, site)
        except EffaceError:
            continue
        if own == sha256:
            return sae
        found.append(f"{place} holds another one ({own[:12]}…)" if place == source else "")
    told = next(filter(None, found), f"there is none in {source}")
    raise EffaceError(
        f"the autoencoder of {site} that the erasure was made with ({sha256[:12]}…) was not found: {told}; name the folder that "
        f"holds it in {FOLDERS}, or make the erasure again."
    )
