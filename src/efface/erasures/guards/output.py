"""Guards on what the denoiser returns: the call is asked again with the concept's text, and its output is changed.

Guidance makes o_u + g (o_p − o_u) of the unconditional and the conditional output. To draw o_u + g (o_p − o_u − γ) instead, o_p − γ
is returned for o_p; where a pipeline asks for o_p first and for o_u then, o_u + γ g / (g − 1) for o_u. A model distilled with
guidance g has o_p' ≈ o_u + g (o_p − o_u) for an output, of which g γ is taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from efface.erasures.guards.aside import call_aside, encoded, text_arguments
from efface.erasures.guards.call import CLOSE, LATE, Call, read, require_no_cache, without_graph, write
from efface.erasures.guards.fresh import Fresh
from efface.erasures.guards.turn import (
    PARTLY,
    UNGUIDED,
    Follower,
    Picture,
    Turn,
    further_negatives,
    is_distilled,
    model_at_work,
    turn_of,
    warn_once,
    weight_of,
)
from efface.errors import EffaceError
from efface.families.networks import Hook
from efface.models.caller import call_arguments, is_aside, picture_at_work
from efface.models.model import Model

APPROXIMATE = (
    "the model was distilled with guidance and draws no unconditional half: the guard takes its effect from two further predictions, "
    "which is an approximation."
)


class Outputs(NamedTuple):
    """What the denoiser says of the same latents (batch …)."""

    unconditional: Tensor
    """o_u, of the negative prompt."""
    conditional: Tensor
    """o_p, of the prompt."""
    concept: Tensor
    """o_S, of the concept."""
    unit: Tensor
    """c: a difference of outputs times c is one of noise ε (batch 1 …)."""
    share: float
    """How much of the schedule is over, 0 to 1, by the noise level."""
    weight: float
    """How often the conditional output counts in the guided one."""


class OutputRule(ABC):
    """A rule that takes something of a picture's conditional output."""

    phrases: tuple[str, ...]
    """The concept's texts, read as one, separated by commas."""
    on_negative: ClassVar[bool] = False
    """Whether the concept's text stands behind the negative prompt, and not by itself."""
    beside_empty: ClassVar[bool] = False
    """Whether o_u is that of the empty prompt whatever negative prompt the caller gives, since a threshold was found beside it."""

    @abstractmethod
    def change(self, outputs: Outputs, memory: dict[str, Any]) -> Tensor | None:
        """γ in the denoiser's own units (batch …), which is taken of the conditional output; None leaves all as it is.

        `memory` is empty at the first call of a picture, and of a single prediction.
        """

    @property
    def begins(self) -> float:
        """Share of the schedule before which every picture stays as it is."""
        return 0.0

    @property
    def text(self) -> str:
        """The concept's text."""
        return ", ".join(self.phrases)

    def require(self, model: Model) -> None:  # noqa: B027
        """Raise EffaceError where a model cannot be guarded so; by default every one can."""

    def hooks(self, model: Model, scale: float, vectors: Mapping[str, Tensor]) -> list[Hook]:
        """The hook on the denoiser; none at a scale of 0 or for no text."""
        self.require(model)
        if scale == 0 or not self.text.strip():
            return []
        require_no_cache(model.networks()[0].module)
        hook = OutputHook(self, scale)
        hook.fresh.has_changed(model)
        hook.texts["concept"] = text_arguments(model, encoded(model, self.text))  # said now where nothing can encode it
        return [Hook(model.networks()[0].module, hook, before=False)]


