"""efface.erase: model, concept and method in, erasure out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from efface.api.resolve import resolve
from efface.concepts.concept import Concept
from efface.errors import UsageError
from efface.profiles.base import profile_of
from efface.registry import configure

if TYPE_CHECKING:
    from efface.erasers.base import Eraser
    from efface.erasures import Erasure


def erase(
    pipeline: Any,
    concept: str | Concept | Sequence[str | Concept],
    *,
    method: str = "rece",
    config: Any = None,
    judge: Any = None,
    as_published: bool = False,
    **options: Any,
) -> Erasure:
    """Make an erasure; the pipeline itself is not changed until the erasure is attached.

    Args:
        pipeline: any diffusers pipeline of a known family.
        concept: a name, a preset ("nudity", "unsafe", "imagenette", "artists"), a Concept, or several of them.
        method: name of the eraser ("rece", "uce").
        config: the method's Config; by default its published values, or those that were found on this model.
        judge: for methods that can look at pictures. RECE keeps the best epoch by a Judge whose classes name the concepts,
            or by a function from an erasure to the share of pictures that still show them; SAeUron calibrates with a Judge.
        as_published: by what the method's authors ran, traps of their code included (docs/closed_form.md, docs/saeuron.md), instead
            of the defaults; nothing is retained but what they retain.
        **options: fields of the method's Config, instead of `config`. `keep=[...]` names prompts to retain, `keep=[]`
            none; without it the preset's, or the nearest neighbours in the model's text space are retained. Prompts that name
            the concept are left out with a warning; those that the model cuts are warned of.

    Raises:
        UsageError: unknown method or option, or an empty concept.
        EffaceError: a model that cannot be edited.
    """
    from efface.erasers import ERASERS
    from efface.erasers.base import Retaining
    from efface.models.model import Model
    from efface.models.neighbours import checked_keep, retained_prompts

    eraser = ERASERS.load(method)
    model = Model(pipeline)
    concepts = resolve(concept, pipeline)
    if config is not None and (options or as_published):
        raise UsageError("give either a config or its fields as options, not both.")
    if config is None:
        config = _config(eraser, options, profile_of(pipeline).settings(method, concepts[0]), concepts, as_published)
    if isinstance(config, Retaining):
        named = config.keep
        keep = retained_prompts(model, concepts) if named is None else checked_keep(model, named, concepts)
        config = config if keep == named else dataclasses.replace(config, keep=tuple(keep))
    started = time.perf_counter()
    erasure = eraser.erase(model, concepts, config, judge)
    notes = erasure.provenance.notes | {"seconds": round(time.perf_counter() - started, 3)}
    plugin = ERASERS.origin(method)
    origin = dataclasses.replace(erasure.provenance, notes=notes, plugin="" if plugin is None else str(plugin))
    return dataclasses.replace(erasure, provenance=origin)


def _config(
    eraser: Eraser, options: dict[str, Any], settings: dict[str, Any], concepts: Sequence[Concept], as_published: bool
) -> Any:
    """The options over the model's own settings, or over the authors', which take of the model's only the place that is edited."""
    from efface.erasers.base import published_config

    if not as_published:
        return configure(eraser.Config, options, settings)
    configure(eraser.Config, options)  # refuses what is unknown
    return published_config(eraser, concepts, {k: v for k, v in settings.items() if k == "site"} | options)
