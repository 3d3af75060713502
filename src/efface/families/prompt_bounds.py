"""Where a prompt lies among the positions that a text encoder is given: what is padding, and what every prompt begins with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.errors import EffaceError


class Bounds(NamedTuple):
    """The positions of a batch of prompts that count: from `first` up to `stop`, which is left out."""

    first: Tensor
    """Of every prompt (batch,)."""
    stop: Tensor
    """Of every prompt (batch,)."""

    def inside(self, tokens: int, begin: int) -> Tensor:
        """Positions of the prompts themselves, their end tokens included (batch tokens).

        Args:
            tokens: positions of the batch.
            begin: positions before a prompt's first token, which are the same in all: begin token and template.
        """
        return self.after(tokens, begin) & (torch.arange(tokens, device=self.stop.device) < self.stop[:, None])

    def after(self, tokens: int, begin: int) -> Tensor:
        """Positions from the prompts' first tokens on, padding behind them included (batch tokens); arguments as of `inside`."""
        return torch.arange(tokens, device=self.first.device) >= self.first[:, None] + begin


class PromptBounds:
    """A hook before a text encoder's calls that finds where the prompts lie, by the mask or, without one, by the padding's id.

    Args:
        tokenizer: of that encoder, or the processor around it.
    """

    def __init__(self, tokenizer: Any):
        words = getattr(tokenizer, "tokenizer", tokenizer)
        self.padding: int | None = words.pad_token_id
        self.closes = words.pad_token_id == words.eos_token_id
        """Whether the padding's id is the end token's too, the first of which belongs to the prompt."""
        self.ids: Tensor | None = None
        self.bounds: Bounds | None = None

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Note what a call says of its prompts."""
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.ids = ids if isinstance(ids, Tensor) else None
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            self.bounds = _stretch(mask > 0)
        elif self.ids is not None and self.padding is not None:
            first, stop = _stretch(self.ids != self.padding)
            length = self.ids.shape[1]
            self.bounds = Bounds(first, (stop + int(self.closes)).clamp(max=length))
        else:
            self.bounds = None

    def of(self, states: Tensor) -> Bounds:
        """Where the prompts of some states (batch tokens width) lie; everywhere, where nothing says more.

        Raises:
            EffaceError: they are of another call than the encoder's last.
        """
        count = states.shape[0]
        if self.bounds is None:
            whole = torch.zeros(count, dtype=torch.long, device=states.device)
            return Bounds(whole, whole + states.shape[1])
        if len(self.bounds.first) != count:
            raise EffaceError(
                f"a layer of a text encoder gives states of {count} prompts where the encoder was called with "
                f"{len(self.bounds.first)}: call the text encoder itself, not a part of it."
            )
        return Bounds(self.bounds.first.to(states.device), self.bounds.stop.to(states.device))


def _stretch(counts: Tensor) -> Bounds:
    """From the first position that counts to behind the last (batch tokens); all of a row in which none does."""
    length = counts.shape[1]
    whole = ~counts.any(1, keepdim=True)
    counts = (counts | whole).int()
    return Bounds(counts.argmax(1), length - counts.flip(1).argmax(1))


def begin_of(ids: Tensor, bounds: Bounds) -> int:
    """Positions that prompts which share no word begin with alike (prompts tokens): begin token and template."""
    rows: Sequence[list[int]] = [
        row[int(first) : int(stop)] for row, first, stop in zip(ids.tolist(), bounds.first, bounds.stop, strict=True)
    ]
    shortest = min(map(len, rows))
    differing = (i for i in range(shortest) if len({row[i] for row in rows}) > 1)
    return next(differing, shortest)
