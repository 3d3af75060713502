"""Share autoencoders with a model card, as the files of a folder."""

from __future__ import annotations

from pathlib import Path

from efface.errors import EffaceError
from efface.io.hub import AUTOENCODER
from efface.report.model_card import autoencoder_card
from efface.sae.files import load_sae, sae_hash


def shared_files(folder: Path, licence: str | None) -> dict[Path, bytes]:
    """Name -> content of everything that is shared of one autoencoder, or of a run with one for each site.

    Raises:
        EffaceError: there is none, or one is damaged.
    """
    sites = _autoencoders_in(folder)
    card = autoencoder_card([_row(site) for site in sites], licence)
    files = {part.relative_to(folder): part.read_bytes() for site in sites for part in _parts_of(site)}
    return files | {Path("README.md"): card.encode()}


def _row(site: Path) -> tuple[str, ...]:
    """An autoencoder's line in the table: site, width, latents, k, hash."""
    sae = load_sae(site)
    shape = (str(n) for n in (sae.config.width, sae.config.latents, sae.config.k))
    return (site.name, *shape, f"`{sae_hash(sae)[:12]}`")


def _autoencoders_in(folder: Path) -> list[Path]:
    """The folder itself, or its folders, that hold an autoencoder."""
    sites = [p for p in (folder, *sorted(folder.iterdir())) if (p / AUTOENCODER[1]).is_file()]
    if not sites:
        raise EffaceError(f"{folder} holds no autoencoder ({AUTOENCODER[1]}): give the folder of one, or of a run.")
    return sites


def _parts_of(site: Path) -> list[Path]:
    return [site / name for name in AUTOENCODER if (site / name).is_file()]
