"""The loop of every trained eraser: a loss in, trained values out; resumes to the same bits from its snapshots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor

from efface.errors import EffaceError
from efface.io.checkpoint import State, optimizer_state, read_state, restore_optimizer, with_prefix, write_state
from efface.io.progress import TrainingStep, tell
from efface.models.model import Model, Text
from efface.models.sampling import generator
from efface.training.config import Training
from efface.training.filters import Average
from efface.training.holders import Holder
from efface.training.latents import Noisy

T = TypeVar("T")


@dataclass(frozen=True)
class Step:
    """One step of a training: all that its loss may depend on."""

    number: int
    model: Model
    held: Holder
    random: torch.Generator
    """Determined by the seed and the step's number alone."""
    seed: int
    """First seed of what is drawn in this step."""
    average: Average | None
    """Moving average of the trained values, where one is kept."""
    bank: dict[tuple[Any, ...], Noisy] = field(default_factory=dict[tuple[Any, ...], Noisy])
    """Latents that the frozen model rolled in earlier steps, by what they were rolled from."""

    def integer(self, below: int) -> int:
        """A random whole number, 0 to `below` − 1."""
        return int(torch.randint(below, (), generator=self.random))

    def pick(self, items: Sequence[T]) -> T:
        """One of some items."""
        return items[self.integer(len(items))]

    def edited(self) -> Any:
        """Context in which the trained values act; outside of it the model is the frozen one."""
        return self.held.active()

    def averaged(self) -> Any:
        """Context in which the average of the trained values acts."""
        return self.held.active(None if self.average is None else self.average.values)

    def predict(self, at: Noisy, text: Text) -> Tensor:
        """The denoiser's raw output (batch channels height width) for noisy latents."""
        return self.model.predict(at.z, at.timestep, text)

    def backward(self, value: Tensor) -> None:
        """Add the gradients of a scalar to those of the trained values."""
        # Weights are swapped under the graph: the backward pass must see those of the forward pass.
        with self.edited():
            value.backward()

    def gradients(self, value: Tensor) -> list[Tensor]:
        """Gradients of a scalar, one a trained value; the trained values' own stay as they are."""
        parameters = self.held.parameters
        before = [p.grad for p in parameters]
        self.descend_along([None] * len(parameters))
        self.backward(value)
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        self.descend_along(before)
        return found

    def descend_along(self, gradients: Sequence[Tensor | None]) -> None:
        """Have the optimiser step along these gradients, one a trained value: for losses that work on gradients themselves,
        and return a value that has none."""
        for p, gradient in zip(self.held.parameters, gradients, strict=True):
            p.grad = gradient


Loss = Callable[[Step], Tensor]
"""Takes a step, returns what is to become small (a scalar)."""


class Kept(Protocol):
    """What a loss keeps from step to step beside the trained values."""

    def state(self) -> State:
        """All of it, as tensors by name."""
        ...

    def restore(self, state: State) -> None:
        """Take up what `state` returned."""
        ...


class Trained(NamedTuple):
    """The result of a training."""

    deltas: dict[str, Tensor]
    """Tensors of a WeightDelta."""
    notes: dict[str, Any]
    """Steps done, the last loss, and `unfinished` where it was interrupted."""


