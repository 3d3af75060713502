"""Guards on text states: tokens are known at the text encoder, and states are changed at the denoiser's door while the noise lasts."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from efface.erasures.guards.aside import aside, is_aside
from efface.erasures.guards.output import Call, without_graph
from efface.erasures.guards.turn import Follower, Turn, model_at_work, turn_of
from efface.erasures.selection import without_policy
from efface.erasures.transport import TokenReader
from efface.errors import EffaceError
from efface.families.networks import Hook, TextInput
from efface.families.text import TokenSpan
from efface.families.text_call import TextCall
from efface.models.caller import at_work, call_arguments
from efface.models.model import Model, Text
from efface.models.precision import on_cpu

UNKNOWN = (
    "no prompt was seen from which these text states come (prompt_embeds that were encoded before the guard was attached?): encode "
    "them with the pipeline while it is attached, or give prompts."
)
ESCAPED = "text reaches the denoiser that comes from no tokens, such as an attack's embeddings: a guard on text cannot act on them."
KNOWN = 256
"""Prompts of which the edit is remembered."""


class Stream(NamedTuple):
    """A stretch of the token axis, and a prompt in it."""

    span: TokenSpan
    number: int
    """Of the span among the family's."""

    @property
    def causal(self) -> bool:
        """Whether the end token sums the prompt up, as in CLIP; elsewhere the mean of the content does."""
        return self.span.begin == 1

    def content(self, count: int) -> range:
        """Positions of so many content tokens on the token axis."""
        start = self.span.start + self.span.begin
        return range(start, start + min(count, self.span.max_tokens))

    def pooled(self, states: Tensor, count: int) -> Tensor:
        """One vector (width,) of the states (tokens width) of a prompt of so many content tokens."""
        rows = self.content(count)
        if self.causal or not rows:
            return states[min(rows.stop, self.span.start + self.span.length - 1)]
        return states[rows.start : rows.stop].mean(0)


class Edit(NamedTuple):
    """What happens to the states of one prompt in one stream: rows become rows · matrix."""

    positions: Tensor
    """Of the rows on the token axis (rows,); none where the prompt stays."""
    matrix: Tensor
    """(width width), applied from the right; where it is `mixing`, (rows rows), from the left."""
    share: float
    """Share of the schedule up to which, or with `late` from which, it acts."""
    mixing: bool = False
    late: bool = False

    def acts(self, share: float) -> bool:
        """Whether it acts where so much of the schedule is over."""
        return len(self.positions) > 0 and (share >= self.share - 1e-6 if self.late else share < self.share - 1e-6)

    def apply(self, row: Tensor, scale: float) -> Tensor:
        """Edited states (tokens width) of a prompt; gradients pass."""
        at = self.positions.to(row.device)
        old = row[at].float()
        matrix = self.matrix.to(old)
        new = matrix @ old if self.mixing else old @ matrix
        return row.index_copy(0, at, (old + scale * (new - old)).to(row.dtype))


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
        readers = [PromptReader(span) for span in model.token_spans()]
        denoiser = model.networks()[0].module
        reading = [
            Hook(span.encoder, reader, before=False) for span, reader in zip(model.token_spans(), readers, strict=True)
        ]
        return [*reading, Hook(denoiser, DoorHook(self, readers, scale), before=True)]


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


class DoorHook:
    """A hook before the denoiser that changes the states of the conditional rows."""

    def __init__(self, rule: TextRule, readers: Sequence[PromptReader], scale: float):
        self.rule = rule
        self.readers = readers
        self.scale = scale
        self.follower = Follower()
        self.edits: dict[tuple[int, tuple[int, ...]], Edit | None] = {}
        self.known: dict[tuple[int, tuple[str, ...]], Tensor] = {}
        self.said: set[str] = set()

    @without_graph
    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        if is_aside():
            return None
        model = model_at_work()
        call = Call(model, module, args, kwargs)
        turn = turn_of(model, module, args, kwargs, call.level, self.follower)
        if turn.way == "unconditional":
            self.follower.end()
            return None
        if turn.way == "conditional":
            self.follower.begin(call.level, call.latents)
        text = TextCall(module)
        door = TextInput(module, text.name, text.positions[text.name])
        states = text.states(args, kwargs)
        edited = self._edited(model, states, turn, call.share)
        return None if edited is None else door.replace(args, kwargs, lambda old: torch.stack(edited).to(old))

    def _edited(self, model: Model, states: list[Tensor], turn: Turn, share: float) -> list[Tensor] | None:
        """The states of every row; None where none of them changes."""
        rows = list(states)
        changed = False
        for number in range(*turn.conditional.indices(len(states))):
            for span, reader in zip(range(len(self.readers)), self.readers, strict=True):
                stream = Stream(model.token_spans()[span], span)
                edit = self._edit_of(model, stream, reader, rows[number])
                if edit is not None and edit.acts(share):
                    rows[number] = edit.apply(rows[number], self.scale)
                    changed = True
        return rows if changed else None

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

    def _escaped(self) -> None:
        """Text that no prompt was seen for: refused in a pipeline's own call, said elsewhere."""
        if call_arguments() is not None:
            raise EffaceError(UNKNOWN)
        if ESCAPED not in self.said:
            self.said.add(ESCAPED)
            warnings.warn(ESCAPED, stacklevel=4)


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


__all__ = ["DoorHook", "Edit", "Stream", "TextRule", "Words", "positions_of", "projector"]
