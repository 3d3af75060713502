"""Guards on text states: tokens are known at the text encoder, and states are changed at the denoiser's door while the noise lasts."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from efface.erasures.guards.call import CLOSE, LATE, Call, without_graph
from efface.erasures.guards.fresh import Fresh
from efface.erasures.guards.stream import Edit, Stream
from efface.erasures.guards.turn import Follower, OddRowsError, Turn, model_at_work, turn_of, warn_once
from efface.erasures.selection import without_policy
from efface.erasures.transport import TokenReader
from efface.errors import EffaceError
from efface.families.networks import Hook, TextInput
from efface.families.text import TokenSpan
from efface.families.text_call import TextCall
from efface.models.caller import aside, at_work, call_arguments, is_aside, picture_at_work
from efface.models.model import Model, Text
from efface.models.precision import on_cpu

UNKNOWN = (
    "no prompt was seen from which these text states come (prompt_embeds that were encoded before the guard was attached, or more "
    "than 256 prompts ago?): encode them with the pipeline while it is attached, or give prompts."
)
PASSED = (
    "the first step of this call is taken at {first:.0%} of the schedule by its noise level, where the guard's window of {window:.0%} "
    "is over: it changes nothing in this picture. Begin earlier (a larger strength), or take a larger window."
)
ESCAPED = "text reaches the denoiser that comes from no tokens, such as an attack's embeddings: a guard on text cannot act on them."
KNOWN = 256
"""Prompts of which the edit is remembered."""


class TextRule(ABC):
    """A rule that changes the text states of prompts."""

    phrases: tuple[str, ...]
    """Texts of the concept."""

    @abstractmethod
    def edit(self, words: Words, stream: Stream, ids: Sequence[int]) -> Edit | None:
        """What happens to a prompt of some content tokens in a stream; None leaves it."""

    def require(self, model: Model) -> None:
        """Raise EffaceError where a model reads prompts in a way that the rule does not know."""
        spans = model.token_spans()
        if any(span.before or span.pads_left for span in spans) or not model.family.takes_rows:
            raise EffaceError(
                f"{model.family.name} reads prompts inside a template, or by two encoders at two doors, where a guard on text does "
                "not know the prompt's own tokens: choose a guard on the denoiser's output, such as sld."
            )

    def hooks(self, model: Model, scale: float, vectors: Mapping[str, Tensor]) -> list[Hook]:
        """Readers on the text encoders, and the door; none at a scale of 0."""
        self.require(model)
        if scale == 0 or not self.phrases:
            return []
        spans = model.token_spans()
        readers = [PromptReader(span) for span in spans]
        reading = [Hook(span.encoder, reader, before=False) for span, reader in zip(spans, readers, strict=True)]
        made = Made(self, spans, readers)
        doors = [
            Hook(network.module, DoorHook(made, scale, beside=n > 0), before=True)
            for n, network in enumerate(model.networks())
        ]
        return [*reading, *doors]


class PromptReader(TokenReader):
    """A reader of tokens that is deaf while guards ask for texts of their own."""

    @without_graph
    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if not is_aside():
            super().__call__(module, args, kwargs, output)


class Words:
    """A model's text states, asked for with guards off.

    Args:
        model: whose text encoders answer.
        known: pooled phrases that were asked for before, by stream; those asked for now are added.
    """

    def __init__(self, model: Model, known: dict[tuple[int, tuple[str, ...]], Tensor] | None = None):
        self.model = model
        self.known = {} if known is None else known

    def of(self, prompts: Sequence[str]) -> Text:
        """Encoded prompts."""
        with warnings.catch_warnings(), aside(), without_policy(), at_work(self.model.pipeline, told=False):
            warnings.filterwarnings("ignore", "the prompt .* is longer")
            return self.model.encode_in_float32(list(prompts))

    def without(self, stream: Stream, ids: Sequence[int], kept: Sequence[Sequence[int]]) -> list[Tensor]:
        """Text states (tokens width) of parts of a prompt's content tokens."""
        if self.model.family.takes_tokens:
            with torch.no_grad(), aside(), without_policy(), at_work(self.model.pipeline, told=False):
                return list(self.model.encode_tokens([list(part) for part in kept]).states)
        return list(self.of([stream.span.tokenizer.decode(part) for part in kept]).states)

    def phrases(self, stream: Stream, phrases: Sequence[str]) -> Tensor:
        """Pooled vectors (phrases width) in float64."""
        key = (stream.number, tuple(phrases))
        if key not in self.known:
            states = self.of(phrases).states
            counts = [stream.span.content_length(phrase) for phrase in phrases]
            rows = [stream.pooled(row, n) for row, n in zip(states, counts, strict=True)]
            self.known[key] = on_cpu(torch.stack(rows))
        return self.known[key]


