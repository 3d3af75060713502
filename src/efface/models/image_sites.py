"""Sites on the way of a picture into a vision-language model, read and edited as (batch tokens width) without the class token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from efface.families.networks import Hook


class ImageSite(NamedTuple):
    """A place where a picture's features pass."""

    name: str
    """`projector`, or `vision_tower.layers.3`."""
    module: nn.Module
    """The module whose input or output they are."""
    before: bool
    """Whether they are its input."""
    leading: int
    """Tokens in front of the picture's own, such as a class token, which are neither read nor edited."""

    def read(self, states: Tensor) -> Tensor:
        """The picture's own features (batch tokens width), sharing memory."""
        return states[:, self.leading :]

    def changed(self, states: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """The states with `change` of the picture's own features in their place."""
        return torch.cat([states[:, : self.leading], change(self.read(states))], 1)

    def hook(self, change: Callable[[Tensor], Tensor | None]) -> Hook:
        """The hook that puts `change` of the features in their place at every call; None leaves them.

        It runs before transformers' own hooks, which keep what layers return.
        """

        def edited(states: Tensor) -> Tensor | None:
            new = change(self.read(states))
            return None if new is None else self.changed(states, lambda _: new)

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            states = edited(args[0])
            return None if states is None else ((states, *args[1:]), kwargs)

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            whole = isinstance(output, Tensor)
            states = edited(output if whole else output[0])
            return None if states is None else states if whole else (states, *output[1:])

        return Hook(self.module, before if self.before else after, before=self.before, first=not self.before)
