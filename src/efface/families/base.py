"""What every family of pipelines must offer, and what most of them share."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from efface.errors import EffaceError, UsageError
from efface.families.drawing import require_own_call
from efface.families.layers import execution_device, unwrap
from efface.families.networks import Network, has_layer
from efface.families.projections import Projection, in_their_groups, projection
from efface.families.text import Text, TokenSpan

__all__ = [
    "Network",
    "Family",
    "Projection",
    "Side",
    "Standard",
    "cells_of",
    "encoded",
    "execution_device",
    "unwrap",
]


POOLED_TEXT = "the pooled text beside the timestep"
Side = int | tuple[int, int] | None
"""Pixels of each side of a picture, or its width and height; None is the model's own size."""


def cells_of(side: Side, usual: int | Sequence[int], scale: int, patch: int = 1) -> tuple[int, int]:
    """Rows and columns of a picture's latents.

    Args:
        side: of the picture.
        usual: cells of a side of the model's own pictures, or their rows and columns, cut to whole patches.
        scale: pixels of a side of a cell.
        patch: cells of a side of a patch, which a picture holds whole.

    Raises:
        UsageError: the size is not a multiple of what the model draws.
    """
    if side is None:
        rows, columns = (usual, usual) if isinstance(usual, int) else usual
        return rows // patch * patch, columns // patch * patch
    width, height = (side, side) if isinstance(side, int) else side
    step = scale * patch
    for name, pixels in (("width", width), ("height", height)):
        if pixels < step or pixels % step:
            near = max(step, round(pixels / step) * step)
            raise UsageError(f"the {name} is {pixels} pixels; expected a multiple of {step}, such as {near}.")
    return height // scale, width // scale


class Standard(NamedTuple):
    """What the pipeline's own call does where its user says nothing."""

    steps: int
    guidance: float


