"""Autoencoders that an erasure names in its header, by hash and place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efface.erasures.latent_edit import LatentEdit
from efface.errors import EffaceError
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.lookup import find_sae


def saes_of(
    edits: Mapping[str, LatentEdit], at_hand: Mapping[str, SparseAutoencoder], references: Mapping[str, Any]
) -> dict[str, SparseAutoencoder]:
    """Site name -> autoencoder; those that are not at hand are looked up by their hash.

    Raises:
        EffaceError: one is not found, or an edit names latents that it has not.
    """
    saes = {}
    for site, edit in edits.items():
        reference = references[site]
        saes[site] = at_hand[site] if site in at_hand else find_sae(reference["sha256"], reference["source"], site)
        if len(edit.latents) and edit.latents.max() >= saes[site].config.latents:
            raise EffaceError(f"the edit of {site} names latents that its autoencoder has not: make it again.")
    return saes


def is_reference(entry: Any) -> bool:
    """Whether a header's entry names an autoencoder by hash and place."""
    return isinstance(entry, dict) and all(isinstance(entry.get(part), str) for part in ("sha256", "source"))
