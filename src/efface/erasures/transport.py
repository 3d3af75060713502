"""Transport: how strongly an erasure acts on a prompt, by how near the prompt is to those that name its concepts.

After SPM's facilitated transport (Lyu et al., CVPR 2024, arXiv 2312.16145): γ of a concept is the larger of the cosine of text
states and the share of the tokens of its name that a prompt has.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad

from efface.concepts.sample import evenly_spaced
from efface.errors import EffaceError
from efface.families.embedding import REPLACED
from efface.families.text import TokenSpan
from efface.families.text_call import TextCall
from efface.models.model import Model

KEPT = 32
"""Retained prompts of which it is read what they have in common."""
KNOWN = 256
"""Prompts of which the tokens are remembered."""
without_graph: Any = torch.compiler.disable
"""Says of a hook that it is called, and not traced, in a compiled network."""
NEAR = 0.02
"""Relative distance up to which two text states are the same but for rounding to half precision."""


class Transport(NamedTuple):
    """Prompts and tokens that name concepts."""

    states: Tensor
    """Text states of prompts that name them (prompts tokens width)."""
    owner: Tensor
    """Index of the concept that each is of (prompts,)."""
    empty: Tensor
    """Text states of the empty prompt (tokens width); zeros where cosines are taken of states as they are."""
    common: Tensor
    """Direction, of length 1, of what retained prompts have beyond the empty one (tokens width); zeros where nothing is known."""
    tokens: Tensor
    """Tokens of each concept's name (concepts most), −1 where there are no more."""

    @classmethod
    def of(
        cls,
        model: Model,
        names: Sequence[str],
        prompts: Sequence[Sequence[str]],
        *,
        centred: bool,
        keep: Sequence[str] = (),
    ) -> Transport:
        """The transport of concepts.

        Args:
            model: encodes them.
            names: one a concept.
            prompts: that name it, some a concept.
            centred: whether what prompts have in common is taken off first: the states of the empty prompt, and what those of the
                retained ones have beyond it. Begin token, padding and sentence are nearly the same in all, so that no two are
                far apart as they are.
            keep: retained prompts.
        """
        flat = [prompt for of_one in prompts for prompt in of_one]
        chosen = evenly_spaced(keep, KEPT) if centred else []
        *own, empty = _given(model, [*flat, *chosen, ""])
        empty = empty if centred else torch.zeros_like(empty)
        beyond = sum((row - empty for row in own[len(flat) :]), torch.zeros_like(empty)).double()
        ids = [torch.tensor(sorted(set(model.token_spans()[0].ids(name)))) for name in names]
        most = max(map(len, ids))
        return cls(
            states=torch.stack(own[: len(flat)]),
            owner=torch.tensor([i for i, of_one in enumerate(prompts) for _ in of_one]),
            empty=empty.clone(),
            common=(beyond / beyond.norm().clamp(min=1e-12)).float(),
            tokens=torch.stack([pad(row, (0, most - len(row)), value=-1) for row in ids]),
        )

    def weights(self, row: Tensor, tokens: Collection[int] | None) -> Tensor:
        """γ of every concept (concepts,) for the text states of a prompt (tokens width).

        Args:
            row: the states; zeros stand for no prompt at all.
            tokens: of the prompt, special ones left out; where nobody knows them, γ is 1.
        """
        concepts = len(self.tokens)
        if not row.any():
            return torch.zeros(concepts)
        if tokens is None:
            return torch.ones(concepts)
        shares = [len(set(own) & set(tokens)) / len(own) for own in (self._tokens_of(i) for i in range(concepts))]
        parts = (self.states, row.detach().float().cpu()[None], self.empty[None], self.common[None])
        own, other, empty, common = (part.flatten(1).double() for part in _equally_long(*parts))
        own, other = (part - empty - (part - empty) @ common.T * common for part in (own, other))
        nearest = torch.zeros(concepts).scatter_reduce(0, self.owner, cosine_similarity(own, other).float(), "amax")
        return torch.maximum(nearest, torch.tensor(shares)).clamp(max=1.0)

    def _tokens_of(self, concept: int) -> list[int]:
        return [token for token in self.tokens[concept].tolist() if token >= 0]

    def check(self, width: int) -> None:
        """Raise EffaceError where the parts do not fit each other."""
        shapes = {name: tuple(part.shape) for name, part in self._asdict().items()}
        fits = (self.states.ndim, self.owner.ndim, self.empty.ndim, self.tokens.ndim) == (3, 1, 2, 2)
        fits = fits and len(self.owner) == len(self.states) > 0
        fits = fits and self.empty.shape == self.common.shape == self.states.shape[1:]
        fits = fits and all(part.is_floating_point() for part in (self.states, self.empty, self.common))
        whole = not (self.owner.is_floating_point() or self.tokens.is_floating_point())
        concepts = set(range(len(self.tokens)))
        if not fits or not whole or not concepts or {int(i) for i in self.owner} != concepts:
            raise EffaceError(
                f"the transport of the gated delta holds {shapes}, which do not fit: make the erasure again."
            )
        if not all(self._tokens_of(i) for i in concepts):
            raise EffaceError("a concept of the gated delta has no tokens: make the erasure again.")


