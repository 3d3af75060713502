"""Searches inside a training: inputs that bring a concept back, by steps down a loss of the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from efface.errors import EffaceError
from efface.io.checkpoint import State
from efface.models.model import Model, Text

Objective = Callable[[Tensor, int], Tensor]
"""Takes an input and the number of the search's step, returns what is to become small (a scalar)."""

MOMENTUM = 0.9
"""Share of a running mean of gradients that each step keeps."""


class Remembered:
    """Tensors that a loss changes in place and reads again in later steps, saved with the training."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def state(self) -> State:
        """All of them, by name."""
        return dict(self.tensors)

    def restore(self, state: State) -> None:
        """Take up what `state` returned."""
        for name, value in state.items():
            self.tensors[name].copy_(value)


def descend(start: Tensor, objective: Objective, *, steps: int, lr: float) -> Tensor:
    """An input after some steps of Adam, the last one included; each step has the gradient of its own loss alone."""
    x = start.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=lr)
    for number in range(steps):
        (x.grad,) = torch.autograd.grad(objective(x, number), [x])
        optimiser.step()
    return x.detach()


def signed_step(start: Tensor, objective: Objective, *, lr: float, mean: Tensor | None = None) -> Tensor:
    """An input after one step of `lr` along the signs of the gradient, downwards; with a running mean of the gradients of earlier
    steps, which this one is added to in place, along the signs of that."""
    x = start.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(x, 0), [x])
    if mean is not None:
        gradient = mean.lerp_(gradient, 1 - MOMENTUM)
    return x.detach() - lr * gradient.sign()


def require_words(model: Model, method: str) -> None:
    """Raise EffaceError where words of which only the embeddings are known cannot be put into a prompt."""
    if not model.family.takes_tokens:
        raise EffaceError(
            f"{method} searches embeddings of words, and {model.family.name} encodes whole prompts only: choose another method."
        )


def around(model: Model, prompt: str, name: str) -> list[int | None]:
    """A prompt's tokens with None where a new word goes: in the place of a name, or at the end."""
    head, found, tail = prompt.partition(name)
    before, after = tokens_of(model, head.strip()), tokens_of(model, tail.strip()) if found else []
    room = model.max_tokens - 1
    return [*before[:room], None, *after[: max(0, room - len(before))]]


def behind(model: Model, prompt: str, words: int) -> list[int | None]:
    """A prompt's tokens behind so many new words; what no longer fits is cut."""
    return [*[None] * words, *tokens_of(model, prompt)[: model.max_tokens - words]]


def inserted(table: Tensor, rows: Sequence[Sequence[int | None]], v: Tensor) -> tuple[list[list[int]], Tensor]:
    """Arguments of `Model.encode_tokens` for prompts with new words.

    Args:
        table: embedding of every token (vocabulary width).
        rows: tokens of each prompt, None for a new word.
        v: the new words' embeddings, in the order in which they stand in each prompt (words width), the same for all prompts or
            others for each (batch words width).

    Returns:
        Content tokens, of which any stands for a new word, and embeddings (batch tokens width).
    """
    ids = [[token or 0 for token in row] for row in rows]
    embeddings = []
    for row, words in zip(rows, v if v.dim() == 3 else [v] * len(rows), strict=True):
        new = iter(words)
        embeddings.append(torch.stack([next(new) if token is None else table[token] for token in row]))
    return ids, torch.nn.utils.rnn.pad_sequence(embeddings, batch_first=True)


def with_words(model: Model, table: Tensor, rows: Sequence[Sequence[int | None]], v: Tensor) -> Text:
    """Prompts with new words, encoded with gradients to them; arguments as of `inserted`."""
    return model.encode_tokens(*inserted(table, rows, v))


def tokens_of(model: Model, prompt: str) -> list[int]:
    """A prompt's content tokens, cut where the model stops reading."""
    return list(model.family.tokenizers()[0](prompt, add_special_tokens=False).input_ids)[: model.max_tokens]
