"""ImageEdit: chosen latents of an autoencoder are turned down in the image features of a vision-language model (SAUCE)."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from efface.erasures.activation import ActivationEdit
from efface.erasures.image_change import ImageChange, ImageGate
from efface.erasures.latent_edit import LatentEdit, by_site
from efface.erasures.latent_erasure import LatentErasure, require_mode
from efface.erasures.provenance import Provenance
from efface.erasures.state import LOCK
from efface.errors import EffaceError, UsageError
from efface.families.networks import Hook
from efface.models.footprint import Footprint
from efface.models.vlm import VisionLanguageModel

GATE = ("directions", "thresholds")
"""Parts of a gate in files."""
KEY = "_efface_images"
"""Name of the attribute of a network that holds what is attached to it, with the handles of its hooks."""


@dataclass(frozen=True, eq=False)
class ImageEdit(LatentErasure):
    """Edits of latents where a picture enters a vision-language model; its class token and its text are left alone.

    In fast mode it is self-contained: an active latent is one above its gate. In exact mode it must be active by the
    autoencoder's own rule as well. In published mode features are replaced by the autoencoder's reconstruction. Both need the
    whole autoencoder, which the header names by hash.

    It is attached to a `VisionLanguageModel` and lives on its network, so that everybody who holds the network sees it.
    """

    gates: dict[str, ImageGate] = field(default_factory=dict)
    """Site name -> which pictures are edited; a site without one edits every picture."""

    kind = "image-edit"

    def attach(self, pipeline: Any, *, scale: float = 1.0, fold: bool = False, force: bool = False) -> None:
        """Attach to a vision-language model; the same erasure twice is counted, and acts once.

        Args:
            pipeline: a `VisionLanguageModel`.
            scale: 0 leaves the model as it is, 1 is the erasure; values beyond extrapolate.
            fold: refused, since no weight does the same.
            force: attach to other weights of the same shapes (a fine-tune), with a warning.

        Raises:
            UsageError: the scale is negative or not finite, or it is to be folded.
            EffaceError: no vision-language model, another one, or attached already with another scale.
        """
        vlm = _vlm(self, pipeline)
        if fold:
            raise UsageError("this erasure edits activations, which no weight does: attach it without folding.")
        if not 0 <= scale < math.inf:
            raise UsageError(
                f"the scale is {scale:g}; expected a finite number of 0 or more: a negative one would strengthen what is erased."
            )
        with LOCK:
            known = _find(vlm, self)
            if known is not None and known.scale != scale:
                raise EffaceError(
                    f"this erasure of {self.names} is already attached with scale {known.scale:g} and cannot be so with {scale:g} as "
                    "well: remove it first."
                )
            if known is not None:
                known.count += 1
                return
            _require_base(self, vlm, force)
            hooks = self.changes_on(vlm, scale)
            attachment = OnNetwork(self, scale, [hook.register() for hook in hooks])
            vars(vlm.network).setdefault(KEY, []).append(attachment)

    def remove(self, pipeline: Any, *, subtract: bool | None = None) -> None:
        """Take it off again; not a bit of any weight was changed.

        Raises:
            EffaceError: it is not attached.
        """
        vlm = _vlm(self, pipeline)
        with LOCK:
            known = _find(vlm, self)
            if known is None:
                raise EffaceError(f"this erasure of {self.names} is not attached to the model: nothing to remove.")
            known.count -= 1
            if known.count:
                return
            for handle in known.handles:
                handle.remove()
            vars(vlm.network)[KEY].remove(known)
            if not vars(vlm.network)[KEY]:
                del vars(vlm.network)[KEY]

    @contextmanager
    def attached(self, pipeline: Any, *, scale: float = 1.0, fold: bool = False, force: bool = False) -> Iterator[Any]:
        """`with erasure.attached(vlm): ...`, taken off at the end whatever happens; errors as of `attach`."""
        self.attach(pipeline, scale=scale, fold=fold, force=force)
        try:
            yield pipeline
        finally:
            self.remove(pipeline)

    def changes_on(self, vlm: VisionLanguageModel, scale: float) -> list[Hook]:
        """The hooks that edit every site; none is registered.

        Raises:
            UsageError: the model has no such site.
            EffaceError: an autoencoder is not found.
        """
        saes = self.needed_saes
        hooks = []
        for name, edit in self.edits.items():
            sae = saes[name].at_inference() if name in saes else None
            hooks.append(
                vlm.site(name).hook(ImageChange(name, edit, self.gates.get(name), scale, sae, self.mode == "published"))
            )
        return hooks

    def tensors(self) -> dict[str, Tensor]:
        """Every part of every edit, as `SITE|PART`; its gate, where it has one, as `SITE|directions` and `SITE|thresholds`."""
        found = super().tensors()
        for site, gate in self.gates.items():
            found |= {f"{site}|directions": gate.directions, f"{site}|thresholds": gate.thresholds}
        return found

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> ImageEdit:
        """The erasure that `tensors()` came from; modes beside `fast` find their autoencoders when it is attached."""
        edits, gates = {}, {}
        for site, parts in by_site(tensors).items():
            if GATE[0] in parts:
                gates[site] = ImageGate(directions=parts["directions"], thresholds=parts["thresholds"])
            edits[site] = LatentEdit.from_parts(parts)
        require_mode(provenance, edits)
        return cls(provenance=provenance, edits=edits, gates=gates)

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        """Raise EffaceError when parts are missing or their shapes do not fit; `width` (of text) is not used."""
        ActivationEdit.check({key: t for key, t in tensors.items() if key.rpartition("|")[2] not in GATE}, width)
        for site, parts in by_site(tensors).items():
            gate = {part: tuple(parts[part].shape) for part in GATE if part in parts}
            many = gate.get("thresholds", (0,))
            if gate and gate != {"directions": (*many, *parts["centre"].shape), "thresholds": many}:
                raise EffaceError(f"the gate of {site!r} holds {gate}: make the erasure again.")
            if len(parts["levels"]) != 1:
                raise EffaceError(
                    f"the edit of {site!r} has tables of {len(parts['levels'])} timesteps where a picture knows one: make the erasure "
                    "again."
                )


@dataclass(eq=False)
class OnNetwork:
    """An erasure on a vision-language model, with the hooks that it put there, which are copied with the network."""

    erasure: ImageEdit
    scale: float
    handles: list[RemovableHandle]
    count: int = 1
    """How many times it was attached and not yet removed."""

    def __deepcopy__(self, memo: dict[int, Any]) -> OnNetwork:
        """The same erasure, which never changes, with the hooks of the copied network."""
        copied = OnNetwork(self.erasure, self.scale, copy.deepcopy(self.handles, memo), self.count)
        memo[id(self)] = copied
        return copied


def edits_on(vlm: VisionLanguageModel) -> list[OnNetwork]:
    """What is attached to a vision-language model, in order."""
    return list(vars(vlm.network).get(KEY, ()))


def _find(vlm: VisionLanguageModel, erasure: ImageEdit) -> OnNetwork | None:
    return next((a for a in edits_on(vlm) if a.erasure.digest == erasure.digest), None)


def _vlm(erasure: ImageEdit, model: Any) -> VisionLanguageModel:
    """The model, where it is a vision-language model."""
    if not isinstance(model, VisionLanguageModel):
        raise EffaceError(
            f"this erasure of {erasure.names} edits what a vision-language model sees, and {type(model).__name__} is none: open one "
            "with efface.load, or as VisionLanguageModel(network, processor)."
        )
    return model


def _require_base(erasure: ImageEdit, vlm: VisionLanguageModel, force: bool) -> None:
    """Raise EffaceError where an erasure was made for another model; warn where that is forced."""
    base = erasure.provenance.base
    if not isinstance(base, Footprint):
        raise EffaceError(f"this erasure of {erasure.names} does not say what it touches: make it again.")
    difference = vlm.difference(base)
    if not difference.text:
        return
    message = f"this erasure of {erasure.names} was made for another model: this one has {difference.text}"
    if not force or difference.structural:
        fits = (
            "make an erasure for this model" if difference.structural else "attach with force=True if it is a fine-tune"
        )
        raise EffaceError(f"{message}; {fits}.")
    warnings.warn(f"{message}; attached because of force=True.", stacklevel=4)
