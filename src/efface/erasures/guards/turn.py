"""Whose turn it is: which rows of the denoiser's call are conditional, and what guidance makes of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from efface.erasures.guards.aside import argument_names, latents_of
from efface.erasures.selection import of_pictures
from efface.errors import EffaceError
from efface.models.caller import call_arguments, drawing_by_efface, picture_at_work, pipeline_at_work
from efface.models.metadata import metadata_of
from efface.models.model import Model

Way = Literal["halves", "conditional", "unconditional", "distilled", "unguided", "single"]
LONE = (
    "the denoiser is called by itself, so that nobody knows whether and how it is guided, which a guard must know: call the "
    "pipeline, or draw with efface."
)
UNGUIDED = "a guard acts through guidance, and this picture is drawn without: nothing is erased from it."
PARTLY = "a guard acts through guidance, and steps of this picture are drawn without: nothing is erased in them."
ODD = (
    "the denoiser's rows are not an unconditional half and a conditional one of the same latents, so that a guard cannot tell what "
    "it is to change: call a plain text-to-image, image-to-image or inpainting pipeline."
)


class OddRowsError(EffaceError):
    """Of which a guard cannot tell what it is to change."""


class Turn(NamedTuple):
    """One call of the denoiser."""

    way: Way
    """Both halves at once; one of two calls; no unconditional half, since the model was distilled with guidance, or since nobody
    asked for it; or a single prediction, which is part of no picture."""
    conditional: slice
    """The rows of the prompt."""
    unconditional: slice
    """The rows of the negative prompt."""
    guidance: float | None
    """Guidance scale; 1 where a distilled model has none, None where nothing guides."""
    negative: tuple[str, ...] | None
    """Negative prompts, one a picture or one for all; None where they were given as embeddings."""
    on_conditional: bool
    """Whether the change belongs to the conditional output; on the unconditional one where a pipeline rescales by the former."""


@dataclass
class Follower:
    """Follows the calls for a picture: tells the unconditional one of two from the conditional one before it, which has the same
    latents at the same level, and calls of half the rows from those with both halves."""

    level: float = -1.0
    latents: Any = None
    output: Tensor | None = None
    """What the conditional call returned, where that was kept."""
    picture: object = None
    rows: int = 0
    """Of the picture's first call."""

    def at(self, latents: Any) -> None:
        """Note a call; what was left of another picture, which may have been broken off, is forgotten."""
        if picture_at_work() is not self.picture or not self.rows:
            self.picture, self.rows = picture_at_work(), len(latents)
            self.end()

    def has_shrunk(self, latents: Any) -> bool:
        """Whether a call has half the rows that the picture's first one had: guidance was left out."""
        return self.picture is not None and 2 * len(latents) == self.rows

    def follows(self, level: float, latents: Any) -> bool:
        """Whether a call is the second at a level."""
        return self.latents is not None and level == self.level and _equal(self.latents, latents)

    def begin(self, level: float, latents: Any) -> None:
        """Note a conditional call."""
        self.level, self.latents, self.output = level, latents, None

    def end(self) -> None:
        """Forget it."""
        self.latents = self.output = None


@dataclass
class Picture:
    """What a guard remembers while a picture is drawn, and forgets at another one, and when the noise level rises again."""

    called: object = None
    first: float = -1.0
    last: float = -1.0
    rows: int = 0
    memory: dict[str, Any] = field(default_factory=dict)

    def at(self, level: float, rows: int) -> dict[str, Any]:
        """The memory at a level, empty where a new picture begins."""
        called = picture_at_work()
        if called is not self.called or level > self.last or level >= self.first or rows != self.rows:
            self.called, self.first, self.rows, self.memory = called, level, rows, {}
        self.last = level
        return self.memory


def model_at_work() -> Model:
    """The model whose pipeline is drawing; EffaceError where the denoiser is called by itself."""
    pipeline = pipeline_at_work()
    if pipeline is None:
        raise EffaceError(LONE)
    return Model(pipeline)


def is_distilled(model: Model) -> bool:
    """Whether a model draws no unconditional half at any guidance, having been distilled with it."""
    return not model.guides(float("inf"))


