"""TextEdit: latents of an autoencoder on a text encoder's layer are turned down in the prompts that name a concept (ItD)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from efface.erasures.activation import Place, members
from efface.erasures.latent_edit import PARTS, LatentEdit, by_site
from efface.erasures.latent_erasure import LatentErasure, require_mode
from efface.erasures.layer_read import LayerRead
from efface.erasures.provenance import Provenance
from efface.errors import EffaceError
from efface.families.networks import Hook
from efface.families.prompt_bounds import PromptBounds
from efface.families.sites import TEXT, Site
from efface.models.caller import is_aside
from efface.models.model import Model
from efface.models.precision import without_autocast
from efface.models.spelling import spelt_as
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.text_states import component_of, tokenizer_of


@dataclass(frozen=True)
class TextGate:
    """When the edit of a site acts on a prompt."""

    threshold: float
    """τ: it acts where the mean square of the change by latents that tell, over a prompt's positions and channels, is above."""
    begin: int
    """Positions that every prompt begins with (begin token, template), which are never edited."""
    tells: Tensor
    """Activation above which each of the chosen latents counts for the gate (chosen,): at least what retained prompts have of it."""


@dataclass(frozen=True, eq=False)
class TextEdit(LatentErasure):
    """Edits of latents at layers of text encoders, in whole prompts or not at all: a prompt below the gate keeps every bit.

    In fast mode it is self-contained: an active latent is one above a threshold, which is the autoencoder's own rule where it was
    trained with BatchTopK. In exact mode it must be among the k largest of its position. In published mode the whole state is
    replaced by the autoencoder's reconstruction, which needs the whole of it too.
    """

    gates: dict[str, TextGate] = field(default_factory=dict)
    """Site name -> when; every site has one."""

    kind = "text-edit"

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """What finds the prompts in a text encoder's call, and the edit of every site.

        Raises:
            EffaceError: the model has no such layer.
        """
        encoders = model.family.text_encoders()
        saes = self.needed_saes
        sites = {name: _site(encoders, name) for name in self.edits}
        readers = {name: PromptBounds(tokenizer_of(model, name)) for name in {component_of(s) for s in sites.values()}}
        edits = []
        for name, site in sites.items():
            bounds = readers[component_of(site)]
            read = LayerRead.of(encoders, site.name)
            edit = _PromptEdit(self.edits[name], self.gates[name], Place(site, "output"), bounds, scale, read)
            edit.sae = saes[name].at_inference() if name in saes else None
            edit.published = self.mode == "published"
            edits.append(Hook(site.module, edit, before=False, first=True))
        return [*(Hook(encoders[name], reader, before=True) for name, reader in readers.items()), *edits]

    def changes_by_row(self, model: Model, scale: float) -> list[Hook]:
        """As `changes`: what finds the prompts and what edits them see the same rows."""
        return self.changes(model, scale)

    def tensors(self) -> dict[str, Tensor]:
        """Every part of every edit, as `SITE|PART`; its gate as `SITE|threshold`, `SITE|begin` and `SITE|tells`."""
        found = super().tensors()
        for site, gate in self.gates.items():
            found |= {f"{site}|threshold": torch.tensor([gate.threshold]), f"{site}|begin": torch.tensor([gate.begin])}
            found[f"{site}|tells"] = gate.tells
        return found

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> TextEdit:
        """The erasure that `tensors()` came from; modes beside `fast` find their autoencoders when it is attached."""
        edits, gates = {}, {}
        for site, parts in by_site(tensors).items():
            threshold, begin = float(parts.pop("threshold")), int(parts.pop("begin"))
            gates[site] = TextGate(threshold=threshold, begin=begin, tells=parts.pop("tells"))
            edits[site] = LatentEdit.from_parts(parts)
        require_mode(provenance, edits)
        return cls(provenance=provenance, edits=edits, gates=gates)

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        """Raise EffaceError when parts are missing or their shapes do not fit; `width` (of what the denoiser reads) is not used."""
        for site, parts in by_site(tensors).items():
            shapes = {name: tuple(t.shape) for name, t in parts.items()}
            if set(shapes) != {*PARTS, "threshold", "begin", "tells"} or len(shapes["encoder"]) != 2:
                raise EffaceError(
                    f"the edit of {site!r} holds {shapes}; expected {', '.join(PARTS)}: make the erasure again."
                )
            chosen, channels = shapes["encoder"]
            expected = {"encoder": (chosen, channels), "bias": (chosen,), "centre": (channels,)}
            expected |= {"decoder": (chosen, channels), "latents": (chosen,), "levels": (1,), "tells": (chosen,)}
            expected |= dict.fromkeys(("gate", "gain", "shift"), (1, chosen)) | dict.fromkeys(
                ("threshold", "begin"), (1,)
            )
            whole = {name for name, tensor in parts.items() if not tensor.is_floating_point()}
            if shapes != expected or chosen == 0 or whole != {"latents", "begin"}:
                raise EffaceError(f"the edit of {site!r} holds {shapes}; expected {expected}: make the erasure again.")
            if (
                (parts["latents"] < 0).any()
                or parts["begin"] < 0
                or parts["threshold"] < 0
                or not site.startswith(TEXT)
            ):
                raise EffaceError(f"the edit of {site!r} holds values out of range: make the erasure again.")


