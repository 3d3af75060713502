"""Holders: values that are trained beside a model and act only while they are active.

The frozen model is the same network with its holder off, so that there is one copy of it in memory. Values are float32
whatever the network's precision, since half precision rounds small updates away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families.layers import low_rank
from efface.training.groups import Weight


class Holder(Protocol):
    """What is trained."""

    parameters: list[Tensor]
    """Trained values, float32."""

    def active(self, values: Sequence[Tensor] | None = None) -> Any:
        """Context in which the trained values act, or others of the same shapes (an average of them)."""

    def delta(self, values: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """What they change, as tensors of a WeightDelta."""
        ...


class Reloadable(Holder, Protocol):
    """A holder that takes an erasure's values up again."""

    @property
    def names(self) -> list[str]:
        """Names of the tensors that `delta` gives, one a trained value."""
        ...

    def load(self, tensors: Sequence[Tensor]) -> None:
        """Take up what `delta` gave, one tensor a trained value."""
        ...


class Dense:
    """Copies of weights; while they are active the network computes with them, and gradients go to the copies."""

    def __init__(self, weights: Sequence[Weight]):
        self.weights = list(weights)
        self.parameters = [weight.read().detach().float().clone().requires_grad_() for weight in self.weights]

    @contextmanager
    def active(self, values: Sequence[Tensor] | None = None) -> Iterator[None]:
        """Context in which the network has these values; its own are restored bit for bit."""
        own = [weight.read() for weight in self.weights]
        before = [(p.data, p.requires_grad) for p in own]
        with ExitStack() as stack:
            stack.callback(_restore, own, before)
            for p, value, trained in zip(own, values or self.parameters, self.parameters, strict=True):
                p.data = value.data.to(p.dtype)
                p.requires_grad_(values is None)
                if values is None:
                    stack.callback(p.register_post_accumulate_grad_hook(_hand_to(trained)).remove)
            yield

    def delta(self, values: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """Differences from the network's own weights, by full name."""
        pairs = zip(self.weights, values or self.parameters, strict=True)
        return {weight.name: value.detach() - weight.read().detach().float() for weight, value in pairs}

    @property
    def names(self) -> list[str]:
        """Full names of the weights."""
        return [weight.name for weight in self.weights]

    def load(self, tensors: Sequence[Tensor]) -> None:
        """The network's own weights and these differences from them."""
        for weight, value, change in zip(self.weights, self.parameters, tensors, strict=True):
            value.data.copy_(weight.read().detach().float() + change.to(value.device))


class LowRank:
    """LoRA (Hu et al., 2021, arXiv 2106.09685): the output y of a layer becomes y + B A x; B begins at zero.

    Args:
        weights: of linear layers and convolutions; others (biases, norms) are left as they are.
        rank: of the factors.
        seed: of A, which is normal with variance 1/rank².
        narrow: whether A is uniform within ±1/√inputs instead, as a layer of PyTorch begins.

    Raises:
        EffaceError: no layer of the group can have factors.
    """

    def __init__(self, weights: Sequence[Weight], rank: int, seed: int, *, narrow: bool = False):
        generator = torch.Generator().manual_seed(seed)
        kinds = (nn.Linear, nn.Conv2d)
        chosen = [w for w in weights if w.parameter == "weight" and isinstance(w.module, kinds) and _dense(w.module)]
        if not chosen:
            raise EffaceError("no layer that is to be trained takes low-rank factors: leave the rank out.")
        self.weights = chosen
        self.parameters: list[Tensor] = []
        for weight in chosen:
            value = weight.read()
            inputs = value[0].numel()
            if narrow:
                down = (2 * torch.rand(rank, inputs, generator=generator) - 1) / inputs**0.5
            else:
                down = torch.randn(rank, inputs, generator=generator) / rank
            self.parameters += [down.to(value.device).requires_grad_()]
            self.parameters += [torch.zeros(len(value), rank, device=value.device).requires_grad_()]

    @contextmanager
    def active(self, values: Sequence[Tensor] | None = None) -> Iterator[None]:
        """Context in which the factors act on their layers."""
        factors = list(values or self.parameters)
        with ExitStack() as stack:
            for weight, down, up in zip(self.weights, factors[::2], factors[1::2], strict=True):
                stack.callback(weight.module.register_forward_hook(_beside(down, up)).remove)
            yield

    def delta(self, values: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """The factors, by full name."""
        factors = [factor.detach() for factor in values or self.parameters]
        named = zip(self.weights, factors[::2], factors[1::2], strict=True)
        return {f"{w.name}.{end}": f for w, down, up in named for end, f in (("up", up), ("down", down))}

    @property
    def names(self) -> list[str]:
        """Full names of the factors."""
        return [f"{weight.name}.{end}" for weight in self.weights for end in ("down", "up")]

    def load(self, tensors: Sequence[Tensor]) -> None:
        """These factors."""
        for value, factor in zip(self.parameters, tensors, strict=True):
            value.data.copy_(factor)


class Turns:
    """Holders of which one is trained and active at a time, one a concept; all of them make the result."""

    def __init__(self, holders: Sequence[Holder]):
        self.holders = list(holders)
        self.turn = 0
        """The one whose turn it is."""
        self.parameters = [p for held in holders for p in held.parameters]

    def active(self, values: Sequence[Tensor] | None = None) -> Any:
        """Context in which the one whose turn it is acts."""
        if values is not None:
            raise ValueError("holders that take turns act with their own values only.")
        return self.holders[self.turn].active()

    def delta(self, values: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """What each of them changes, as `TURN|NAME`."""
        return {f"{i}|{name}": tensor for i, held in enumerate(self.holders) for name, tensor in held.delta().items()}


class Upon:
    """A holder that acts upon other values of weights than the model's own.

    Args:
        base: the weights.
        values: what takes their place, one tensor each.
        held: low-rank factors beside them.
    """

    def __init__(self, base: Dense, values: Sequence[Tensor], held: LowRank):
        self.base = base
        self.values = [value.detach() for value in values]
        self.held = held
        self.parameters = held.parameters

    @contextmanager
    def active(self, values: Sequence[Tensor] | None = None) -> Iterator[None]:
        """Context in which both act."""
        with self.base.active(self.values), self.held.active(values):
            yield

    def delta(self, values: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """The factors alone, by full name."""
        return self.held.delta(values)


class Words:
    """Embeddings of new words; they act where a loss puts them into a prompt."""

    def __init__(self, start: Tensor):
        self.parameters = [start.detach().clone().requires_grad_()]

    def active(self, values: Sequence[Tensor] | None = None) -> Any:
        """A context in which nothing else happens."""
        return nullcontext()

    def delta(self, values: Sequence[Tensor] | None = None) -> dict[str, Tensor]:
        """The embeddings (words width), as `words`."""
        return {"words": (values or self.parameters)[0].detach().clone()}


def holder(weights: Sequence[Weight], rank: int | None, seed: int) -> Dense | LowRank:
    """Copies of the weights, or low-rank factors beside them where a rank is given."""
    return Dense(weights) if rank is None else LowRank(weights, rank, seed)


def _restore(own: list[nn.Parameter], before: list[tuple[Tensor, bool]]) -> None:
    for p, (value, flag) in zip(own, before, strict=True):
        p.data = value
        p.requires_grad_(flag)
        p.grad = None


def _hand_to(trained: Tensor) -> Any:
    """A hook that adds a weight's gradient to its trained copy's."""

    def hook(parameter: Tensor) -> None:
        gradient = parameter.grad
        parameter.grad = None
        if gradient is not None:
            gradient = gradient.to(trained)
            trained.grad = gradient if trained.grad is None else trained.grad + gradient

    return hook


def _dense(module: Any) -> bool:
    """Whether a layer connects all inputs with all outputs."""
    return getattr(module, "groups", 1) == 1


def _beside(down: Tensor, up: Tensor) -> Any:
    """A hook that adds B A x to a layer's output."""

    def hook(module: Any, args: Any, output: Tensor) -> Tensor:
        return output + low_rank(module, args[0], down, up).to(output.dtype)

    return hook
