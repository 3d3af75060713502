"""LatentErasure: what erasures have in common that turn down latents of autoencoders at some sites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from efface.erasures.erasure import Erasure
from efface.erasures.latent_edit import LatentEdit
from efface.erasures.provenance import Provenance
from efface.errors import EffaceError
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.lookup import find_sae

MODES = ("fast", "exact", "published")


@dataclass(frozen=True, eq=False)
class LatentErasure(Erasure):
    """Edits of the latents of sparse autoencoders; modes beside `fast` need the whole of them, which the header names by hash."""

    edits: dict[str, LatentEdit]
    """Site name -> what happens to the chosen latents."""
    saes: Mapping[str, SparseAutoencoder] = field(default_factory=dict)
    """Site name -> autoencoder, of those at hand; others are found by their hash where the mode needs them."""

    acts_on = "activations"

    @property
    def mode(self) -> str:
        """`fast`, `exact`, or `published`."""
        return str(self.provenance.config.get("mode", "fast"))

    def touches(self) -> list[str]:
        """The sites whose outputs it edits."""
        return list(self.edits)

    def tensors(self) -> dict[str, Tensor]:
        """Every part of every edit, as `SITE|PART`."""
        return {
            f"{site}|{part}": tensor for site, edit in self.edits.items() for part, tensor in edit.to_parts().items()
        }

    @cached_property
    def needed_saes(self) -> dict[str, SparseAutoencoder]:
        """Site name -> autoencoder, of all sites where the mode needs them; those that are not at hand are looked up by their hash.

        Raises:
            EffaceError: one is not found, or an edit names latents that it has not.
        """
        if self.mode == "fast":
            return {}
        saes = {}
        for site, edit in self.edits.items():
            reference = self.provenance.config["coders"][site]
            saes[site] = (
                self.saes[site] if site in self.saes else find_sae(reference["sha256"], reference["source"], site)
            )
            if len(edit.latents) and edit.latents.max() >= saes[site].config.latents:
                raise EffaceError(f"the edit of {site} names latents that its autoencoder has not: make it again.")
        return saes


def require_mode(provenance: Provenance, sites: Iterable[str]) -> None:
    """Raise EffaceError where a header's mode is not known, or needs an autoencoder of which a site has no reference."""
    mode, references = provenance.config.get("mode", "fast"), provenance.config.get("coders", {})
    complete = isinstance(references, dict) and all(_is_reference(references.get(site)) for site in sites)
    if mode not in MODES or (mode != "fast" and not complete):
        raise EffaceError(
            f"the edit works in mode {str(mode)[:40]!r} and names no autoencoder for every site; expected one of "
            f"{', '.join(MODES)}: make the erasure again."
        )


def _is_reference(entry: Any) -> bool:
    """Whether a header's entry names an autoencoder by hash and place."""
    return isinstance(entry, dict) and all(isinstance(entry.get(part), str) for part in ("sha256", "source"))