class Family(ABC):
    """A view of a pipeline that answers what the model-independent code must not ask."""

    name: str
    """Short name, shown by `efface show`."""
    exact: str = "exact: every key and value matrix"
    """Where a text map is the same as the edit of weights that it stands for."""
    reads_padding: bool = True
    """Whether the denoiser attends to the positions after a prompt's end."""
    takes_tokens: bool = False
    """Whether `encode` takes ids of any length up to what the model reads, later ones without effect on earlier ones."""
    takes_rows: bool = True
    """Whether the denoiser takes text of any number of positions, so that states can be put before those of a prompt."""
    pooled_layer: ClassVar[str] = ""
    """Path, in each network, of the linear layer whose first columns read the pooled text; empty where no map can reach it."""
    guided_calls: ClassVar[Literal["negative-first", "positive-first", "apart"]] = "negative-first"
    """How the pipeline's own call asks the denoiser where it guides: both halves at once, or the conditional one and then the
    unconditional one. efface's own drawing always asks for both at once, the unconditional half first."""
    output_sign: ClassVar[int] = 1
    """−1 where the scheduler takes the negative of what the denoiser returns."""
    kinds: ClassVar[tuple[str, ...]] = ()
    """Kinds of erasures that may be attached, by their names in files; none where all may."""
    pipelines: ClassVar[tuple[str, ...]] = ()
    """Names of diffusers' pipelines whose call the family's drawing is; none where it vouches for all that it serves."""

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline

    @property
    def blocks(self) -> int:
        """Parts of a picture that are drawn one after another, each with all steps."""
        return 1

    @classmethod
    @abstractmethod
    def serves(cls, pipeline: Any) -> bool:
        """Whether this family knows the pipeline, judged by its components."""

    # Text

    @abstractmethod
    def token_spans(self) -> list[TokenSpan]:
        """The parts of the token axis, each filled by one tokenizer, in order."""

    @abstractmethod
    def text_encoders(self) -> dict[str, nn.Module]:
        """Component name -> text encoder."""

    @abstractmethod
    def text(self, prompts: Sequence[str]) -> Text:
        """Prompts as the pipeline itself encodes them."""

    def states_at(self, prompts: Sequence[str], positions: Sequence[int]) -> Tensor:
        """The text state of each prompt at one position of the first span (prompts width)."""
        first = self.token_spans()[0].start
        return self.text(prompts).states[range(len(prompts)), [first + position for position in positions]]

    def tokenizers(self) -> list[Any]:
        """The tokenizers, one a text encoder."""
        return [span.tokenizer for span in self.token_spans()]

    def encode(self, ids: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Text states (batch tokens width) and pooled text (batch width) of ids and masks, one tensor a tokenizer.

        Raises:
            EffaceError: the family's text encoder takes prompts only.
        """
        raise EffaceError(f"{self.name} encodes whole prompts only: single tokens or embeddings cannot be given to it.")

    def negative(self, prompt: str | None) -> Text:
        """The unconditional half (one prompt); None is what the pipeline takes where no negative prompt is given."""
        return self.text([prompt or ""])

    def projection_inputs(self, text: Text) -> Tensor:
        """Text states as the projections read them (batch tokens width)."""
        return text.states

    # Where text enters

    @abstractmethod
    def networks(self) -> list[Network]:
        """The networks whose forward takes text states, the denoiser first."""

    @abstractmethod
    def projections(self) -> list[Projection]:
        """Every matrix that reads text states; raises EffaceError where one cannot be edited."""

    def pooled_projections(self) -> list[Projection]:
        """The matrices that read the pooled text; raises EffaceError where one cannot be edited."""
        networks = [network for network in self.networks() if network.pooled is not None]
        found = [
            projection(f"{n.name}.{self.pooled_layer}", n.module.get_submodule(self.pooled_layer)) for n in networks
        ]
        return in_their_groups(found, networks)

    @abstractmethod
    def unmapped_inputs(self) -> list[str]:
        """Ways by which text enters that no text map reaches, in words."""

    def unreached(self, *, pooled: bool) -> list[str]:
        """Ways by which text enters that an erasure does not reach, in words; `pooled` says whether it maps pooled text."""
        reading = [network for network in self.networks() if has_layer(network.module, self.pooled_layer)]
        passes = bool(self.pooled_layer) and any(not pooled or network.pooled is None for network in reading)
        return [*([POOLED_TEXT] if passes else []), *self.unmapped_inputs()]

    def part_of(self, module: nn.Module) -> int:
        """Which part of the tuple that a module returns holds the picture's states."""
        return 0

    def components(self) -> dict[str, nn.Module]:
        """The networks an erasure may edit and a fingerprint covers: denoiser and text encoders."""
        return {network.name: network.module for network in self.networks()} | self.text_encoders()

    # Drawing

    def require_drawable(self) -> None:
        """Raise EffaceError where efface's own drawing is not known to be the pipeline's call."""
        if self.pipelines:
            require_own_call(self.pipeline, self.pipelines)

    @abstractmethod
    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        """What the scheduler takes for the denoiser's output (batch channels height width) at a timestep.

        `guidance` matters to guidance-distilled models only, which take it as an input; None is the pipeline's default.
        """

    @abstractmethod
    def latent_shape(self, side: Side) -> tuple[int, int, int]:
        """(channels height width) of the latents of a picture of `side` pixels; raises UsageError where its cells do not fit."""

    def latent_dtype(self, states: Tensor) -> torch.dtype:
        """Precision of the latents while they are denoised."""
        return states.dtype

    def guides(self, guidance: float) -> bool:
        """Whether the unconditional half is drawn too."""
        return guidance > 1

    def guidance_of_call(self, arguments: Mapping[str, Any]) -> float | None:
        """Guidance scale of the pipeline's own call with these arguments; None where it draws no unconditional half."""
        scale = arguments.get("guidance_scale")
        return float(scale) if scale is not None and self.guides(scale) else None

    def weight_of_prompt(self, guidance: float) -> float:
        """How often the conditional output counts in `guide`."""
        return guidance

    def guide(self, unconditional: Tensor, conditional: Tensor, guidance: float) -> Tensor:
        """The output that guidance makes of the unconditional and the conditional one."""
        return unconditional + guidance * (conditional - unconditional)

    def set_timesteps(self, scheduler: Any, steps: int, latents: Tensor) -> None:
        """Tell a scheduler how many steps pictures like `latents` take."""
        scheduler.set_timesteps(steps, device=latents.device)

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (batch 3 height width), −1 to 1, of scaled latents."""
        vae = self.pipeline.vae
        shifted = latents.to(vae.dtype) / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
        return vae.decode(shifted, return_dict=False)[0]

    def compress(self, pixels: Tensor) -> Tensor:
        """Scaled latents (batch channels height width) of pixels in −1 to 1: `decode` the other way, without chance."""
        vae = self.pipeline.vae
        return (encoded(vae, pixels) - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor

    def standard(self) -> Standard:
        """Steps and guidance of the pipeline's own call."""
        steps, guidance = self.default("num_inference_steps"), self.default("guidance_scale")
        return Standard(50 if steps is None else int(steps), 7.5 if guidance is None else float(guidance))

    def default(self, name: str) -> Any:
        """The default of an argument of the pipeline's own call; None where it has none."""
        argument = inspect.signature(type(self.pipeline).__call__).parameters.get(name)
        return None if argument is None or argument.default is inspect.Parameter.empty else argument.default

    def check_unguided(self, negative: str | None) -> None:
        """Raise UsageError for a negative prompt that a family without an unconditional half would silently ignore."""
        if negative and not self.guides(float("inf")):
            raise UsageError(
                f"{self.name} is guidance-distilled and draws no unconditional half, so the negative prompt {negative!r} "
                "would be ignored: leave it out."
            )


def encoded(vae: Any, pixels: Tensor) -> Tensor:
    """What an autoencoder makes of pixels (batch 3 height width, of videos with frames before height): the mode, where it
    gives a distribution."""
    found = vae.encode(pixels.to(vae.dtype), return_dict=False)[0]
    return found if isinstance(found, Tensor) else found.mode()
