"""Which pipeline is at work: networks that several pipelines share are told apart by who calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

_AT_WORK: ContextVar[Any] = ContextVar("at_work", default=None)
_DRAWING: ContextVar[Drawing | None] = ContextVar("drawing", default=None)
_NEGATIVE: ContextVar[bool] = ContextVar("negative", default=False)
_PICTURE: ContextVar[object] = ContextVar("picture", default=None)
_ARGUMENTS: ContextVar[Mapping[str, Any] | None] = ContextVar("arguments", default=None)
_ASIDE: ContextVar[bool] = ContextVar("aside", default=False)
_ENCODING: ContextVar[Encoding | None] = ContextVar("encoding", default=None)
_ENCODED: ContextVar[Encoded | None] = ContextVar("encoded", default=None)
_LISTENERS: list[Callable[[Any], None]] = []


class Drawing(NamedTuple):
    """What is known of the denoiser's calls where efface draws by itself, or asks for a single prediction."""

    halves: bool
    """Whether an unconditional half comes before the conditional one."""
    guidance: float | None = None
    """Guidance scale; None for a single prediction, which is part of no picture."""
    negative: str | None = None
    """Negative prompt."""
    picture: object = None
    """What tells the pictures that are drawn together from others; None for a single prediction."""
    last: float | None = None
    """Timestep of the picture's last step; None for a single prediction."""


class Encoding:
    """One call of a pipeline's `encode_prompt`, in which every text encoder reads the prompts first and negative prompts then.

    Args:
        arguments: of the call, by name.
        all_negative: whether what it is given as a prompt is a negative one.
    """

    def __init__(self, arguments: Mapping[str, Any], *, all_negative: bool = False):
        self.arguments = arguments
        self.all_negative = all_negative
        self.read: dict[int, int] = {}

    def is_negative(self, reader: object) -> bool:
        """Whether what a text encoder reads now is negative text; asked once for each of its calls by each reader."""
        before = self.read.get(id(reader), int(self.arguments.get("prompt_embeds") is not None))
        self.read[id(reader)] = before + 1
        return self.all_negative or before > 0


class Encoded:
    """What was encoded so far in one call of a pipeline."""

    def __init__(self, arguments: Mapping[str, Any]):
        self.outside = Encoding(arguments)
        """For text encoders that are called past `encode_prompt`."""
        self.count = 0

    def begin(self, arguments: Mapping[str, Any]) -> Encoding:
        """The next call of `encode_prompt`; that of some pipelines takes no negative prompt, and is called again for it."""
        self.count += 1
        again = self.count > 1 and "negative_prompt" not in arguments
        negatives = _texts(self.outside.arguments.get("negative_prompt"))
        return Encoding(arguments, all_negative=again and set(_texts(arguments.get("prompt"))) <= set(negatives))


def _texts(given: Any) -> list[str]:
    """The texts of an argument; the empty one where none was given."""
    return [given or ""] if given is None or isinstance(given, str) else list(given)


def pipeline_at_work() -> Any:
    """The pipeline whose call this thread is in; None where a network is called by itself."""
    return _AT_WORK.get()


def before_work(listener: Callable[[Any], None]) -> None:
    """Have `listener(pipeline)` called before a pipeline begins to work; what it raises ends the call."""
    _LISTENERS.append(listener)


@contextmanager
def at_work(pipeline: Any, *, told: bool = True) -> Iterator[None]:
    """Context in which the networks that are called are called for a pipeline; `told` is whether listeners hear of it."""
    if _AT_WORK.get() is pipeline:
        yield
        return
    for listener in _LISTENERS if told else ():
        listener(pipeline)
    token = _AT_WORK.set(pipeline)
    try:
        yield
    finally:
        _AT_WORK.reset(token)


@contextmanager
def called_with(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Context of a pipeline's own call, with its arguments by name, defaults included."""
    token, own, picture = _ARGUMENTS.set(arguments), _DRAWING.set(None), _PICTURE.set(object())
    encoded = _ENCODED.set(Encoded(arguments))
    try:
        yield
    finally:
        _ENCODED.reset(encoded)
        _PICTURE.reset(picture)
        _DRAWING.reset(own)
        _ARGUMENTS.reset(token)


def call_arguments() -> Mapping[str, Any] | None:
    """The arguments of the pipeline's own call that this thread is in; None where it is in none, or efface draws."""
    return _ARGUMENTS.get()


def is_aside() -> bool:
    """Whether a network is being called for a guard, which has a question of its own: guards are off meanwhile, and edits of text."""
    return _ASIDE.get()


@contextmanager
def aside() -> Iterator[None]:
    """Context in which networks are called for a guard."""
    token = _ASIDE.set(True)
    try:
        yield
    finally:
        _ASIDE.reset(token)


@contextmanager
def encoding(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Context of a pipeline's `encode_prompt`, with its arguments by name, defaults included."""
    if _ENCODING.get() is not None:  # one that calls another
        yield
        return
    within = _ENCODED.get()
    token = _ENCODING.set(Encoding(arguments) if within is None else within.begin(arguments))
    try:
        yield
    finally:
        _ENCODING.reset(token)


def encoding_at_work() -> Encoding | None:
    """The call of `encode_prompt` that this thread is in, or the pipeline's own call where text encoders are called past it; None
    where it is in neither."""
    found, within = _ENCODING.get(), _ENCODED.get()
    return found if found is not None or within is None else within.outside


@contextmanager
def in_halves(
    guided: bool,
    *,
    guidance: float | None = None,
    negative: str | None = None,
    picture: object = None,
    last: float | None = None,
    unless_said: bool = False,
) -> Iterator[None]:
    """Context in which the denoiser is known to be given an unconditional half before the conditional one, or none.

    Args:
        guided: whether there is one.
        guidance: scale with which a picture is drawn; None for a single prediction.
        negative: prompt of the unconditional half.
        picture: something that the pictures drawn together have in common, and no others.
        last: timestep of their last step.
        unless_said: leave it to an outer context where there is one.
    """
    if unless_said and _DRAWING.get() is not None:
        yield
        return
    token = _DRAWING.set(Drawing(halves=guided, guidance=guidance, negative=negative, picture=picture, last=last))
    try:
        yield
    finally:
        _DRAWING.reset(token)


@contextmanager
def negative_text() -> Iterator[None]:
    """Context in which what the text encoders read is a negative prompt."""
    token = _NEGATIVE.set(True)
    try:
        yield
    finally:
        _NEGATIVE.reset(token)


def is_negative_text() -> bool:
    """Whether efface is encoding a negative prompt."""
    return _NEGATIVE.get()


def drawing_by_efface() -> Drawing | None:
    """What efface's own drawing, or its single prediction, says of the denoiser's call; None where it is neither."""
    return _DRAWING.get()


def picture_at_work() -> object:
    """Something that all calls of the denoiser for the same pictures have in common; None where a single prediction is asked for."""
    said = _DRAWING.get()
    return _PICTURE.get() if said is None else said.picture


def has_halves() -> bool | None:
    """Whether the first half of the rows that the denoiser is given now is the unconditional one; None where neither efface's own
    drawing nor the pipeline at work says so."""
    said = _DRAWING.get()
    if said is not None:
        return said.halves
    return getattr(pipeline_at_work(), "do_classifier_free_guidance", None)