class Made:
    """What a rule has made of the prompts that its readers saw, for all networks that they enter."""

    def __init__(self, rule: TextRule, spans: Sequence[TokenSpan], readers: Sequence[PromptReader]):
        self.rule = rule
        self.streams = [Stream(span, number) for number, span in enumerate(spans)]
        self.readers = readers
        self.edits: dict[tuple[int, tuple[int, ...]], Edit | None] = {}
        self.known: dict[tuple[int, tuple[str, ...]], Tensor] = {}
        self.fresh = Fresh()
        self.said: set[str] = set()

    def renew(self, model: Model) -> None:
        """Forget what was made of text encoders that are other ones now."""
        if self.fresh.has_changed(model):
            self.edits.clear()
            self.known.clear()

    def edits_of(self, model: Model, row: Tensor) -> list[Edit]:
        """What happens to the text states (tokens width) of a row."""
        self._require_whole(row)
        found = [
            self._edit_of(model, stream, reader, row) for stream, reader in zip(self.streams, self.readers, strict=True)
        ]
        return [edit for edit in found if edit is not None and len(edit.positions)]

    def _edit_of(self, model: Model, stream: Stream, reader: PromptReader, row: Tensor) -> Edit | None:
        span = stream.span
        found = reader.prompts_in(row[span.start : span.start + span.length].detach())
        if not found:
            self._escaped()
            return None
        key = (stream.number, found[0])
        if key not in self.edits:
            if len(self.edits) >= KNOWN:
                del self.edits[next(iter(self.edits))]
            self.edits[key] = self.rule.edit(Words(model, self.known), stream, found[0]) if found[0] else None
        return self.edits[key]

    def _require_whole(self, row: Tensor) -> None:
        """Raise EffaceError for a prompt that was put together of several, whose end no edit would reach."""
        length = max(stream.span.start + stream.span.length for stream in self.streams)
        if all(stream.causal for stream in self.streams) and len(row) > length:
            raise EffaceError(
                f"the text states have {len(row)} positions where the text encoder reads {length}: a prompt put together of several "
                "is not known to a guard on text; choose a guard on the denoiser's output, such as sld, or a map, such as rece."
            )

    def _escaped(self) -> None:
        """Text that no prompt was seen for: refused in a pipeline's own call, said elsewhere."""
        if call_arguments() is not None:
            raise EffaceError(UNKNOWN)
        warn_once(self, ESCAPED)


class DoorHook:
    """A hook before the denoiser, or a ControlNet beside it, that changes the states of the conditional rows."""

    def __init__(self, made: Made, scale: float, beside: bool = False):
        self.made = made
        self.scale = scale
        self.beside = beside
        self.follower = Follower()
        self.picture: object = None
        self.first = 0.0
        """How much of the schedule was over at the picture's first step."""

    @without_graph
    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if is_aside():
            return None
        model = model_at_work()
        self.made.renew(model)
        call = Call(model, module, args, kwargs)
        turn = self._turn(model, module, args, kwargs, call)
        if turn.way == "unconditional":
            self.follower.end()
            return None
        if turn.way == "conditional":
            self.follower.begin(call.level, call.latents)
        if picture_at_work() is not self.picture:
            self.picture, self.first = picture_at_work(), call.share
        text = TextCall(module)
        door = TextInput(module, text.name, text.positions[text.name])
        edited = self._edited(model, text.states(args, kwargs), turn, call)
        return None if edited is None else door.replace(args, kwargs, lambda old: torch.stack(edited).to(old))

    def _turn(self, model: Model, module: nn.Module, args: Any, kwargs: Any, call: Call) -> Turn:
        try:
            return turn_of(model, module, args, kwargs, call.level, self.follower)
        except OddRowsError:
            if not self.beside:
                raise
            every = slice(0, len(call.latents))  # a ControlNet that guesses is given the conditional rows alone
            return Turn("unguided", every, slice(0, 0), guidance=None, negative=None, on_conditional=True)

    def _edited(self, model: Model, states: list[Tensor], turn: Turn, call: Call) -> list[Tensor] | None:
        """The states of every row; None where none of them changes."""
        rows = list(states)
        changed = False
        for number in range(*turn.conditional.indices(len(states))):
            for edit in self.made.edits_of(model, rows[number]):
                self._say_where_it_never_acts(edit, call)
                if edit.acts(call.share):
                    rows[number] = edit.apply(rows[number], self.scale)
                    changed = True
        return rows if changed else None

    def _say_where_it_never_acts(self, edit: Edit, call: Call) -> None:
        if self.picture is None:  # a single prediction
            return
        if edit.late and call.last < edit.share - CLOSE:
            warn_once(self.made, LATE.format(last=call.last, begins=edit.share))
        if not edit.late and 0 < edit.share <= self.first + CLOSE:
            warn_once(self.made, PASSED.format(first=self.first, window=edit.share))


def projector(columns: Tensor, tolerance: float = 1e-6) -> Tensor:
    """The orthogonal projector (width width) onto the span of some columns (width count), in float64; rank by singular values."""
    u, s, _ = torch.linalg.svd(columns.double(), full_matrices=False)
    basis = u[:, s > tolerance * s.max().clamp(min=1e-300)] if s.numel() else u
    return basis @ basis.T


def positions_of(ids: Sequence[int], words: Sequence[Sequence[int]]) -> list[int]:
    """Indices of the tokens of every occurrence of some words, each a run of tokens."""
    found: set[int] = set()
    for word in words:
        for start in range(len(ids) - len(word) + 1):
            if len(word) and list(ids[start : start + len(word)]) == list(word):
                found |= set(range(start, start + len(word)))
    return sorted(found)


__all__ = ["DoorHook", "TextRule", "Words", "positions_of", "projector"]
