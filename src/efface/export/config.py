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
        "diffusers": "efface.export.diffusers_folder:write",
        "component": "efface.export.component:write",
        "single-file": "efface.export.single_file:write",
        "diff": "efface.export.diff:write",
    },
)
"""What writes each target's file or folder, a `Writer` of `efface.export.run`."""

if TYPE_CHECKING:
    Target = str
else:
    Target = Literal[EXPORTS.names()]  # so that help lists them, those of plugins too


@dataclass(frozen=True)
class ExportConfig:
    """How an erasure is written for other tools."""

    to: Target
    """`lora`: a LoRA file; `diffusers`: the whole edited pipeline as a folder; `component`: only the networks that were
    edited (the text encoder alone, where nothing else was); `single-file`: a copy of the model's own checkpoint with the edited
    UNet; `diff`: the differences of the weights in full, which ComfyUI and A1111 read as a LoRA."""
    keys: Literal["diffusers", "kohya"] = "diffusers"
    """Names in a LoRA: peft's as diffusers reads them, or kohya's as ComfyUI and A1111 do."""
    scale: float = 1.0
    """Strength of the erasure: 0 none, 1 full."""
    error: float = 1e-4
    """Largest error of a LoRA's matrices, relative to the norm of each edit; it decides the rank."""
    rank: int | None = None
    """Rank of a LoRA instead of the one that `error` asks for."""
    steps: int = 4
    """Denoising steps of the pictures that are compared."""
    guidance: float | None = None
    """Their guidance scale; the pipeline's own by default."""
    side: int | None = None
    """Their width and height in pixels; the model's own by default."""
    tolerance: float = 1.0
    """Largest mean difference of the pictures, in levels of 255."""
    force: bool = False
    """Export also for a fine-tune of the model that the erasure was made for."""

    def __post_init__(self) -> None:
        if self.to not in EXPORTS:
            raise UsageError(f"the target {self.to!r} is unknown; expected one of: {', '.join(EXPORTS)}.")
        if not 0 <= self.error < 1:
            raise UsageError(f"error is {self.error}; expected a number of at least 0 and below 1.")
        if self.rank is not None and self.rank < 1:
            raise UsageError(f"rank is {self.rank}; expected at least 1.")
        if self.steps < 1:
            raise UsageError(f"steps is {self.steps}; expected at least 1.")