def turn_of(model: Model, module: Any, args: Any, kwargs: Any, level: float, follower: Follower) -> Turn:
    """Which turn a call of the denoiser is.

    Raises:
        EffaceError: it has other rows than one half or two.
    """
    family, said, arguments = model.family, drawing_by_efface(), call_arguments()
    latents = latents_of(module, args, kwargs)
    follower.at(latents)
    everything, half = slice(0, len(latents)), len(latents) // 2
    turn = Turn(
        way="unguided", conditional=everything, unconditional=slice(0, 0), guidance=None, negative=None,
        on_conditional=family.guided_calls != "apart",
    )  # fmt: skip
    if said is not None:
        turn = turn._replace(negative=(said.negative or "",), guidance=said.guidance)
        if said.halves:
            return _halved(turn, latents, slice(half, None), slice(0, half))
        if is_distilled(model):
            scale = family.standard().guidance if said.guidance is None else said.guidance
            return turn._replace(way="distilled", guidance=_own_guidance(model, scale))
        if said.guidance is None:
            return turn._replace(way="single", guidance=usual_guidance(model))
        return turn
    if arguments is None:
        raise EffaceError(LONE)
    guidance = family.guidance_of_call(_current(model.pipeline, arguments))
    apart = family.guided_calls == "apart"
    turn = turn._replace(guidance=guidance, negative=_negatives(arguments, halves=guidance is not None and not apart))
    if guidance is None:
        if is_distilled(model):
            scale = arguments.get("guidance_scale") or family.standard().guidance
            return turn._replace(way="distilled", guidance=_own_guidance(model, float(scale)))
        return turn
    if apart:
        if follower.follows(level, latents):
            return turn._replace(way="unconditional", conditional=slice(0, 0), unconditional=everything)
        return turn._replace(way="conditional")
    if follower.has_shrunk(latents):
        return turn
    first, second = slice(0, half), slice(half, None)
    positive, negative = (first, second) if family.guided_calls == "positive-first" else (second, first)
    return _halved(turn, latents, positive, negative)


def usual_guidance(model: Model) -> float:
    """The scale by which the model's pictures are usually guided."""
    return (metadata_of(model.pipeline) or model.family.standard()).guidance


def weight_of(model: Model, turn: Turn) -> float:
    """How often the conditional output counts in a guided step."""
    return 1.0 if turn.guidance is None else model.family.weight_of_prompt(turn.guidance)


def warn_once(owner: Any, message: str) -> None:
    """Warn the first time that a hook has something to say."""
    if message not in owner.said:
        owner.said.add(message)
        warnings.warn(message, stacklevel=3)


def _halved(turn: Turn, latents: Any, conditional: slice, unconditional: slice) -> Turn:
    if len(latents) % 2 or not _equal(latents[conditional], latents[unconditional]):
        raise OddRowsError(ODD)
    return turn._replace(way="halves", conditional=conditional, unconditional=unconditional)


def _negatives(arguments: Any, halves: bool) -> tuple[str, ...] | None:
    """The negative prompts of the pictures of a call; None where they were given as embeddings."""
    if arguments.get("negative_prompt_embeds") is not None:
        return None
    given = arguments.get("negative_prompt")
    return of_pictures((given or "",) if given is None or isinstance(given, str) else tuple(given), halves=halves)


def _current(pipeline: Any, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of a call with the guidance scale as a callback may have left it."""
    scale = getattr(pipeline, "_guidance_scale", None)
    return arguments if scale is None or "guidance_scale" not in arguments else {**arguments, "guidance_scale": scale}


def further_negatives(arguments: Mapping[str, Any] | None) -> list[str]:
    """Names of the arguments in which a call gives further text encoders negative prompts of their own."""
    given = arguments or {}
    names = ("negative_prompt_2", "negative_prompt_3")
    return [name for name in names if given.get(name) and given[name] != given.get("negative_prompt")]


def _own_guidance(model: Model, scale: float) -> float:
    """The scale that a distilled network is given; 1 where it takes none."""
    module = model.networks()[0].module
    takes = {"guidance", "timestep_cond"} & set(argument_names(module))
    config: Any = module.config
    if (
        not takes
        or (config.get("guidance_embeds") is False)
        or ("guidance" not in takes and not config.get("time_cond_proj_dim"))
    ):
        return 1.0
    return max(scale, 1.0)


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, list):
        return len(first) == len(second) and all(map(torch.equal, first, second))
    return first.shape == second.shape and torch.equal(first, second)


Warn = Callable[[str], None]
