"""What an export needs to know; free of torch, so that help answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.errors import UsageError
from efface.registry import Registry

EXPORTS: Registry[Any] = Registry(
    "target",
    "efface.exports",
    {
        "lora": "efface.export.lora:write",
        "peft": "efface.export.peft_folder:write",
        "diffusers": "efface.export.diffusers_folder:write",
        "component": "efface.export.component:write",
        "single-file": "efface.export.single_file:write",
        "diff": "efface.export.diff:write",
    },
)
"""What writes each target's file or folder, a `Writer` of `efface.export.run`."""
FINEST = 1e-6
"""Smallest error that a LoRA can be asked for: float32 holds its factors to about 1e-7."""
ERROR, SEVERAL = 1e-3, 2e-4
"""Error of a LoRA by default: of one erasure, and of several."""

if TYPE_CHECKING:
    Target = str
else:
    Target = Literal[EXPORTS.names()]  # so that help lists them, those of plugins too


@dataclass(frozen=True)
class ExportConfig:
    """How an erasure is written for other tools."""

    to: Target
    """`lora`: a LoRA file; `peft`: an adapter's folder, for peft, diffusers, vLLM-Omni and SGLang; `diffusers`: the whole edited
    pipeline as a folder; `component`: only the networks that were edited (the text encoder alone, where nothing else was);
    `single-file`: a copy of the model's own checkpoint with the edited UNet; `diff`: the differences of the weights in full,
    which ComfyUI and A1111 read as a LoRA."""
    keys: Literal["diffusers", "kohya"] = "diffusers"
    """Names in a LoRA file: peft's as diffusers reads them, or kohya's as ComfyUI and A1111 do."""
    scale: float = 1.0
    """Strength of the erasure: 0 none, 1 full."""
    error: float | None = None
    """Largest error of a LoRA's matrices as they are stored, a share of the norm of each layer's edit; it decides the rank, and
    whether float16 can hold them. By default 1e-3, and 2e-4 for several erasures, whose errors add up in a picture."""
    rank: int | None = None
    """Rank of a LoRA instead of the one that `error` asks for."""
    tolerance: float = 0.05
    """Largest difference of what was written, read back, from the erasure: of every matrix, and of the pictures, each as a
    share of what the erasure changes there."""
    pictures: bool = False
    """Compare pictures too; without them only the edited weights of the model are needed."""
    steps: int = 4
    """Denoising steps of the pictures that are compared."""
    guidance: float | None = None
    """Their guidance scale; the pipeline's own by default."""
    side: int | tuple[int, int] | None = None
    """Pixels of each side of the pictures that are compared, or width and height; the model's own size by default."""
    seed: int = 0
    """Seed of the first picture that is compared."""
    force: bool = False
    """Export also for a fine-tune of the model that the erasure was made for."""

    def error_of(self, erasures: int) -> float:
        """The error asked for a number of erasures in one LoRA."""
        return self.error or (ERROR if erasures == 1 else SEVERAL)

    def __post_init__(self) -> None:
        if self.to not in EXPORTS:
            raise UsageError(f"the target {self.to!r} is unknown; expected one of: {', '.join(EXPORTS)}.")
        if self.error is not None and not FINEST <= self.error < 1:
            raise UsageError(f"error is {self.error}; expected a number of at least {FINEST:g} and below 1.")
        if not 0 < self.tolerance < 1:
            raise UsageError(f"tolerance is {self.tolerance}; expected a share above 0 and below 1.")
        if self.rank is not None and self.rank < 1:
            raise UsageError(f"rank is {self.rank}; expected at least 1.")
        error = self.error or ERROR
        if self.rank is None and error > self.tolerance:
            raise UsageError(
                f"error is {error} and tolerance {self.tolerance}, so that nothing could pass: expected error to be smaller."
            )
        if self.keys == "kohya" and self.to == "peft":
            raise UsageError("an adapter's folder has peft's keys; kohya's are those of a LoRA file: export to `lora`.")
        if self.steps < 1:
            raise UsageError(f"steps is {self.steps}; expected at least 1.")

    @property
    def needs_all_weights(self) -> bool:
        """Whether weights are read beyond those that the erasure edits."""
        return self.pictures or self.to not in ("lora", "peft")
