"""efface.erase: model, concept and method in, erasure out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept, concepts_named
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.erasures import Erasure


def erase(
    pipeline: Any,
    concept: str | Concept | Sequence[str | Concept],
    *,
    method: str = "rece",
    config: Any = None,
    judge: Any = None,
    **options: Any,
) -> Erasure:
    """Make an erasure; the pipeline itself is not changed until the erasure is attached.

    Args:
        pipeline: any diffusers pipeline of a known family.
        concept: a name, a preset ("nudity", "unsafe", "imagenette", "artists"), a Concept, or several of them.
        method: name of the eraser ("rece", "uce").
        config: the method's Config; by default its published values, or the canvas's on the emoji canvas.
        judge: for methods that can look at pictures. RECE keeps the best epoch by a Judge whose classes name the concepts,
            or by a function from an erasure to the share of pictures that still show them; SAeUron calibrates with a Judge.
        **options: fields of the method's Config, instead of `config`. `keep=[...]` names prompts to retain, `keep=[]`
            none; without it the preset's, or the nearest neighbours in the model's text space are retained.

    Raises:
        UsageError: unknown method or option, or an empty concept.
        EffaceError: a model that cannot be edited.
    """
    from efface.erasers import method_module
    from efface.models.model import Model

    module = method_module(method)
    model = Model(pipeline)
    concepts = resolve(concept, pipeline)
    if config is None:
        config = _configured(module.Config, canvas_settings(method, concepts, pipeline) | options)
    elif options:
        raise UsageError("give either a config or its fields as options, not both.")
    if config.keep is None:
        config = dataclasses.replace(config, keep=tuple(retained_prompts(model, concepts)))
    started = time.perf_counter()
    erasure = module.erase(model, concepts, config, judge)
    erasure.provenance.notes["seconds"] = round(time.perf_counter() - started, 3)
    return erasure


def resolve(concept: str | Concept | Sequence[str | Concept], pipeline: Any) -> tuple[Concept, ...]:
    """The concepts that a user means, in the words of the model."""
    from efface.erasures import attached_to
    from efface.profiles.emoji import is_canvas
    from efface.profiles.emoji.concepts import canvas_concepts

    given = [concept] if isinstance(concept, str | Concept) else list(concept)
    if not given:
        raise UsageError("no concept was given: name what is to be erased, for example 'church'.")
    for item in given:
        if isinstance(item, str) and not item.strip():
            raise UsageError(f"the concept {item!r} is empty: name what is to be erased, for example 'church'.")
    if not is_canvas(pipeline):
        return tuple(c for item in given for c in ([item] if isinstance(item, Concept) else concepts_named(item)))
    # What is erased together, or is erased already, must not take each other's place.
    known = [c for item in given for c in ([item] if isinstance(item, Concept) else canvas_concepts(item))]
    known += [c for attachment in attached_to(pipeline) for c in attachment.erasure.provenance.concepts]
    gone = {concept.name for concept in known}
    return tuple(c for item in given for c in ([item] if isinstance(item, Concept) else canvas_concepts(item, gone)))


def retained_prompts(model: Any, concepts: Sequence[Concept]) -> list[str]:
    """What an erasure retains when its user names nothing: the presets' prompts, or the nearest neighbours."""
    from efface.models.neighbours import neighbours

    proposed = [prompt for c in concepts for prompt in (c.keep or neighbours(model, c))]
    erased = {prompt for c in concepts for prompt in c.prompts()}
    return [prompt for prompt in dict.fromkeys(proposed) if prompt not in erased]


def canvas_settings(method: str, concepts: Sequence[Concept], pipeline: Any) -> dict[str, Any]:
    """The canvas's own hyper-parameters, since the published ones were found on Stable Diffusion; {} elsewhere."""
    from efface.profiles.emoji import is_canvas
    from efface.profiles.emoji.settings import SETTINGS

    if not is_canvas(pipeline):
        return {}
    settings = SETTINGS.get(method, {"object": {}})
    return dict(settings.get(concepts[0].kind, settings["object"]))


def _configured(config: Any, options: dict[str, Any]) -> Any:
    known = [field.name for field in dataclasses.fields(config)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(f"the option {unknown[0]!r} is unknown; expected one of: {', '.join(known)}.")
    return config(**options)
