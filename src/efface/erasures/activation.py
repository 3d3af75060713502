"""ActivationEdit: chosen latents of a sparse autoencoder are turned down at the outputs of some modules (SAeUron)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from efface.erasures.erasure import Erasure
from efface.erasures.latent_edit import HUGE, PARTS, Edit, by_site
from efface.errors import EffaceError
from efface.families import Network
from efface.families.sites import Site
from efface.models.model import Model

MODES = ("fast", "exact", "published")


@dataclass(frozen=True, eq=False)
class ActivationEdit(Erasure):
    """Edits of the latents of sparse autoencoders at some sites.

    In fast mode it is self-contained: a latent counts as active above a threshold. In exact mode, a latent must be among
    the k largest of its position, for which the whole autoencoder is needed; the header names it by hash.
    """

    edits: dict[str, Edit]
    """Site name -> what happens there."""
    coders: dict[str, Any] = field(default_factory=dict)
    """Site name -> autoencoder, in exact mode; found by its hash when the erasure comes from a file."""

    kind = "activation"
    acts_on = "activations"

    @property
    def mode(self) -> str:
        """`fast`, `exact`, or `published` (the public code's error term)."""
        return str(self.provenance.config.get("mode", "fast"))

    def hooks(self, model: Model, scale: float) -> list[Any]:
        """Register a clock that learns the timestep, and the edit of every site."""
        sites = {name: _only(model.sites(name), name) for name in self.edits}
        return self.hooks_at(model.networks()[0], sites, scale)

    def hooks_at(self, entry: Network, sites: Mapping[str, Site], scale: float) -> list[Any]:
        """The same on modules that were found in another way; `entry` says where the denoiser reads the timestep."""
        coders = self._found_coders() if self.mode != "fast" else {}
        clock = _Clock(entry)
        handles = [entry.module.register_forward_pre_hook(clock, with_kwargs=True)]
        for name, site in sites.items():
            handles.append(site.module.register_forward_hook(self._edit(site, clock, scale, coders.get(name))))
        return handles

    def _edit(self, site: Site, clock: _Clock, scale: float, coder: Any) -> Any:
        """A forward hook that adds the edit of one site to its output."""
        kept = {"edit": self.edits[site.name]}
        published = self.mode == "published"

        def hook(module: Any, args: Any, output: Any) -> Any:
            """The output with the edit of its active latents added; None where nothing is chosen."""
            edit = kept["edit"]
            if len(edit.latents) == 0 and not published:
                return None
            states = site.read(output)
            if edit.gate.device != states.device:
                edit = kept["edit"] = edit.to(states)
                if coder is not None:
                    coder.to(states.device)
            wide = states.float()
            if wide.shape[-1] != len(edit.centre):
                raise EffaceError(
                    f"{site.name} gives {wide.shape[-1]} channels where the erasure's autoencoder reads {len(edit.centre)}."
                )
            member = None if coder is None else members(coder, wide, edit.latents)
            delta = edit.delta(wide, clock.level.to(states.device), scale, member)
            if published and coder is not None:  # adds D(z) − x where x − D(z) is meant
                delta = delta + scale * 2 * (coder(wide) - wide)
            return site.add(output, delta.to(states.dtype))

        return hook

    def _found_coders(self) -> dict[str, Any]:
        """The autoencoders; those that are not at hand are looked up by their hash."""
        from efface.sae.lookup import find_sae

        for site in self.edits:
            named = self.provenance.config["coders"][site]
            if site not in self.coders:
                self.coders[site] = find_sae(named["sha256"], named["source"], site)
            if len(self.edits[site].latents) and self.edits[site].latents.max() >= self.coders[site].config.latents:
                raise EffaceError(f"the edit of {site} speaks of latents that its autoencoder has not: make it again.")
        return self.coders

    def tensors(self) -> dict[str, Tensor]:
        """Every part of every edit, as `SITE|PART`."""
        # An infinite gate stands for "not chosen"; files hold finite values only.
        return {
            f"{site}|{part}": torch.nan_to_num(tensor, posinf=HUGE) if part == "gate" else tensor
            for site, edit in self.edits.items()
            for part, tensor in zip(PARTS, edit, strict=True)
        }

    @classmethod
    def restore(cls, provenance: Any, tensors: dict[str, Tensor]) -> ActivationEdit:
        """The erasure that `tensors()` came from; exact mode finds its autoencoders when it is attached."""
        edits = {site: Edit(**parts) for site, parts in by_site(tensors).items()}
        config = provenance.config
        mode, coders = config.get("mode", "fast"), config.get("coders", {})
        named = isinstance(coders, dict) and all(_names_coder(coders.get(site)) for site in edits)
        if mode not in MODES or (mode != "fast" and not named):
            raise EffaceError(
                f"the edit works in mode {str(mode)[:40]!r} and names no autoencoder for every site; expected one of "
                f"{', '.join(MODES)}: make the erasure again."
            )
        return cls(provenance, edits)

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        """Raise EffaceError when parts are missing or their shapes do not fit; `width` (of text states) is not used."""
        for site, parts in by_site(tensors).items():
            found = {name: tuple(t.shape) for name, t in parts.items()}
            if set(found) != set(PARTS) or len(found["encoder"]) != 2 or len(found["levels"]) != 1:
                raise EffaceError(
                    f"the edit of {site!r} holds {found}; expected {', '.join(PARTS)}: make the erasure again."
                )
            (chosen, channels), levels = found["encoder"], found["levels"][0]
            expected = {"encoder": (chosen, channels), "bias": (chosen,), "centre": (channels,)}
            expected |= {"decoder": (chosen, channels), "latents": (chosen,), "levels": (levels,)}
            expected |= dict.fromkeys(("gate", "gain", "shift"), (levels, chosen))
            types = {name: t.is_floating_point() for name, t in parts.items()}
            if types != dict.fromkeys(PARTS, True) | {"latents": False} or (parts["latents"] < 0).any():
                raise EffaceError(f"the edit of {site!r} holds values of wrong types: make the erasure again.")
            if found != expected or levels == 0:
                raise EffaceError(f"the edit of {site!r} holds {found}; expected {expected}: make the erasure again.")


@torch.no_grad()
def members(coder: Any, states: Tensor, latents: Tensor) -> Tensor:
    """Which latents are active at each position by the coder's own rule (batch tokens chosen)."""
    flat = coder.activations(states.flatten(0, 1))
    if coder.config.rule == "threshold":
        least = coder.threshold
    else:
        from efface.sae.autoencoder import top

        least = top(flat, coder.config.k)[0].amin(1, keepdim=True)
    return (flat[:, latents] >= least).unflatten(0, states.shape[:2])


class _Clock:
    """Remembers the timestep of the denoiser's current call, whatever the sampler's own count."""

    level: Tensor

    def __init__(self, entry: Network):
        self.entry = entry

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.level = self.entry.level(args, kwargs)


def _names_coder(entry: Any) -> bool:
    """Whether a header's entry names an autoencoder by hash and place."""
    return isinstance(entry, dict) and all(isinstance(entry.get(part), str) for part in ("sha256", "source"))


def _only(sites: list[Site], name: str) -> Site:
    exact = [site for site in sites if site.name == name]
    if not exact:
        raise EffaceError(
            f"the model has no module called {name}, which the erasure edits: was it made for another model?"
        )
    return exact[0]
