"""Text as a family encodes it: states, and the spans of tokens that they come from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Text(NamedTuple):
    """Encoded prompts."""

    states: Tensor
    """What the denoiser takes (batch tokens width)."""
    pooled: Tensor | None
    """One vector a prompt (batch width), where the family has one."""
    mask: Tensor
    """True where a token belongs to the prompt, its begin and end tokens and its template included (batch tokens)."""
    last: Tensor
    """Index of each prompt's last content token in the first span, 0 (the begin token) for an empty prompt (batch)."""
    truncated: tuple[str, ...]
    """End of each prompt that the tokenizer cut, "" where it cut nothing."""
    extra: Tensor | None = None
    """What else a family conditions on, one row a prompt (batch anything)."""

    def part(self, rows: slice) -> Text:
        """Some of the prompts."""
        return Text(
            states=self.states[rows],
            pooled=None if self.pooled is None else self.pooled[rows],
            mask=self.mask[rows],
            last=self.last[rows],
            truncated=self.truncated[rows],
            extra=None if self.extra is None else self.extra[rows],
        )

    def repeat(self, count: int) -> Text:
        """A batch of `count` rows, all of them this one prompt."""

        def expand(rows: Tensor) -> Tensor:
            return rows.expand(count, *rows.shape[1:])

        return Text(
            states=expand(self.states),
            pooled=None if self.pooled is None else expand(self.pooled),
            mask=expand(self.mask),
            last=expand(self.last),
            truncated=self.truncated * count,
            extra=None if self.extra is None else expand(self.extra),
        )

    def behind(self, rows: Tensor) -> Text:
        """The same prompts behind some more states (rows width), which every prompt begins with."""
        more = rows.to(self.states).expand(len(self.states), *rows.shape)
        return self._replace(
            states=torch.cat([more, self.states], dim=1),
            mask=torch.cat([self.mask.new_ones(len(self.mask), len(rows)), self.mask], dim=1),
            last=self.last + len(rows),
        )


def concatenate(texts: Sequence[Text]) -> Text:
    """Several encoded prompts as one batch; shorter ones are padded with zeros that the mask leaves out."""
    longest = max(text.states.shape[1] for text in texts)

    def pad(text: Text) -> Text:
        missing = longest - text.states.shape[1]
        if not missing:
            return text
        states = nn.functional.pad(text.states, (0, 0, 0, missing))
        return text._replace(states=states, mask=nn.functional.pad(text.mask, (0, missing)))

    padded = [pad(text) for text in texts]
    return Text(
        states=torch.cat([text.states for text in padded]),
        pooled=_cat_if_all([text.pooled for text in padded]),
        mask=torch.cat([text.mask for text in padded]),
        last=torch.cat([text.last for text in padded]),
        truncated=sum((text.truncated for text in padded), ()),
        extra=_cat_if_all([text.extra for text in padded]),
    )


def _cat_if_all(parts: Sequence[Tensor | None]) -> Tensor | None:
    """The parts as one tensor; None where any is missing."""
    present = [part for part in parts if part is not None]
    return torch.cat(present) if len(present) == len(parts) else None


def said(text: Text, prompts: Sequence[str]) -> Text:
    """The same text, after a warning for every prompt of which the end was cut."""
    for prompt, rest in zip(prompts, text.truncated, strict=False):
        if rest:
            warnings.warn(
                f"the prompt {prompt[:60]!r} is longer than the model reads: {rest[:200]!r} is left out.", stacklevel=3
            )
    return text


def converted(pipeline: Any, tokenizer: Any) -> Callable[[str], str]:
    """What a pipeline does with a prompt before a tokenizer reads it: a textual inversion of several vectors is written out."""
    if all(kind.__name__ != "TextualInversionLoaderMixin" for kind in type(pipeline).__mro__):
        return str
    convert: Any = pipeline.maybe_convert_prompt
    return lambda prompt: convert(prompt, tokenizer)


class TokenSpan(NamedTuple):
    """A stretch of the token axis that one tokenizer fills; Stable Diffusion 3 has two of them."""

    tokenizer: Any
    """Turns prompts into tokens."""
    encoder: nn.Module
    """The text encoder that reads them."""
    length: int
    """Positions of the token axis that it fills."""
    start: int = 0
    """Where they begin."""
    begin: int = 1
    """Positions before the prompt's first token: begin tokens and what is left of a template."""
    end: int = 1
    """Positions that follow its last token at least: end tokens and the rest of a template."""
    before: str = ""
    """What stands before the prompt in its template; it may merge with the prompt's first letters."""
    pads_left: bool = False
    """Whether padding stands before the prompt."""
    clean: Callable[[str], str] = str
    """What the pipeline does with a prompt before it is tokenized."""

    @property
    def max_tokens(self) -> int:
        """Most content tokens of a prompt, its begin and end tokens and its template left out."""
        return self.length - self.begin - self.end

    def ids(self, text: str) -> list[int]:
        """The tokens of a prompt, those of its template left out; the first may have merged with the template's last."""
        template = self._tokenize("")
        whole = self._tokenize(text)
        differing = (i for i, (a, b) in enumerate(zip(template, whole, strict=False)) if a != b)
        return whole[next(differing, min(len(template), len(whole))) :]

    def _tokenize(self, text: str) -> list[int]:
        """The tokens of a template's beginning and a text."""
        return self.tokenizer(self.before + (self.clean(text) if text else ""), add_special_tokens=False).input_ids

    def _added_tokens(self, text: str) -> int:
        """By how many tokens a text makes its template longer."""
        return len(self._tokenize(text)) - len(self._tokenize(""))

    def content_length(self, text: str) -> int:
        """Content tokens of a text, at most `max_tokens`."""
        return min(self._added_tokens(text), self.max_tokens)

    def position(self, text: str, prompt: str | None = None) -> int:
        """Where the last token of `text` lies, counted from `start`; the one before the first for an empty text.

        `prompt` is what begins with it, by default the text itself: where padding comes first, all depends on its length.
        """
        index = max(0, self.begin - 1 + self.content_length(text))
        if not self.pads_left:
            return index
        return index + self.length - self.full_length(text if prompt is None else prompt)

    def full_length(self, prompt: str) -> int:
        """Positions of a prompt with its template and its end tokens."""
        return self.begin + self.content_length(prompt) + self.end

    def truncated(self, prompt: str) -> str:
        """The end of a prompt that no longer fits, "" when it all fits."""
        ids = self.ids(prompt)
        over = self._added_tokens(prompt) - self.max_tokens
        return self.tokenizer.decode(ids[len(ids) - over :]).strip() if over > 0 else ""

    def words(self) -> dict[int, str]:
        """Tokens that are whole words of at least three small letters, whatever mark the vocabulary gives them."""
        vocabulary = self.tokenizer.get_vocab()
        ends = any(token.endswith("</w>") for token in vocabulary)
        mark = next((m for m in ("▁", "Ġ") if any(token.startswith(m) for token in vocabulary)), "")
        words = {}
        for token, number in vocabulary.items():
            word = token.removesuffix("</w>") if ends else token.removeprefix(mark)
            is_whole = token != word or not (ends or mark)
            if is_whole and len(word) > 2 and word.isascii() and word.isalpha() and word.islower():
                words[number] = word
        return words
