"""The options of every command that loads a model: where and how it computes, and the size and number of its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro

from efface.cli.arguments import HIDDEN, parse_parts
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.models.sampling import Sampling

R = TypeVar("R")
HEADING = "model"


@dataclass(frozen=True)
class ModelOptions:
    """How a model is loaded and draws."""

    device: Annotated[str | None, tyro.conf.arg(metavar="DEVICE")] = None
    """Where the model computes: cpu, cuda, cuda:1 or mps; the best one present by default."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Precision of the weights; `auto` is float32 on the CPU, elsewhere what the model says of itself or float16."""
    offload: Literal["none", "model", "sequential", "group"] = "none"
    """Where weights wait until they are needed: on the device, or in memory, one network, one layer or a group of layers being
    moved at a time."""
    side: int | None = None
    """Width and height of pictures in pixels; the model's own by default."""
    width: int | None = None
    """Width of pictures, with --height."""
    height: int | None = None
    """Height of pictures, with --width."""
    batch: int | None = None
    """Pictures at a time; by default as many as free memory holds, and half as many after it ran out."""
    config: Annotated[str | None, tyro.conf.arg(metavar="FOLDER")] = None
    """For a single checkpoint: a diffusers folder or hub id that says how its components are built, and holds what it lacks."""
    variant: Annotated[str | None, tyro.conf.arg(metavar="VARIANT")] = None
    """Which of a folder's weights, such as fp16 for *.fp16.safetensors; found by itself where there are no plain ones."""

    def __post_init__(self) -> None:
        for name in ("side", "width", "height", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; expected at least 1.")
        if self.side is not None and (self.width, self.height) != (None, None):
            raise UsageError("--side was given beside --width or --height: name one side, or width and height.")
        if (self.width is None) != (self.height is None):
            raise UsageError("--width and --height go together: name both, or --side for a square.")

    @property
    def size(self) -> int | tuple[int, int] | None:
        """Pixels of each side, or width and height, as `Sampling` takes them."""
        return self.side if self.width is None or self.height is None else (self.width, self.height)

    def load(self, name: str | Path, *, stored: bool = False, text_only: bool = False) -> Any:
        """The pipeline; raises as `efface.load`.

        Args:
            name: of the model.
            stored: take the precision on disk where none was named: for commands that keep half precision anyway.
            text_only: load only what closed forms read, where the model's family allows it.
        """
        from efface.models.batches import limit_batch
        from efface.models.load import load
        from efface.models.model import Model

        more: dict[str, Any] = {"dtype": "stored"} if stored and self.dtype == "auto" else {}
        more |= {"text_only": True} if text_only else {}
        pipeline = load(name, **self.loading() | more)
        if self.batch is not None:
            limit_batch(Model(pipeline).networks()[0].module, self.batch)
        return pipeline

    def loading(self) -> dict[str, Any]:
        """Arguments of `efface.load`."""
        return {name: getattr(self, name) for name in ("device", "dtype", "offload", "config", "variant")}

    def sampling(
        self, steps: int | None = None, guidance: float | None = None, negative: str | None = None
    ) -> Sampling:
        """How pictures are drawn, with what a command asks for itself."""
        from efface.models.sampling import Sampling

        return Sampling(steps=steps, guidance=guidance, negative=negative, side=self.size, seed=seed_of(self))


@dataclass(frozen=True)
class DrawingOptions(ModelOptions):
    """How a model is loaded and draws, by a command that numbers its pictures itself."""

    seed: int | None = None
    """Seed of the first picture, from which the others count on; by default that of the purpose."""


def seed_of(options: ModelOptions) -> int | None:
    """The seed that the user named."""
    return options.seed if isinstance(options, DrawingOptions) else None


def parse_on_model(
    request: type[R], args: Sequence[str], *, prog: str, description: str | None, seeded: bool = True
) -> tuple[R, Any]:
    """Read a command's own options and those of its model, as `arguments.parse` reads one dataclass.

    Args:
        request: the command's own.
        args: the words.
        prog: what is typed before them, for help.
        description: what help begins with.
        seeded: False where the command has seeds of its own.
    """
    parts = {"general": request, HEADING: DrawingOptions if seeded else ModelOptions}
    return parse_parts(parts, args, prog=prog, description=description)


def own_options(component: str, config: type[Any]) -> Mapping[str, str]:
    """Fields of a method's or an attack's Config that are called as one of the model's -> the option that sets them.

    A seed and a size are the same as the pictures'; others get the component's name, since `--batch` means pictures in every
    command.
    """
    shared = {field.name for field in fields(DrawingOptions)}
    return {
        field.name: HIDDEN if field.name in ("seed", "side") else f"{component.replace('-', '_')}_{field.name}"
        for field in fields(config)
        if field.name in shared
    }


def with_pictures(options: dict[str, Any], config: Any, model: ModelOptions) -> dict[str, Any]:
    """A component's options with the pictures' seed and size, where they were named and the component has its own."""
    named = {"seed": seed_of(model), "side": model.size}
    own = {field.name for field in fields(config)}
    return options | {name: value for name, value in named.items() if value is not None and name in own}