class OutputHook:
    """A forward hook on the denoiser; copied with its network, it begins anew with what it knows of the text."""

    def __init__(self, rule: OutputRule, scale: float):
        self.rule = rule
        self.scale = scale
        self.picture = Picture()
        self.follower = Follower()
        self.guided: object = None
        """The last picture of which a step was guided."""
        self.fresh = Fresh()
        self.texts: dict[str, dict[str, Any]] = {}
        """Which text -> what the denoiser is given for it."""
        self.said: set[str] = set()

    @without_graph
    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if is_aside():
            return None
        model = model_at_work()
        require_no_cache(module)
        if self.fresh.has_changed(model):
            self.texts.clear()
        call = Call(model, module, args, kwargs)
        turn = turn_of(model, module, args, kwargs, call.level, self.follower)
        if turn.way == "unguided":
            if kwargs.get("skip_layers") is None:  # a prediction beside the guided one (SD 3.5)
                warn_once(self, PARTLY if self.guided is picture_at_work() else UNGUIDED)
            return None
        if turn.way == "conditional" and self.follower.latents is not None:
            warn_once(self, PARTLY)  # the last conditional call had no unconditional one
        if turn.way != "conditional":
            self.guided = picture_at_work()
        if self.rule.begins > call.last + CLOSE:
            warn_once(self, LATE.format(last=call.last, begins=self.rule.begins))
        raw = read(output)
        states = raw[:, : call.channels(raw)]
        if turn.way == "conditional":
            self.follower.begin(call.level, call.latents)
            self.follower.output = states
            return None
        if turn.way == "distilled":
            warn_once(self, APPROXIMATE)
        changed = self._changed(call, turn, states)
        return None if changed is None else write(output, torch.cat([changed, raw[:, states.shape[1] :]], 1))

    def _changed(self, call: Call, turn: Turn, states: Tensor) -> Tensor | None:
        """The output of a call with what the rule makes of it; None where that is nothing."""
        guided = turn.way in ("halves", "unconditional")
        rows = turn.conditional if turn.way != "unconditional" else turn.unconditional
        prompt = states[turn.conditional]
        if turn.way == "unconditional":
            assert self.follower.output is not None
            prompt = self.follower.output
            self.follower.end()
        unconditional = states[turn.unconditional] if guided else self._asked(call, rows, "empty", None)
        distilled = turn.guidance if turn.way == "distilled" and turn.guidance else 1.0
        beside = unconditional
        if self.rule.beside_empty and guided and not _is_empty(turn.negative):
            beside = self._asked(call, rows, "empty", None)
        memory = {} if turn.way == "single" else self.picture.at(call.level, len(prompt))
        gamma = self.rule.change(
            Outputs(
                unconditional=beside,
                conditional=prompt,
                concept=self._concept(call, rows, turn),
                unit=call.unit(prompt, rows) / distilled,
                share=call.share,
                weight=weight_of(call.model, turn),
            ),
            memory,
        )
        if gamma is None:
            return None
        gamma = (self.scale * gamma).to(states.dtype)
        if turn.on_conditional or not guided:
            return _with(states, rows, prompt - gamma)
        weight = weight_of(call.model, turn)
        return _with(states, turn.unconditional, unconditional + gamma * (weight / (weight - 1)))

    def _concept(self, call: Call, rows: slice, turn: Turn) -> Tensor:
        """o_S."""
        if not self.rule.on_negative:
            return self._asked(call, rows, "concept", self.rule.text)
        if further := further_negatives(call_arguments()):
            raise EffaceError(
                f"{further[0]} was given, which differs from negative_prompt, and this guard puts its text behind that alone: leave "
                f"{further[0]} out, or choose another guard, such as sld."
            )
        if turn.negative is None:
            raise EffaceError(
                "the negative prompt was given as embeddings (negative_prompt_embeds), to which no words can be added: give text."
            )
        joined = [", ".join(part for part in (given.strip(), self.rule.text) if part) for given in turn.negative]
        if len(set(joined)) == 1:
            return self._asked(call, rows, f"negative {joined[0]}", joined[0], negative=True)
        each = len(range(*rows.indices(len(call.latents)))) // len(joined)
        parts = []
        for number, text in enumerate(joined):
            start = rows.start + number * each
            parts.append(self._asked(call, slice(start, start + each), f"negative {text}", text, negative=True))
        return torch.cat(parts)

    def _asked(self, call: Call, rows: slice, name: str, text: str | None, *, negative: bool = False) -> Tensor:
        """The network's output for some rows with another text; None is the empty negative prompt."""
        if name not in self.texts:
            self.texts[name] = text_arguments(call.model, encoded(call.model, text, negative=negative))
        with torch.set_grad_enabled(torch.is_grad_enabled() and call.has_graph):
            raw = read(call_aside(call.module, call.args, call.kwargs, rows, self.texts[name]))
        return raw[:, : call.channels(raw)]


def _is_empty(negative: tuple[str, ...] | None) -> bool:
    """Whether negative prompts are known to say nothing."""
    said = negative is None or any(text.strip() for text in negative)
    return not said and not further_negatives(call_arguments())


def _with(states: Tensor, rows: slice, new: Tensor) -> Tensor:
    """States with some rows replaced."""
    start, stop, _ = rows.indices(len(states))
    return torch.cat([states[:start], new, states[stop:]])


__all__ = ["OutputHook", "OutputRule", "Outputs", "is_distilled"]
