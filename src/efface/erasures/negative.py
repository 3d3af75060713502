"""NegativeText: embeddings of new tokens that stand, with a word, in every negative prompt (Geom-Erasing)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from efface.erasures.erasure import Erasure
from efface.erasures.provenance import Provenance
from efface.erasures.transport import TokenReader, without_graph
from efface.errors import EffaceError
from efface.families.networks import Hook, TextInput
from efface.families.text_call import TextCall
from efface.models.caller import has_halves, pipeline_at_work
from efface.models.model import Model

UNGUIDED = (
    "a negative prompt acts through guidance alone, and this picture is drawn without: nothing is erased from it."
)


@dataclass(frozen=True, eq=False)
class NegativeText(Erasure):
    """The unconditional half of a guided step reads the caller's negative prompt, then each concept's word and its new tokens.

    No weight changes, and old embeddings stay: without guidance it does nothing, which a warning says. At a scale s, the states are
    s times as far from those of the caller's own negative prompt.
    """

    embeddings: Tensor
    """Of the new tokens (tokens width)."""
    owner: Tensor
    """Index of the concept that each is of (tokens,)."""

    kind = "negative"
    acts_on = "prompts"

    def phrase(self, model: Model) -> tuple[list[int], Tensor]:
        """The tokens of the negative prompt, with any id for the new ones, and the embeddings of all (tokens width)."""
        table, span = model.token_table(), model.token_spans()[0]
        ids: list[int] = []
        rows: list[Tensor] = []
        for number, concept in enumerate(self.provenance.concepts):
            word, own = span.ids(concept.name), self.embeddings[self.owner == number].to(table)
            ids += [*word, *word[-1:] * len(own)]
            rows += [table[word], own]
        return ids, torch.cat(rows)

    def changes(self, model: Model, scale: float) -> list[Hook]:
        """What reads the tokens of prompts, and what puts others in the unconditional half's place.

        Raises:
            EffaceError: the model has no unconditional half, or embeddings cannot be given to its text encoder.
        """
        require_negative(model)
        if scale == 0:
            return []
        span, phrase = model.token_spans()[0], self.phrase(model)
        _room(model, phrase[0])  # too long a phrase is refused now
        reader = TokenReader(span)
        negatives = [
            Hook(network.module, _Negative(reader, phrase, scale, warns=number == 0), before=True)
            for number, network in enumerate(model.networks())
        ]
        return [Hook(span.encoder, reader, before=False), *negatives]

    def tensors(self) -> dict[str, Tensor]:
        return {"embeddings": self.embeddings, "owner": self.owner}

    @classmethod
    def check(cls, tensors: dict[str, Tensor], width: int) -> None:
        """Raise EffaceError where a file holds anything but embeddings and their concepts; `width` is not used."""
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        rows = shapes.get("owner", ())
        fits = set(shapes) == {"embeddings", "owner"} and len(rows) == 1 and shapes["embeddings"][:1] == rows
        fits = fits and len(shapes["embeddings"]) == 2 and tensors["embeddings"].is_floating_point()
        if not fits or tensors["owner"].is_floating_point() or not rows[0]:
            raise EffaceError(
                f"the negative text holds {shapes}; expected embeddings and their owner: make the erasure again."
            )

    @classmethod
    def restore(cls, provenance: Provenance, tensors: dict[str, Tensor]) -> NegativeText:
        if set(tensors["owner"].tolist()) != set(range(len(provenance.concepts))):
            raise EffaceError("the new tokens of the negative text are not of its concepts: make the erasure again.")
        return cls(provenance=provenance, **tensors)


def require_negative(model: Model) -> None:
    """Raise EffaceError where a model has no negative prompt that new tokens can stand in."""
    if not model.family.takes_tokens or len(model.family.tokenizers()) != 1:
        raise EffaceError(
            f"a {model.family.name} model is not given single embeddings by efface: new tokens work on Stable Diffusion 1 and 2."
        )
    if not model.guides(float("inf")):
        raise EffaceError(
            "the model draws no unconditional half, and so has no negative prompt: choose another method."
        )


def longer(model: Model, content: tuple[int, ...], ids: list[int], embeddings: Tensor) -> Tensor:
    """Text states (tokens width) of a prompt of some tokens, of which the end is cut where it must be, and a phrase after it."""
    room = _room(model, ids)
    if len(content) > room:
        warnings.warn(
            f"the last {len(content) - room} tokens of the negative prompt are left out for what is erased.",
            stacklevel=3,
        )
    kept = list(content[:room])
    table = model.token_table()
    with torch.no_grad():
        return model.encode_tokens([[*kept, *ids]], torch.cat([table[kept], embeddings.to(table)])[None]).states[0]


def _room(model: Model, ids: list[int]) -> int:
    """Tokens that a phrase leaves to the negative prompt before it; raises EffaceError where it is too long itself."""
    room = model.max_tokens - len(ids)
    if room < 0:
        raise EffaceError(
            f"the words and new tokens of {len(ids)} positions do not fit the {model.max_tokens} that the model reads: erase fewer "
            "concepts at once, or with a coarser grid."
        )
    return room


class _Negative:
    """A hook that puts longer negative prompts in the place of a call's first half."""

    def __init__(self, reader: TokenReader, phrase: tuple[list[int], Tensor], scale: float, warns: bool):
        self.reader = reader
        self.phrase = phrase
        self.scale = scale
        self.warns = warns
        self.made: dict[tuple[int, ...], Tensor] = {}

    @without_graph
    def __call__(self, module: Any, args: Any, kwargs: Any) -> Any:
        halves, pipeline = has_halves(), pipeline_at_work()
        if halves is None or pipeline is None:
            raise EffaceError(
                "the denoiser is called by itself or by a pipeline that does not say whether it guides, so that nobody knows which "
                "text is the negative one: call a text-to-image pipeline of diffusers."
            )
        if not halves:
            if self.warns:
                warnings.warn(UNGUIDED, stacklevel=2)
            return None
        call = TextCall(module)
        text = TextInput(module, call.name, call.positions[call.name])
        return text.replace(args, kwargs, lambda states: self._replaced(pipeline, states))

    def _replaced(self, pipeline: Any, states: Tensor) -> Tensor:
        """The states of a batch (batch tokens width) with those of its first half replaced."""
        half = len(states) // 2
        rows = []
        for row in states[:half]:
            new = self._state(pipeline, row).to(row)
            before, own = row[: -len(new)], row[-len(new) :]  # what others put before a prompt stays
            rows.append(torch.cat([before, own + self.scale * (new - own)]))
        return torch.cat([torch.stack(rows), states[half:]])

    def _state(self, pipeline: Any, row: Tensor) -> Tensor:
        content = next(iter(self.reader.prompts_in(row)), None)
        if content is None:
            raise EffaceError(
                "the negative prompt was given as embeddings (negative_prompt_embeds), to which no words can be added: give it as "
                "text."
            )
        if content not in self.made:
            self.made[content] = longer(Model(pipeline), content, *self.phrase)
        return self.made[content]
