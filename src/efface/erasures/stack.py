"""The life of erasures on a pipeline: attach, remove, compose.

Every denoiser has one stack of attachments. Erasures in weights are rebuilt from the original weights, in order,
whenever the stack changes, so that removal is exact and any one may leave before the others. Erasures of text states
run before the denoiser, the latest first: attaching A and then B means W M_A M_B. Erasures of activations hook the
modules that they edit, the earliest first.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from efface.erasures.interface import ModelEdit
from efface.errors import EffaceError
from efface.models.fingerprint import Fingerprint, fingerprint_like, originals_of
from efface.models.model import Model
from efface.models.parameters import parameters_of
from efface.models.spelling import spelt_as


@dataclass(frozen=True)
class Attachment:
    """An erasure on a pipeline."""

    erasure: ModelEdit
    scale: float
    folded: bool


@dataclass
class Stack:
    """What is attached to one denoiser."""

    attachments: list[Attachment] = field(default_factory=list)
    """In the order in which they were attached."""
    handles: list[RemovableHandle] = field(default_factory=list)
    """Handles of the hooks on the denoiser (and ControlNets)."""

    def mapped(self) -> list[Attachment]:
        """The attachments that act on text states."""
        return [a for a in self.attachments if not a.folded and a.erasure.acts_on == "text"]

    def steering(self) -> list[Attachment]:
        """The attachments that edit activations."""
        return [a for a in self.attachments if a.erasure.acts_on == "activations"]

    def folded(self) -> list[Attachment]:
        """The attachments that live in weights."""
        return [a for a in self.attachments if a.folded]


_STACKS: WeakKeyDictionary[nn.Module, Stack] = WeakKeyDictionary()


def stack_of(model: Model) -> Stack:
    """The stack of a model's denoiser; an empty one when nothing was ever attached."""
    return _STACKS.setdefault(model.networks()[0].module, Stack())


def attached_to(pipeline: Any) -> list[Attachment]:
    """What is attached to a pipeline, in order."""
    return list(stack_of(Model(pipeline)).attachments)


def attach(erasure: ModelEdit, pipeline: Any, *, scale: float, fold: bool, force: bool) -> None:
    """Attach an erasure; see `Erasure.attach`."""
    model = Model(pipeline)
    stack = stack_of(model)
    if any(a.erasure is erasure for a in stack.attachments):
        raise EffaceError(
            f"this erasure of {_names(erasure)} is already attached: remove it before attaching it again."
        )
    require_base(erasure, fingerprint_like(model, erasure.provenance.base), force)
    attachment = Attachment(erasure, scale, fold)
    if fold:
        _require_foldable(model, erasure)
        if stack.mapped() and _edits_projections(model, erasure):
            raise EffaceError(
                "a mapped erasure is attached, and editing the projections under it would change the order in which they "
                "compose: remove it, attach this one first, then the other (or fold both)."
            )
    elif erasure.acts_on == "text":
        _warn_unmapped(model)
    stack.attachments.append(attachment)
    try:
        _rebuild(model, stack)
    except BaseException:
        stack.attachments.remove(attachment)
        _rebuild(model, stack)
        raise


def remove(erasure: ModelEdit, pipeline: Any) -> None:
    """Take an erasure off; see `Erasure.remove`."""
    model = Model(pipeline)
    stack = stack_of(model)
    others = [a for a in stack.attachments if a.erasure is not erasure]
    if len(others) == len(stack.attachments):
        raise EffaceError(f"this erasure of {_names(erasure)} is not attached to the pipeline: nothing to remove.")
    stack.attachments[:] = others
    _rebuild(model, stack)


def _rebuild(model: Model, stack: Stack) -> None:
    """Make weights and hooks say what the list of attachments says."""
    parameters, originals = parameters_of(model), originals_of(model)
    with torch.no_grad():
        for name, original in originals.items():
            parameters[name].copy_(original)
        if not stack.folded():
            originals.clear()
        for attachment in stack.folded():
            for name in _target_names(model, attachment.erasure):
                weight = parameters[name]
                originals.setdefault(name, weight.detach().to("cpu", copy=True))
                edited = attachment.erasure.fold(name, weight, attachment.scale)
                if not torch.isfinite(edited).all():
                    raise EffaceError(
                        f"folding into {name} gives values that are not finite: use a smaller scale or mapped attachment."
                    )
                weight.copy_(edited)
    for handle in stack.handles:
        handle.remove()
    stack.handles.clear()
    for attachment in (*reversed(stack.mapped()), *stack.steering()):  # hooks run in the order in which they come
        stack.handles += attachment.erasure.hooks(model, attachment.scale)
    if _compiled(model):
        torch.compiler.reset()  # a compiled graph would not notice hooks on the modules inside it


def _compiled(model: Model) -> bool:
    """Whether torch.compile has wrapped the denoiser, from outside or in place, or a part of it."""
    if any(hasattr(part, "_orig_mod") for part in model.pipeline.components.values()):
        return True
    parts = (part for entry in model.networks() for part in entry.module.modules())
    return any(getattr(part, "_compiled_call_impl", None) is not None for part in parts)


def _target_names(model: Model, erasure: ModelEdit) -> list[str]:
    """The weights that an erasure edits, by the names that the model gives them."""
    targets = erasure.targets()
    if targets is None:
        return [f"{p.name}.weight" for p in model.text_projections()]
    return list(spelt_as(targets, parameters_of(model)).values())


def _edits_projections(model: Model, erasure: ModelEdit) -> bool:
    """Whether an erasure in weights touches the matrices that mapped text states enter."""
    return bool({f"{p.name}.weight" for p in model.text_projections()} & set(_target_names(model, erasure)))


def require_base(erasure: ModelEdit, model: Fingerprint, force: bool) -> None:
    """Raise EffaceError for an erasure of another model; with `force` a fine-tune of its model is a warning only."""
    difference = erasure.provenance.base.difference(model)
    if not difference:
        return
    same_shape = model.structure == erasure.provenance.base.structure
    message = f"this erasure of {_names(erasure)} was made for another model: the pipeline has {difference}"
    if not force or not same_shape:
        remedy = "attach with force=True if it is a fine-tune" if same_shape else "make an erasure for this model"
        raise EffaceError(f"{message}; {remedy}.")
    warnings.warn(f"{message}; attached because of force=True.", stacklevel=4)


def _require_foldable(model: Model, erasure: ModelEdit) -> None:
    parameters = parameters_of(model)
    adapted = {f"{p.name}.weight" for p in model.text_projections() if p.adapted}
    for name in _target_names(model, erasure):
        if name not in parameters:
            raise EffaceError(
                f"the model has no weight called {name}, which the erasure edits: was it made for another model?"
            )
        if name in adapted and erasure.acts_on == "text":
            raise EffaceError(
                f"an adapter (LoRA) sits on {name}, whose own path folding would miss: attach mapped instead."
            )
        if parameters[name].is_meta:
            raise EffaceError(
                f"{name} is offloaded and cannot be edited in place: attach before offloading, or attach mapped."
            )
        if not parameters[name].is_floating_point():
            raise EffaceError(f"{name} is quantised ({parameters[name].dtype}): attach before quantising.")


def _warn_unmapped(model: Model) -> None:
    unmapped = model.family.unmapped_inputs()
    if unmapped:
        warnings.warn(f"the erasure does not reach {' and '.join(unmapped)}: text enters there unmapped.", stacklevel=5)


def _names(erasure: ModelEdit) -> str:
    return ", ".join(repr(concept.name) for concept in erasure.provenance.concepts)
