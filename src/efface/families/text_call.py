"""What of a network's call runs along the text's positions, by whatever name: read, and made longer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from efface.errors import EffaceError

STATES = ("encoder_hidden_states", "cap_feats")
"""Text states (batch tokens width), or a list of them (tokens width)."""
MASKS = ("encoder_attention_mask", "encoder_hidden_states_mask")
"""Which of them count (batch tokens), where a pipeline says so."""
IDS = ("txt_ids",)
"""Their coordinates (… tokens axes)."""
LENGTHS = ("txt_seq_lens",)
"""How many of them count, a number for each prompt."""


class TextCall:
    """Where the arguments of a network lie that run along the text's positions.

    Raises:
        EffaceError: the network takes text by no name that is known.
    """

    def __init__(self, module: nn.Module):
        names = list(inspect.signature(type(module).forward).parameters)[1:]
        self.positions = {name: i for i, name in enumerate(names) if name in (*STATES, *MASKS, *IDS, *LENGTHS)}
        if not self.positions.keys() & set(STATES):
            raise EffaceError(f"{type(module).__name__} takes no {' or '.join(STATES)}, so its text cannot be read.")
        self.name = next(name for name in STATES if name in self.positions)

    def states(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The text states of a call, one (tokens width) a prompt."""
        found = kwargs[self.name] if self.name in kwargs else args[self.positions[self.name]]
        if isinstance(found, tuple):  # IP-Adapter passes (text, images)
            found = found[0]
        return list(found)

    def longer(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], rows: Tensor
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call with `rows` (rows width) before the states of every prompt."""
        args_list, kwargs = list(args), dict(kwargs)
        for name, position in self.positions.items():
            if name in kwargs:
                kwargs[name] = _GROW[name](kwargs[name], rows)
            elif position < len(args_list):
                args_list[position] = _GROW[name](args_list[position], rows)
        return tuple(args_list), kwargs


def _states(old: Any, rows: Tensor) -> Any:
    if isinstance(old, tuple):
        return (_states(old[0], rows), *old[1:])
    if isinstance(old, list):
        return [torch.cat([rows.to(states), states]) for states in old]
    return torch.cat([rows.to(old).expand(len(old), *rows.shape), old], dim=1)


def _mask(old: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if old is None else torch.cat([old.new_ones(len(old), len(rows)), old], dim=1)


def _ids(old: Tensor | None, rows: Tensor) -> Tensor | None:
    """Coordinates for as many more positions, at the end: they go on in the same steps, and all that counts is that those of
    the first positions come first."""
    if old is None:
        return None
    last, step = old[..., -1:, :], old[..., -1:, :] - old[..., -2:-1, :]
    count = torch.arange(1, len(rows) + 1, device=old.device)[:, None].to(old)
    return torch.cat([old, last + count * step], dim=-2)


def _lengths(old: list[int] | None, rows: Tensor) -> list[int] | None:
    return None if old is None else [length + len(rows) for length in old]


_GROW: dict[str, Callable[[Any, Tensor], Any]] = {
    **dict.fromkeys(STATES, _states),
    **dict.fromkeys(MASKS, _mask),
    **dict.fromkeys(IDS, _ids),
    **dict.fromkeys(LENGTHS, _lengths),
}
