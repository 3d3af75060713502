"""Where autoencoders are found again: those of embedded models, folders by path, repositories of the Hugging Face Hub."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from efface.errors import EffaceError
from efface.io import embedded
from efface.io.hub import autoencoder_folder
from efface.sae.autoencoder import Coder
from efface.sae.files import coder_hash, load_coder


def coder_folder(source: str, site: str) -> Path:
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
def cached_coder(folder: Path, changed: float) -> tuple[Coder, str]:
    """An autoencoder and its hash; read again only when its file has changed."""
    coder = load_coder(folder).requires_grad_(False)
    return coder, coder_hash(coder)


def open_coder(source: str, site: str) -> tuple[Coder, str]:
    """A site's autoencoder and its hash; raises EffaceError where there is none."""
    folder = coder_folder(source, site)
    weights = [p for p in folder.glob("*") if p.suffix in (".safetensors", ".pth")]
    if not weights:
        raise EffaceError(
            f"{folder} holds no autoencoder for {site}: train one (`efface sae train`), or give the folder of one."
        )
    return cached_coder(folder, max(p.stat().st_mtime for p in weights))


def find_coder(sha256: str, source: str, site: str) -> Coder:
    """The autoencoder that an erasure names by hash; raises EffaceError where it is not, or is another one."""
    coder, found = open_coder(source, site)
    if found != sha256:
        raise EffaceError(
            f"the autoencoder in {coder_folder(source, site)} is another one ({found[:12]}…) than the erasure was made "
            f"with ({sha256[:12]}…): give the right one, or make the erasure again."
        )
    return coder
