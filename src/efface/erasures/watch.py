"""What happens to pipelines while erasures are attached: they are called, converted and saved.

Every class of pipelines says when it is called (`__call__`), made of another (`from_pipe`) and written (`save_pretrained`); their
classes are told to once, when the first erasure is attached.
"""

from __future__ import annotations

import functools
import inspect
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from torch import nn

from efface.erasures.attachment import Attachment
from efface.erasures.binding import bind, is_compiled
from efface.erasures.fold_record import folds_in
from efface.erasures.scoped_hook import names_of
from efface.erasures.selection import in_call, require_none_chosen
from efface.erasures.state import KEY, LOCK, State, networks_in, state_of, states_around
from efface.erasures.weight_status import replaced
from efface.errors import EffaceError
from efface.models.caller import at_work, before_work, called_with, encoding, pipeline_at_work

_DRAWING: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
"""Pipeline object -> the thread in which it is being called."""
_WARNED: WeakSet[Any] = WeakSet()
"""Pipeline objects of which it was said that they have no erasure while others on their networks do."""

_TOLD_OF_EMBEDDINGS: WeakSet[Any] = WeakSet()
"""Pipeline objects of which it was said that text states were given past an erasure in a text encoder."""

_TOKEN = object()
"""Tells the wrappers of this import of efface from those of an earlier one."""
_SAVING: ContextVar[bool] = ContextVar("saving", default=False)


@contextmanager
def drawing(pipeline: Any) -> Iterator[None]:
    """Context of one call of a pipeline, which has its erasures and nobody else's.

    Raises:
        EffaceError: the pipeline is being called by another thread, or its erasures are not intact.
    """
    is_within = pipeline_at_work() is pipeline  # called by a subclass, or from a callback
    with LOCK:
        state = state_of(pipeline)
        is_attached = state is not None and bool(state.attachments)
        if is_attached:
            require_idle(pipeline, "is called")
        if is_attached and not is_within:
            _DRAWING[pipeline] = threading.get_ident()
    if is_within:
        yield
        return
    try:
        with at_work(pipeline):
            if is_attached:
                check_quickly(pipeline)
            yield
    finally:
        if is_attached:
            with LOCK:
                _DRAWING.pop(pipeline, None)


def require_idle(pipeline: Any, what: str) -> None:
    """Raise EffaceError where another thread is drawing with a pipeline object."""
    if _DRAWING.get(pipeline, threading.get_ident()) != threading.get_ident():
        raise EffaceError(
            f"this {type(pipeline).__name__} {what} while another thread draws with it: give every thread a pipeline object of its "
            f"own over the same networks, with a scheduler of its own ({type(pipeline).__name__}(**components))."
        )


def _prepare(pipeline: Any) -> None:
    """Before a pipeline works: its hooks and weights are made to say what its state says."""
    with LOCK:
        state = state_of(pipeline)
        if state is not None:
            bind(pipeline, state)
        if _policies_on(pipeline) is None:
            require_none_chosen(pipeline)
        others = [other for other in states_around(pipeline) if other is not state and len(other.pipelines)]
        if not others:
            return
        if is_compiled(pipeline):
            raise EffaceError(
                f"this {type(pipeline).__name__} shares a compiled network with a pipeline that erases {names_of(others[0])}, and its "
                "graph cannot tell pipelines apart: attach the same here, or give it a copy of its own (copy.deepcopy)."
            )
    if state is None and pipeline not in _WARNED:
        _WARNED.add(pipeline)
        names = "; ".join(names_of(other) for other in others)
        warnings.warn(
            f"this {type(pipeline).__name__} has no erasure attached, while another pipeline on the same networks erases {names}: "
            "its pictures are unprotected; attach the erasure to it too.",
            stacklevel=6,
        )


before_work(_prepare)


def watch() -> None:
    """Have every class of pipelines, loaded and to come, say when it is called, converted and saved."""
    from diffusers import DiffusionPipeline
    from diffusers.models.modeling_utils import ModelMixin

    if _is_wrapped(DiffusionPipeline, "save_pretrained"):
        return

    def added(cls: type, **options: Any) -> None:
        super(DiffusionPipeline, cls).__init_subclass__(**options)  # type: ignore[arg-type]
        watch_class(cls)

    DiffusionPipeline.__init_subclass__ = classmethod(added)  # type: ignore[assignment]
    pending = [DiffusionPipeline]
    while pending:
        cls = pending.pop()
        pending += cls.__subclasses__()
        watch_class(cls)
    _wrap(DiffusionPipeline, "from_pipe", _converted)
    _wrap(ModelMixin, "save_pretrained", _saved)
    _wrap(DiffusionPipeline, "save_pretrained", _saved)


def arrived(attachments: list[Attachment]) -> State:
    """The state of a pipeline from another process, whose classes say from now on when they are called."""
    watch()
    return State(attachments)


State.arrived = staticmethod(arrived)


def watch_class(cls: type) -> None:
    """Have the pipelines of one class say when they are called, and when they encode prompts."""
    for name, wrapper in (("__call__", _called), ("encode_prompt", _encodes)):
        owner = next((base for base in cls.__mro__ if name in vars(base)), None)
        if owner is not None:
            _wrap(owner, name, wrapper)


