"""Erasing from a vision-language model: the same verb, decided from pictures instead of prompts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from efface.api.erase_plan import ErasePlan
from efface.concepts.concept import Concept
from efface.concepts.reading import split_names
from efface.errors import EffaceError, UsageError
from efface.io.progress import Progress, silent
from efface.models.vlm import VisionLanguageModel
from efface.registry import configure

if TYPE_CHECKING:
    from efface.erasures import Erasure

METHOD = "sauce"
"""The method that is taken where none is named."""


class VLMErasePlan(ErasePlan):
    """An erasure from a vision-language model that is decided and not yet made."""

    @property
    def vlm(self) -> VisionLanguageModel:
        """The model."""
        model: Any = self.model
        return model

    def pictures(self) -> int:
        """None are drawn."""
        return 0

    def bytes(self) -> int:
        """Bytes of the model's weights."""
        return sum(p.numel() * p.element_size() for p in self.vlm.network.parameters())

    def run(self, progress: Progress = silent) -> Erasure:
        """Make it."""
        from efface.erasers import ERASERS

        started = time.perf_counter()
        erasure = ERASERS.load(self.method).erase(self.model, self.concepts, self.config, self.judge)
        notes = erasure.provenance.notes | {
            "seconds": round(time.perf_counter() - started, 3),
            "decisions": self.decisions,
        }
        return dataclasses.replace(erasure, provenance=dataclasses.replace(erasure.provenance, notes=notes))


def plan_on_vlm(
    vlm: Any,
    concept: str | Concept | Sequence[str | Concept],
    *,
    method: str | None,
    config: Any,
    judge: Any,
    as_published: bool,
    options: dict[str, Any],
) -> VLMErasePlan:
    """Everything that `erase` decides where the model or the method is about pictures that are given; arguments as of `erase`.

    Raises:
        EffaceError: method and model are not of one kind.
        UsageError: no concept or an unknown option was given, or a judge.
    """
    from efface.erasers import ERASERS
    from efface.erasers.base import published_config

    method = method or METHOD
    eraser = ERASERS.load(method)
    require_fit(method, vlm)
    if judge is not None:
        raise UsageError(
            f"{method} looks at pictures that are given, and at none that a judge could judge: leave the judge out."
        )
    if config is not None and (options or as_published):
        raise UsageError("give either a config or its fields as options, not both.")
    concepts = _concepts(concept)
    if config is None:
        config = published_config(eraser, concepts, options) if as_published else configure(eraser.Config, options)
    weights = next(vlm.network.parameters())
    return VLMErasePlan(
        model=vlm,
        method=method,
        concepts=concepts,
        config=config,
        judge=None,
        decisions={
            "model": vlm.name,
            "device": str(weights.device),
            "dtype": str(weights.dtype).removeprefix("torch."),
            "concepts": [{"name": c.name, "kind": c.kind} for c in concepts],
            "retained": "what the other pictures show",
        },
    )


def on_pictures(method: str) -> bool:
    """Whether a method edits vision-language models."""
    from efface.erasers import ERASERS
    from efface.erasers.base import FromPictures

    return issubclass(ERASERS.load(method).Config, FromPictures)


def require_fit(method: str, model: Any) -> None:
    """Raise EffaceError where a method is of text-to-image models and the model is not, or the other way round."""
    is_vlm = isinstance(model, VisionLanguageModel)
    if on_pictures(method) and not is_vlm:
        raise EffaceError(
            f"{method} edits vision-language models, and {type(model).__name__} draws pictures: take another method, such as rece."
        )
    if is_vlm and not on_pictures(method):
        raise EffaceError(
            f"{method} edits models that draw pictures, and {model.name} is a vision-language model, which answers questions about "
            f"them: take {METHOD}."
        )


def _concepts(concept: str | Concept | Sequence[str | Concept]) -> tuple[Concept, ...]:
    """The concepts that are named, each once; their names are those of folders, and nothing is inferred of them."""
    given = [concept] if isinstance(concept, str | Concept) else list(concept)
    named = [name for item in given for name in (split_names(item) if isinstance(item, str) else (item,))]
    if not named or any(isinstance(item, str) and not item.strip() for item in named):
        raise UsageError("no concept was given: name what is to be erased, for example 'church'.")
    concepts = [item if isinstance(item, Concept) else Concept(item) for item in named]
    return tuple({item.name: item for item in concepts}.values())