def train(
    model: Model,
    held: Holder,
    loss: Loss,
    config: Training,
    *,
    optimiser: torch.optim.Optimizer | None = None,
    clip: float | None = None,
    decay: float | None = None,
    schedule: Callable[[int], float] | None = None,
    iterations: int | None = None,
    kept: Kept | None = None,
    folder: Path | None = None,
) -> Trained:
    """Take `config.iterations` steps down a loss.

    Args:
        model: the model; it stays as it is.
        held: what is trained.
        loss: of one step.
        config: options.
        optimiser: Adam on the held parameters by default.
        clip: largest norm of the gradient.
        decay: keep the average θ̄ ← d θ̄ + (1 − d) θ, and return it.
        schedule: by what the learning rate is multiplied in a step, by its number; 1 by default.
        iterations: steps, for a method that takes the configured ones more than once.
        kept: what the loss keeps from step to step, so that a resumed training has it, too.
        folder: of this training's snapshots and no other's; without one it does not resume.

    Raises:
        EffaceError: a loss or gradient that is not finite.
    """
    optimiser = optimiser or torch.optim.Adam(held.parameters, lr=config.lr)
    average = None if decay is None else Average(held.parameters, decay)
    snapshot = Snapshot(folder, optimiser, average, kept)
    rates = [group["lr"] for group in optimiser.param_groups]
    steps = iterations or config.iterations
    done, last = snapshot.restore(), float("nan")
    bank: dict[tuple[Any, ...], Noisy] = {}
    with training(model, config.checkpointing):
        try:
            for number in range(done, steps):
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate if schedule is None else rate * schedule(number)
                last = _descend(loss, _step(number, model, held, config, average, bank), optimiser, clip)
                if average is not None:
                    average.update(held.parameters)
                done = number + 1
                tell(TrainingStep(done, steps, last))
                if done % config.every == 0 and done < steps:
                    snapshot.write(done)
        except KeyboardInterrupt:
            pass  # what was learnt so far is returned, and says so; the last snapshot stays for who goes on
    snapshot.end(done == steps)
    notes = {"steps": done, "loss": last} | ({} if done == steps else {"unfinished": steps - done})
    return Trained(held.delta(None if average is None else average.values), notes)


def _step(
    number: int,
    model: Model,
    held: Holder,
    config: Training,
    average: Average | None,
    bank: dict[tuple[Any, ...], Noisy],
) -> Step:
    random = generator("training", config.seed, number)
    seed = int(torch.randint(1 << 40, (), generator=random))
    return Step(number=number, model=model, held=held, random=random, seed=seed, average=average, bank=bank)


def _descend(loss: Loss, step: Step, optimiser: torch.optim.Optimizer, clip: float | None) -> float:
    """One step of the optimiser; the loss before it."""
    optimiser.zero_grad()
    value = loss(step)
    if not torch.isfinite(value):
        raise EffaceError(
            f"the loss of step {step.number} is {value.item()}: lower the learning rate, or train in float32."
        )
    if value.requires_grad:
        step.backward(value)
    parameters = step.held.parameters
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    if any(p.grad is not None and not torch.isfinite(p.grad).all() for p in parameters):
        raise EffaceError(
            f"a gradient of step {step.number} is not finite: lower the learning rate, or train in float32."
        )
    optimiser.step()
    return float(value.detach())


class Snapshot:
    """A training's state on disk, in a folder of its own."""

    def __init__(
        self,
        folder: Path | None,
        optimiser: torch.optim.Optimizer,
        average: Average | None = None,
        kept: Kept | None = None,
    ):
        self.optimiser = optimiser
        self.average = average
        self.kept = kept
        self.path = None if folder is None else folder / "training.safetensors"

    def restore(self) -> int:
        """Take up the state that was written; returns the number of steps that are done."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            state, _ = read_state(self.path)
        except (SafetensorError, OSError):
            return 0
        restore_optimizer(self.optimiser, with_prefix(state, "trained|"))
        if self.average is not None:
            for name, value in with_prefix(state, "average|").items():
                self.average.values[int(name)].copy_(value)
        if self.kept is not None:
            self.kept.restore(with_prefix(state, "kept|"))
        return int(state["step"])

    def write(self, done: int) -> None:
        """Write the state after so many steps."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        state = {f"trained|{name}": value for name, value in optimizer_state(self.optimiser).items()}
        state |= {} if self.average is None else {f"average|{i}": v for i, v in enumerate(self.average.values)}
        state |= {} if self.kept is None else {f"kept|{name}": value for name, value in self.kept.state().items()}
        write_state(self.path, state | {"step": torch.tensor(done)})

    def end(self, finished: bool) -> None:
        """Forget the state of a training that is at its end."""
        if self.path is not None and finished:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


@contextmanager
def training(model: Model, checkpointing: bool) -> Iterator[None]:
    """Context in which no weight of the model asks for gradients, and activations are kept or computed again."""
    with ExitStack() as stack:
        asking = [p for module in model.components().values() for p in module.parameters() if p.requires_grad]
        for p in asking:
            p.requires_grad_(False)
        stack.callback(lambda: [p.requires_grad_(True) for p in asking])
        network: Any = model.networks()[0].module
        if checkpointing and not network.is_gradient_checkpointing:
            network.enable_gradient_checkpointing()
            stack.callback(network.disable_gradient_checkpointing)
        yield