def _wrap(owner: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    """Put a wrapper around a method of a class, in the place of one from an earlier import of efface (a hot reload)."""
    if _is_wrapped(owner, name):
        return
    found = vars(owner)[name]
    method = getattr(found, "__func__", found)
    original = getattr(method, "_efface_original", method)
    wrapped: Any = functools.wraps(original)(wrapper(original))
    wrapped._efface_original = original
    wrapped._efface_token = _TOKEN
    setattr(owner, name, classmethod(wrapped) if isinstance(found, classmethod) else wrapped)


def _is_wrapped(owner: Any, name: str) -> bool:
    found = vars(owner)[name]
    return getattr(getattr(found, "__func__", found), "_efface_token", None) is _TOKEN


def _called(call: Callable[..., Any]) -> Callable[..., Any]:
    """A pipeline's call, which has its erasures."""

    signature = inspect.signature(call)

    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        with drawing(self), called_with(_bound(signature, self, args, kwargs)):
            if kwargs.get("prompt_embeds") is not None:
                _warn_of_embeddings(self)
            with in_call(self, _policies_on(self), call, args, kwargs):
                return call(self, *args, **kwargs)

    return called


def _encodes(encode: Callable[..., Any]) -> Callable[..., Any]:
    """A pipeline's `encode_prompt`, in which prompts and negative prompts are told apart."""
    signature = inspect.signature(encode)

    def encode_prompt(self: Any, *args: Any, **kwargs: Any) -> Any:
        with encoding(_bound(signature, self, args, kwargs)):
            return encode(self, *args, **kwargs)

    return encode_prompt


def _policies_on(pipeline: Any) -> str | None:
    """Digest of the policies attached to a pipeline; None where there are none."""
    state = state_of(pipeline)
    return next((a.erasure.by_policy for a in (state.attachments if state else ()) if a.erasure.by_policy), None)


def _bound(signature: inspect.Signature, pipeline: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call by name, those left out that are efface's own; those given by name where the call will refuse others."""
    try:
        bound = signature.bind(
            pipeline, *args, **{name: kwargs[name] for name in kwargs if name in signature.parameters}
        )
    except TypeError:
        return dict(kwargs)
    bound.apply_defaults()
    return {name: value for name, value in bound.arguments.items() if name != "self"}


def _warn_of_embeddings(pipeline: Any) -> None:
    """Warn, once a pipeline, where text states are given that an erasure of text encoders alone would have acted on."""
    state = state_of(pipeline)
    attachments = [] if state is None else state.attachments
    encoders = [part for attachment in attachments for part in attachment.erasure.parts if part.acts_in_encoders]
    if encoders and pipeline not in _TOLD_OF_EMBEDDINGS:
        _TOLD_OF_EMBEDDINGS.add(pipeline)
        names = ", ".join(erasure.names for erasure in encoders)
        warnings.warn(
            f"the erasure of {names} lives in the text encoder, and prompt_embeds were given, which it does not read again: they are "
            "erased only if they were encoded while it was attached.",
            stacklevel=4,
        )


def _converted(from_pipe: Callable[..., Any]) -> Callable[..., Any]:
    """`from_pipe`, whose new pipeline has what is attached to the old one."""

    def converted(cls: type, pipeline: Any, **kwargs: Any) -> Any:
        made = from_pipe(cls, pipeline, **kwargs)
        with LOCK:
            state = state_of(pipeline)
            if state is not None and state.attachments:
                shares = state.draws_with(getattr(made, "scheduler", None))
                (state if shares else state.fork()).add_pipeline(made)
        return made

    return converted


def _saved(save: Callable[..., Any]) -> Callable[..., Any]:
    """`save_pretrained` of pipelines and networks, which says that hooks are not saved."""

    def saved(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _SAVING.get():  # a network, as a part of its pipeline
            return save(self, *args, **kwargs)
        _warn_of_saving(self)
        token = _SAVING.set(True)
        try:
            return save(self, *args, **kwargs)
        finally:
            _SAVING.reset(token)

    return saved


def _warn_of_saving(saved: Any) -> None:
    """Warn where a pipeline or network is written whose erasure is not in its weights."""
    if isinstance(saved, nn.Module):
        unsaved = [a for state in vars(saved).get(KEY, ()) if len(state.pipelines) for a in state.unsaved]
    else:
        state = state_of(saved)
        unsaved = [] if state is None else state.unsaved
    if unsaved:
        names = ", ".join(attachment.erasure.names for attachment in unsaved)
        warnings.warn(
            f"what is saved is the model WITH {names}: the erasure is attached to the calls of this {type(saved).__name__} and is not "
            "in its weights; write a folder without it by `efface export FILE --to diffusers`, or save the erasure beside it "
            "(erasure.save).",
            stacklevel=3,
        )


def check_quickly(pipeline: Any) -> None:
    """Raise EffaceError where the weights of a pipeline were replaced since erasures were folded into them.

    `efface.check` compares every value; this looks where the weights lie, and takes microseconds. EFFACE_SELF_CHECK=0 in the
    environment leaves it out.
    """
    if os.environ.get("EFFACE_SELF_CHECK") == "0":
        return
    for name, network in networks_in(pipeline):
        folds = folds_in(network)
        if folds is not None and replaced(network):
            names = ", ".join(entry.attachment.erasure.names for entry in folds.entries)
            raise EffaceError(
                f"the weights of the {name} were replaced (loaded in place?) since the erasure of {names} was folded into them, and "
                "no longer hold it: remove it and attach it again."
            )
