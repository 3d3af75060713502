"""ActivationEdit: chosen latents of a sparse autoencoder are turned down at the outputs of some modules (SAeUron)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from efface.erasures.latent_edit import PARTS, LatentEdit, by_site
from efface.erasures.latent_erasure import LatentErasure, require_mode
from efface.erasures.provenance import Provenance
from efface.errors import EffaceError
from efface.families import Network
from efface.families.networks import Hook
from efface.families.sites import Site
from efface.models.model import Model
from efface.models.precision import without_autocast
from efface.sae.autoencoder import Reads, SparseAutoencoder, top


@dataclass(frozen=True, eq=False)
class ActivationEdit(LatentErasure):
    """Edits of the latents of sparse autoencoders at some sites.

    In fast mode it is self-contained: a latent counts as active above a threshold. In exact mode, a latent must be among
    the k largest of its position, for which the whole autoencoder is needed; the header names it by hash.
    """

    kind = "activation"

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """A clock that learns the timestep, and the edit of every site."""
        sites = {name: _only(model.sites(name), name) for name in self.edits}
        return self.changes_at(model.networks()[0], sites, scale)

    def changes_by_row(self, model: Model, scale: float) -> list[Hook]:
        """The same: a picture is edited by itself."""
        return self.changes(model, scale)

    def _reads(self, site: str) -> str:
        """What the autoencoder of a site reads of it, as the header says."""
        references = self.provenance.config.get("coders", {})
        reference = references.get(site, {}) if isinstance(references, dict) else {}
        return str(reference.get("reads", "output")) if isinstance(reference, dict) else "output"

    def changes_at(self, denoiser: Network, sites: Mapping[str, Site], scale: float) -> list[Hook]:
        """The clock of a denoiser and the edits of modules that the caller found."""
        saes = self.needed_saes
        clock = _Clock(denoiser)
        published = self.mode == "published"
        edits = [
            Hook(
                site.module,
                _SiteEdit(self.edits[name], Place(site, self._reads(name)), clock, scale, saes.get(name), published),
                before=False,
            )
            for name, site in sites.items()
        ]
        return [Hook(denoiser.module, clock, before=True), *edits]

    def hooks_at(self, denoiser: Network, sites: Mapping[str, Site], scale: float) -> list[RemovableHandle]:
        """Register `changes_at`; returns the handles that end them."""
        return [hook.register() for hook in self.changes_at(denoiser, sites, scale)]

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> ActivationEdit:
        """The erasure that `tensors()` came from; exact mode finds its autoencoders when it is attached."""
        edits = {site: LatentEdit.from_parts(parts) for site, parts in by_site(tensors).items()}
        erasure = cls(provenance=provenance, edits=edits)
        other = sorted({erasure._reads(site) for site in edits} - {*get_args(Reads)})
        if other:
            raise EffaceError(
                f"an autoencoder of the edit reads {other[0][:40]!r} of its site; this efface knows {', '.join(get_args(Reads))}: "
                "update efface."
            )
        require_mode(provenance, edits)
        return erasure

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        """Raise EffaceError when parts are missing or their shapes do not fit; `width` (of text states) is not used."""
        for site, parts in by_site(tensors).items():
            shapes = {name: tuple(t.shape) for name, t in parts.items()}
            if set(shapes) != set(PARTS) or len(shapes["encoder"]) != 2 or len(shapes["levels"]) != 1:
                raise EffaceError(
                    f"the edit of {site!r} holds {shapes}; expected {', '.join(PARTS)}: make the erasure again."
                )
            chosen, channels = shapes["encoder"]
            (timesteps,) = shapes["levels"]
            expected = {"encoder": (chosen, channels), "bias": (chosen,), "centre": (channels,)}
            expected |= {"decoder": (chosen, channels), "latents": (chosen,), "levels": (timesteps,)}
            expected |= dict.fromkeys(("gate", "gain", "shift"), (timesteps, chosen))
            types = {name: t.is_floating_point() for name, t in parts.items()}
            if types != dict.fromkeys(PARTS, True) | {"latents": False} or (parts["latents"] < 0).any():
                raise EffaceError(f"the edit of {site!r} holds values of wrong types: make the erasure again.")
            if shapes != expected or timesteps == 0:
                raise EffaceError(f"the edit of {site!r} holds {shapes}; expected {expected}: make the erasure again.")


@torch.no_grad()
def members(sae: SparseAutoencoder, states: Tensor, latents: Tensor) -> Tensor:
    """Which latents are active at each position by the autoencoder's own rule (batch tokens chosen)."""
    flat = sae.activations(states.flatten(0, 1))
    least = sae.threshold if sae.config.rule == "threshold" else top(flat, sae.config.k)[0].amin(1, keepdim=True)
    return (flat[:, latents] >= least).unflatten(0, states.shape[:2])


class Place:
    """A site without its module, which a copy of the network has of its own, and what is read of it."""

    def __init__(self, site: Site, reads: str):
        self.name = site.name
        self.part = site.part
        self.difference = reads == "difference"

    def on(self, module: nn.Module) -> Site:
        """The site that a module is."""
        return Site(self.name, module, self.part, self.difference)


class _SiteEdit:
    """A forward hook that adds the edit of one site to its output; copied with its network, it reads the copy's clock."""

    def __init__(
        self,
        edit: LatentEdit,
        place: Place,
        clock: _Clock,
        scale: float,
        sae: SparseAutoencoder | None,
        published: bool,
    ):
        self.edit = edit
        self.place = place
        self.clock = clock
        self.scale = scale
        self.sae = sae
        self.published = published

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """The output with the edit of its active latents added; None where nothing is chosen."""
        if len(self.edit.latents) == 0 and not self.published:
            return None
        site = self.place.on(module)
        states = site.states(args, kwargs, output)
        if self.edit.gate.device != states.device:
            self.edit = self.edit.to(states)
            if self.sae is not None:
                self.sae.to(states.device)
        wide = states.float()
        if wide.shape[-1] != len(self.edit.centre):
            raise EffaceError(
                f"{site.name} gives {wide.shape[-1]} channels where the erasure's autoencoder reads {len(self.edit.centre)}."
            )
        with without_autocast(states.device):
            member = None if self.sae is None else members(self.sae, wide, self.edit.latents)
            delta = self.edit.delta(wide, self.clock.timestep.to(states.device), self.scale, member)
            if self.published and self.sae is not None:  # adds D(z) − x where x − D(z) is meant
                delta = delta + self.scale * 2 * (self.sae(wide) - wide)
        return site.add(output, delta.to(states.dtype))


class _Clock:
    """Remembers the timestep of the denoiser's current call, whatever the sampler's own count."""

    timestep: Tensor

    def __init__(self, denoiser: Network):
        self.denoiser = denoiser

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.timestep = self.denoiser.timestep(args, kwargs)


def _only(sites: list[Site], name: str) -> Site:
    """The site of exactly this name, which an fnmatch pattern may match with others."""
    exact = [site for site in sites if site.name == name]
    if not exact:
        raise EffaceError(
            f"the model has no module called {name}, which the erasure edits: was it made for another model?"
        )
    return exact[0]
