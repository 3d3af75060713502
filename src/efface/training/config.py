"""Options that every trained eraser has; free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from efface.concepts.concept import Concept
from efface.errors import UsageError

Where = Literal["text", "cross", "rest", "all"]
"""`text`: keys and values of cross-attention; `cross`: all of it; `rest`: linear layers and convolutions outside of it;
`all`: every weight of the denoiser."""
LossIn = Literal["noise", "raw"]
"""What a difference is measured in: the noise that outputs imply, in which published learning rates are, or raw outputs."""


class Work(NamedTuple):
    """What a whole training has the denoiser do, about, in pictures that pass through it (a method that never denoises: the text
    encoders, in texts); pictures that are drawn to be trained on come before."""

    steps: int
    """Training steps, of all stages and concepts."""
    forward: float
    """Those that pass without gradients."""
    back: float
    """Those that pass forward and back."""
    together: int
    """Most of these that are kept for one way back."""

    def times(self, count: int) -> Work:
        """So many such trainings, one after the other."""
        return Work(self.steps * count, self.forward * count, self.back * count, self.together)


@dataclass(frozen=True)
class Training:
    """Options of a method that trains weights of the model."""

    denoises: ClassVar[bool] = True
    """Whether a step runs the denoiser."""
    iterations: int = 200
    """Training steps."""
    lr: float = 1e-5
    """Learning rate of Adam."""
    rank: int | None = None
    """Rank of low-rank factors (LoRA) that are trained in place of the weights themselves: smaller, and exact to remove."""
    retain: float = 0.0
    """Weight of |ε(r) − ε₀(r)|² on a retained prompt a step; 0 leaves the term out, as the papers without one have it."""
    loss_in: LossIn = "noise"
    """What differences are measured in; it matters to models that predict v or a flow."""
    side: int | tuple[int, int] | None = None
    """Pixels of each side of the pictures that are trained on, or their width and height; the model's own size by default."""
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass, which takes less memory and more time."""
    every: int = 50
    """Steps between two snapshots, from which a stopped training resumes."""
    seed: int = 0
    """First seed: what happens in a step depends on it and on the step's number alone."""

    def __post_init__(self) -> None:
        for name, least in (("iterations", 1), ("every", 1), ("rank", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}; expected at least {least}.")
        for name, above in (("lr", True), ("retain", False)):
            value = getattr(self, name)
            if not 0 <= value < float("inf") or (above and value == 0):
                raise UsageError(
                    f"{name} is {value}; expected a finite number {'above' if above else 'of at least'} 0."
                )

    def work(self, concepts: Sequence[Concept]) -> Work:
        """What the training of some concepts takes; methods that do more than predict once with gradients and once without say so."""
        return self.each_step(forward=1, back=1, together=1)

    def each_step(self, *, forward: float, back: float, together: int) -> Work:
        """The work of all steps, by that of one; fields as of `Work`."""
        return Work(self.iterations, forward * self.iterations, back * self.iterations, together)


@dataclass(frozen=True)
class Rolling(Training):
    """Options of a method that trains on latents rolled by the model itself."""

    draw_steps: int = 50
    """Sampler steps of a whole picture; latents are taken before one of them, drawn anew each step."""
    guidance: float = 3.0
    """Guidance scale under which latents are rolled."""
    bank: int = 0
    """Number of latents that are rolled once and used again, where the frozen model rolls them; 0 rolls new ones each step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draw_steps < 1 or self.bank < 0:
            raise UsageError(
                f"draw_steps is {self.draw_steps} and bank {self.bank}; expected at least 1 and at least 0."
            )

    @property
    def rolled(self) -> float:
        """Pictures that pass, on average, to roll one."""
        return (self.draw_steps - 1) / 2 * halves(self.guidance)

    def each_step(self, *, forward: float, back: float, together: int, retained: int = 1) -> Work:
        """The work of all steps, by that of one without its retained prompts, of which there are so many."""
        count = retained if self.retain and getattr(self, "keep", None) else 0
        forward += count * (self.rolled + 1)
        return super().each_step(forward=forward, back=back + count, together=together + count)


def halves(guidance: float) -> int:
    """Pictures that pass for one that is drawn by a guidance scale."""
    return 2 if guidance > 1 else 1
