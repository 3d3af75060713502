"""efface.erase: model, concept and method in, erasure out; everything is decided before anything is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from efface.api.erase_plan import ErasePlan
from efface.api.resolve import read, resolve
from efface.concepts.concept import Concept
from efface.errors import UsageError
from efface.profiles.base import profile_of
from efface.registry import configure

if TYPE_CHECKING:
    from efface.erasers.base import Eraser, Retaining
    from efface.erasures import Erasure
    from efface.models.model import Model


FEW = 5
"""Concepts up to which one map is made for all by default."""


def erase(
    pipeline: Any,
    concept: str | Concept | Sequence[str | Concept],
    *,
    method: str | None = None,
    config: Any = None,
    judge: Any = None,
    as_published: bool = False,
    **options: Any,
) -> Erasure:
    """Make an erasure; the pipeline itself is not changed until the erasure is attached.

    What was decided, and why, stands in `erasure.provenance.notes["decisions"]`; `plan_erasure` says it before.

    Args:
        pipeline: any diffusers pipeline of a known family, or for `sauce` a `VisionLanguageModel`.
        concept: a name, a preset ("nudity", "unsafe", "imagenette", "artists"), a Concept, or several of them.
        method: name of the eraser ("rece", "uce"); by default `rece`, and `gated` for more than five concepts.
        config: the method's Config; by default its published values, or those that were found on this model.
        judge: for methods that can look at pictures, a Judge or the short name of one ("nudenet", "clip:FOLDER:church,house",
            or "own" for the one that the model brings). RECE keeps the best epoch by a Judge whose classes name the concepts,
            by a detector, or by a function from an erasure to the share of pictures that still show them; SAeUron calibrates
            with a Judge.
        as_published: by what the method's authors ran, traps of their code included (docs/closed_form.md, docs/saeuron.md), instead
            of the defaults; nothing is retained but what they retain.
        **options: fields of the method's Config, instead of `config`. `keep=[...]` names prompts to retain, `keep=[]`
            none; without it the preset's, or what stands beside the concept in the model's text space is retained. Prompts
            that name the concept are left out with a warning; those that the model cuts are warned of.

    Raises:
        UsageError: unknown method, option or judge, or an empty concept.
        EffaceError: a model that cannot be edited.
    """
    from efface.models.precision import own_arithmetic

    with own_arithmetic():
        plan = plan_erasure(
            pipeline, concept, method=method, config=config, judge=judge, as_published=as_published, **options
        )
        return plan.run()


def plan_erasure(
    pipeline: Any,
    concept: str | Concept | Sequence[str | Concept],
    *,
    method: str | None = None,
    config: Any = None,
    judge: Any = None,
    as_published: bool = False,
    remarks: Sequence[str] | None = None,
    **options: Any,
) -> ErasePlan:
    """Everything that `erase` decides, in a moment and without editing anything; arguments and errors as of `erase`.

    Args:
        remarks: what is known of how the concepts' names were read; by default the profile is asked of those given as text.
    """
    from efface.api.decisions import about_erasing, why_retained
    from efface.api.erase_vlm import on_pictures, plan_on_vlm
    from efface.erasers import ERASERS
    from efface.erasers.base import Retaining, Settling
    from efface.erasures.conditions import require_kind
    from efface.models.model import Model
    from efface.models.vlm import VisionLanguageModel
    from efface.training.config import Training

    if method is not None:
        ERASERS.load(method)  # an unknown one is refused before anything is read
    if isinstance(pipeline, VisionLanguageModel) or (method is not None and on_pictures(method)):
        return plan_on_vlm(
            pipeline,
            concept,
            method=method,
            config=config,
            judge=judge,
            as_published=as_published,
            options=options,
        )
    concepts = resolve(concept, pipeline)
    method = method or ("rece" if len(concepts) <= FEW else "gated")
    eraser = ERASERS.load(method)
    model = Model(pipeline)
    if config is not None and (options or as_published):
        raise UsageError("give either a config or its fields as options, not both.")
    if config is None:
        config = _config(eraser, options, profile_of(pipeline).settings(method, concepts[0]), concepts, as_published)
    if isinstance(config, Training):
        require_kind("delta", model)
        model.family.latent_shape(config.side)  # a size that the model cannot draw is refused
    judge = _opened(judge, concepts[0], pipeline)
    named = not isinstance(config, Retaining) or config.keep is not None
    if isinstance(config, Retaining):
        config = _retaining(config, model, concepts)
    if isinstance(eraser, Settling):
        config = eraser.settle(config, concepts)
    reason = why_retained(concepts, named=named, keep=dataclasses.asdict(config).get("keep") or ())
    said = read(concept, pipeline) if remarks is None else remarks
    return ErasePlan(
        model=model,
        method=method,
        concepts=concepts,
        config=config,
        judge=judge,
        decisions=about_erasing(pipeline, concepts, reason, _seen_by(judge, method, config), said),
    )


def _retaining(config: Retaining, model: Model, concepts: Sequence[Concept]) -> Retaining:
    """The configuration with the prompts that it retains: those that were given, but for what names a concept, or what is proposed
    and, of maps of text, what is erased on the pipeline already."""
    from efface.erasers.base import RetainingRows
    from efface.models.neighbours import checked_keep, retained_prompts

    given = config.keep
    if given is not None:
        keep = checked_keep(model, given, concepts)
    else:
        keep = retained_prompts(model, concepts, blank=config.proposes_blank)
        if isinstance(config, RetainingRows):
            keep = list(dict.fromkeys((*keep, *_erased_before(model.pipeline, concepts))))
    return config if keep == given else dataclasses.replace(config, keep=tuple(keep))


def _seen_by(judge: Any, method: str, config: Any) -> Any:
    """What is said of the judge: its name, and where the method has no use for it."""
    from efface.erasers.base import Retaining

    name = getattr(judge, "name", judge and "a function")
    if judge is not None and isinstance(config, Retaining) and not config.asks_judge:
        return f"{name}, which is not asked: {method} looks at no pictures by these options"
    return name


def _opened(judge: Any, concept: Concept, pipeline: Any) -> Any:
    """The judge of a short name, the model's own for `own`, or what was given."""
    if not isinstance(judge, str):
        return judge
    from efface.api.resolve import judge_of
    from efface.judges import open_judge

    return judge_of(None, concept, pipeline) if judge == "own" else open_judge(judge)


def _erased_before(pipeline: Any, concepts: Sequence[Concept]) -> list[str]:
    """Prompts of what is erased on a pipeline already: retained by the next map, which acts first, they stay where the maps
    after it put them."""
    from efface.erasures import attached_to

    names = {concept.name for concept in concepts}
    before = [c for attachment in attached_to(pipeline) for c in attachment.erasure.provenance.concepts]
    return [prompt for c in before if c.name not in names for prompt in c.prompts()]


def _config(
    eraser: Eraser, options: dict[str, Any], settings: dict[str, Any], concepts: Sequence[Concept], as_published: bool
) -> Any:
    """The options over the model's own settings, or over the authors', which take of the model's only the place that is edited."""
    from efface.erasers.base import published_config

    if not as_published:
        return configure(eraser.Config, options, settings)
    configure(eraser.Config, options)  # refuses what is unknown
    return published_config(eraser, concepts, {k: v for k, v in settings.items() if k == "site"} | options)
