"""Text as a family encodes it: states, and the streams of tokens that they come from."""

from __future__ import annotations

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
    """Index of each prompt's last content token in the first stream, 0 (the begin token) for an empty prompt (batch)."""
    cut: tuple[str, ...]
    """What the tokenizer cut off the end of each prompt, "" where nothing."""
    extra: Tensor | None = None
    """What else a family conditions on, one row a prompt (batch anything)."""

    def repeated(self, count: int) -> Text:
        """The same, its one prompt repeated."""
        rows = [None if part is None else part.expand(count, *part.shape[1:]) for part in self._tensors()]
        return Text(*rows[:4], cut=self.cut * count, extra=rows[4])  # type: ignore[arg-type]

    def _tensors(self) -> tuple[Tensor | None, ...]:
        return self.states, self.pooled, self.mask, self.last, self.extra


def joined(texts: Sequence[Text]) -> Text:
    """Several encoded prompts as one batch; shorter ones are padded with zeros that the mask leaves out."""
    longest = max(text.states.shape[1] for text in texts)

    def padded(text: Text) -> Text:
        missing = longest - text.states.shape[1]
        if not missing:
            return text
        states = nn.functional.pad(text.states, (0, 0, 0, missing))
        return text._replace(states=states, mask=nn.functional.pad(text.mask, (0, missing)))

    columns = zip(*(padded(text)._tensors() for text in texts), strict=True)
    rows = [None if any(part is None for part in column) else torch.cat(column) for column in columns]  # type: ignore[arg-type]
    return Text(*rows[:4], cut=sum((text.cut for text in texts), ()), extra=rows[4])  # type: ignore[arg-type]


class Stream(NamedTuple):
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
    padded_left: bool = False
    """Whether padding stands before the prompt."""
    clean: Callable[[str], str] = str
    """What the pipeline does with a prompt before it is tokenized."""

    @property
    def room(self) -> int:
        """Tokens that a prompt may have."""
        return self.length - self.begin - self.end

    def ids(self, text: str) -> list[int]:
        """The tokens of a prompt, those of its template left out; the first may have merged with the template's last."""
        before, whole = self._read(""), self._read(text)
        shared = next(
            (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), min(len(before), len(whole))
        )
        return whole[shared:]

    def _read(self, text: str) -> list[int]:
        """The tokens of a template's beginning and a text."""
        return self.tokenizer(self.before + (self.clean(text) if text else ""), add_special_tokens=False).input_ids

    def filled(self, text: str) -> int:
        """By how many tokens a text makes its template longer, at most the room there is."""
        return min(len(self._read(text)) - len(self._read("")), self.room)

    def position(self, text: str, prompt: str | None = None) -> int:
        """Where the last token of `text` lies, counted from `start`; the one before the first for an empty text.

        `prompt` is what begins with it, by default the text itself: where padding comes first, all depends on its length.
        """
        place = max(0, self.begin - 1 + self.filled(text))
        return place + self.length - self.count(text if prompt is None else prompt) if self.padded_left else place

    def count(self, prompt: str) -> int:
        """Positions that a prompt fills, its template and end included."""
        return self.begin + self.filled(prompt) + self.end

    def cut_off(self, prompt: str) -> str:
        """The end of a prompt that no longer fits, "" when it all fits."""
        ids = self.ids(prompt)
        over = len(self._read(prompt)) - len(self._read("")) - self.room
        return self.tokenizer.decode(ids[len(ids) - over :]).strip() if over > 0 else ""

    def words(self) -> dict[int, str]:
        """Tokens that are whole words of at least three small letters, whatever mark the vocabulary gives them."""
        vocabulary = self.tokenizer.get_vocab()
        ends = any(token.endswith("</w>") for token in vocabulary)
        mark = next((m for m in ("▁", "Ġ") if any(token.startswith(m) for token in vocabulary)), "")
        found = {}
        for token, number in vocabulary.items():
            word = token.removesuffix("</w>") if ends else token.removeprefix(mark)
            marked = token != word or not (ends or mark)
            if marked and len(word) > 2 and word.isascii() and word.isalpha() and word.islower():
                found[number] = word
        return found