def _equally_long(*states: Tensor) -> list[Tensor]:
    """States (… tokens width) filled up with zeros to one number of tokens."""
    longest = max(part.shape[-2] for part in states)
    return [pad(part, (0, 0, 0, longest - part.shape[-2])) for part in states]


class _GivenError(Exception):
    """The denoiser was called."""


def _given(model: Model, prompts: list[str]) -> Tensor:
    """The text states that the denoiser is given for prompts (prompts tokens width), filled up to one length."""
    denoiser = model.networks()[0].module
    call, found = TextCall(denoiser), []

    def look(module: Any, args: Any, kwargs: Any) -> None:
        found.extend(row.detach().float().cpu() for row in call.states(args, kwargs))
        raise _GivenError

    text = model.encode_in_float32(prompts)
    latents = text.states.new_zeros(len(prompts), *model.family.latent_shape(None))
    handle = denoiser.register_forward_pre_hook(look, with_kwargs=True, prepend=True)
    try:
        model.predict(latents, torch.tensor(1), text)
    except _GivenError:
        pass
    finally:
        handle.remove()
    return torch.stack(_equally_long(*found))


class TokenReader:
    """A forward hook on a text encoder that remembers which tokens the states were made of.

    The denoiser is given states alone; what a prompt is told by is the state of its last token, which depends on all of them.
    """

    def __init__(self, span: TokenSpan):
        self.end = span.tokenizer.eos_token_id
        self.special = frozenset(span.tokenizer.all_special_ids)
        self.begin = None if span.before or span.pads_left else span.begin
        """Positions before a prompt's first token; None where a template stands around it."""
        self.known: dict[tuple[int, ...], Reading] = {}

    @without_graph
    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        if not isinstance(ids, Tensor) or ids.ndim != 2 or REPLACED.get():
            return
        layers = _layers(output)
        mask = kwargs.get("attention_mask")
        for number, row in enumerate(ids.tolist()):
            last = self._last(row, None if mask is None else mask[number].tolist())
            tokens = self._content(row, last)
            states = [layer[number, last].detach().float() for layer in layers if layer.shape[1] > last]
            self.known.pop(tuple(row), None)
            if states:
                self.known[tuple(row)] = Reading(tokens, states)
        while len(self.known) > max(KNOWN, len(ids)):
            del self.known[next(iter(self.known))]

    def _content(self, row: list[int], last: int) -> tuple[int, ...]:
        """A prompt's own tokens, of which one may be special elsewhere: "!" pads for Stable Diffusion 2."""
        if self.begin is None:
            return tuple(token for token in row[: last + 1] if token not in self.special)
        return tuple(row[self.begin : last + (row[last] not in self.special)])

    def _last(self, row: list[int], mask: list[int] | None) -> int:
        """Where a prompt ends."""
        if mask is not None and 1 in mask:
            return len(mask) - 1 - mask[::-1].index(1)
        return row.index(self.end) if self.end in row else len(row) - 1

    def prompts_in(self, row: Tensor) -> list[tuple[int, ...]]:
        """Content tokens of the prompts whose states (tokens width) these are, the nearest first: of one prompt, of several where a
        program put those of several one after the other, of none for states that it did not see being made."""
        wide = row.detach().float()
        found = []
        for reading in reversed(self.known.values()):
            for state in reading.states:
                last = state.to(wide)
                if len(last) <= wide.shape[1]:
                    distance = (wide[:, : len(last)] - last).norm(dim=1).min() / last.norm().clamp(min=1e-12)
                    found.append((float(distance), reading.tokens))
        return [tokens for distance, tokens in sorted(found, key=lambda pair: pair[0]) if distance < NEAR]

    def tokens_of(self, row: Tensor) -> set[int] | None:
        """All content tokens of these prompts; None where there are none."""
        prompts = self.prompts_in(row)
        return {token for tokens in prompts for token in tokens} if prompts else None


class Reading(NamedTuple):
    """A prompt as a text encoder read it."""

    tokens: tuple[int, ...]
    """Its content tokens."""
    states: list[Tensor]
    """The state of its last token (width,), of every layer that was returned."""


def _layers(output: Any) -> list[Tensor]:
    """The states (batch tokens width) that a text encoder returned, of all the layers that it did return."""
    parts = [output] if isinstance(output, Tensor) else [output[0], *(getattr(output, "hidden_states", None) or ())]
    return [part for part in parts if isinstance(part, Tensor) and part.ndim == 3]
