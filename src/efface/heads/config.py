"""Options of a sparse head; free of torch, so that the command line can list them quickly."""

from __future__ import annotations

from dataclasses import dataclass

from efface.errors import UsageError


@dataclass(frozen=True)
class HeadConfig:
    """Options of fitting a sparse head."""

    k: int | None = 10
    """Most activations that a verdict may count; None counts all and learns no offsets, which is a logistic regression."""
    penalty: float = 5e-4
    """λ, the weight of the elastic net beside the cross-entropy (UCBM: 1e-4 to 8e-4)."""
    mix: float = 0.99
    """α, the share of |W|₁ in it; the rest is |W|²/2 (UCBM: 0.99)."""
    iterations: int = 300
    """Iterations in which the offsets are learnt."""

    def __post_init__(self) -> None:
        if self.k is not None and self.k < 1:
            raise UsageError(f"k is {self.k}; expected at least 1.")
        if not 0 <= self.penalty < float("inf"):
            raise UsageError(f"penalty is {self.penalty}; expected a finite number of at least 0.")
        if not 0 <= self.mix <= 1:
            raise UsageError(f"mix is {self.mix}; expected a number from 0 to 1.")
        if self.iterations < 0:
            raise UsageError(f"iterations is {self.iterations}; expected at least 0.")