class _PromptEdit:
    """A forward hook that edits the prompts above a gate, and leaves every bit of the others."""

    sae: SparseAutoencoder | None = None
    published = False

    def __init__(
        self, edit: LatentEdit, gate: TextGate, place: Place, bounds: PromptBounds, scale: float, read: LayerRead
    ):
        self.edit = edit
        self.read = read
        self.gate = gate
        self.place = place
        self.bounds = bounds
        self.scale = scale

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """The output with the edit of its active latents added in the rows that the gate lets through."""
        if is_aside():
            return None
        self.read.require()
        site = self.place.on(module)
        states = site.read(output)
        if states.ndim != 3 or states.shape[-1] != len(self.edit.centre):
            raise EffaceError(
                f"{site.name} gives states of shape {tuple(states.shape)} where the erasure's autoencoder reads (batch tokens "
                f"{len(self.edit.centre)})."
            )
        if self.edit.gate.device != states.device:
            self.edit = self.edit.to(states)
            if self.sae is not None:
                self.sae.to(states.device)
        bounds, tokens = self.bounds.of(states), states.shape[1]
        edited, inside = bounds.after(tokens, self.gate.begin), bounds.inside(tokens, self.gate.begin)
        with without_autocast(states.device):
            if self.published and self.sae is not None:
                delta = replacement(self.sae, self.edit, states.float(), edited)
                acts = delta.square().mean((1, 2)) >= self.gate.threshold
                edited = torch.ones_like(edited)
            else:
                z = active_latents(self.edit, states.float(), self.sae)
                delta = change(self.edit, z)
                acts = strength(change(self.edit, told(z, self.gate.tells)), inside) > self.gate.threshold
        where = (acts[:, None] & edited)[..., None]
        return site.write(output, torch.where(where, states + (self.scale * delta).to(states.dtype), states))


def active_latents(edit: LatentEdit, states: Tensor, sae: SparseAutoencoder | None = None) -> Tensor:
    """Activations of the chosen latents (batch tokens chosen), 0 where they are not active, of states in float32.

    Args:
        edit: the chosen latents.
        states: (batch tokens width).
        sae: with its rule at inference, says which are active in exact mode.
    """
    z = torch.relu((states - edit.centre) @ edit.encoder.T + edit.bias)
    active = z.detach() > edit.gate[0] if sae is None else members(sae, states, edit.latents)
    return torch.where(active, z, 0.0)


def change(edit: LatentEdit, z: Tensor) -> Tensor:
    """Δ = Σ over the chosen latents of (gain − 1) z W_dec (batch tokens width), of their activations (batch tokens chosen)."""
    return ((edit.gain[0] - 1) * z) @ edit.decoder


def told(z: Tensor, tells: Tensor) -> Tensor:
    """The activations (batch tokens chosen) that count for the gate, without a gradient; the others are 0."""
    return torch.where(z.detach() > tells.to(z), z.detach(), 0.0)


def strength(delta: Tensor, inside: Tensor) -> Tensor:
    """m: mean square of Δ (batch tokens width) over the prompts' own positions (batch tokens) and channels (batch,)."""
    count = inside.sum(1).clamp(min=1)
    return (delta.square().mean(2) * inside).sum(1) / count


def replacement(sae: SparseAutoencoder, edit: LatentEdit, states: Tensor, edited: Tensor) -> Tensor:
    """What the authors' code makes of states, D(z with its chosen latents times the gain) − h (batch tokens width).

    Args:
        sae: the whole autoencoder, with its rule at inference.
        edit: the chosen latents.
        states: (batch tokens width) in float32.
        edited: positions at which latents change; the others are reconstructed as well (batch tokens).
    """
    z = sae.encode(states.flatten(0, 1)).dense(sae.config.latents).unflatten(0, states.shape[:2])
    change = (edit.gain[0] - 1) * z[..., edit.latents] * edited[..., None]
    return z @ sae.W_dec + sae.b_dec + change @ edit.decoder - states


def _site(encoders: Mapping[str, nn.Module], name: str) -> Site:
    """The layer of a name, which versions of transformers spell differently."""
    modules = {
        f"{component}.{path}": m for component, encoder in encoders.items() for path, m in encoder.named_modules()
    }
    own = spelt_as([name], modules)[name]
    if own not in modules:
        raise EffaceError(
            f"the model has no layer called {name}, which the erasure edits: was it made for another model?"
        )
    return Site(own, modules[own])
