"""When an erasure may go on a model: the right base, weights that can be edited, and nobody else behind them."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from efface.erasures.interface import ModelEdit
from efface.erasures.state import networks_in
from efface.errors import EffaceError
from efface.families.projections import Projection
from efface.families.storage import REMEDY
from efface.models.footprint import Footprint, tensors_at
from efface.models.likeness import Difference
from efface.models.metadata import metadata_of
from efface.models.model import Model
from efface.models.parameters import parameters_of
from efface.models.spelling import one_name, spelt_as
from efface.models.tensors import tensors_of
from efface.models.unchanged import known_difference


def require_base(erasure: ModelEdit, model: Model, force: bool) -> None:
    """Raise EffaceError where an erasure was made for another model; warn where that is forced."""
    for part in erasure.parts:
        _require_base(part, model, force)


def _require_base(erasure: ModelEdit, model: Model, force: bool) -> None:
    require_kind(erasure.kind, model)
    difference = difference_from_base(erasure, model)
    if not difference.text:
        if difference.remark:
            warnings.warn(f"the model under this erasure of {erasure.names}: {difference.remark}.", stacklevel=6)
        return
    message = (
        f"this erasure of {erasure.names} was made for {_former(erasure, model)}: the pipeline has {difference.text}"
    )
    fits = not difference.structural or _fits(erasure, model)
    if not force or not fits:
        remedy = "attach with force=True if it is a fine-tune" if fits else "make an erasure for this model"
        raise EffaceError(f"{message}; {remedy}.")
    warnings.warn(f"{message}; attached because of force=True.", stacklevel=6)


def require_kind(kind: str, model: Model) -> None:
    """Raise EffaceError where the family of a model takes no erasures of a kind."""
    kinds = model.family.kinds
    if kinds and kind not in kinds:
        raise EffaceError(
            f"{model.family.name} takes erasures of the kinds {', '.join(kinds)}, and this one is a {kind}: erase with another method "
            "(docs/families.md)."
        )


def _former(erasure: ModelEdit, model: Model) -> str:
    """What an erasure that does not fit was made for, as far as its file says."""
    named, known = erasure.provenance.notes.get("decisions", {}).get("model"), metadata_of(model.pipeline)
    return f"an earlier model of the name {named!r}" if known and named == known.name else "another model"


def difference_from_base(erasure: ModelEdit, model: Model) -> Difference:
    """In what a model differs from the one that an erasure was made for."""
    return known_difference(erasure.provenance.base, model)


def _fits(erasure: ModelEdit, model: Model) -> bool:
    """Whether an erasure can act on a model of other names or shapes: everything that it touches is there, as it needs it."""
    base = erasure.provenance.base
    if base.family != model.family.name:
        return False
    touched = erasure.touches()
    if touched is None:
        return base.width == model.text_projections()[0].width
    found = tensors_at(model, touched)
    if isinstance(base, Footprint):
        return all(name in found and found[name].shape == entry.shape for name, entry in base.tensors.items())
    return all(any(f"{name}.".startswith(f"{one_name(part)}.") for name in found) for part in touched)


def require_foldable(model: Model, erasure: ModelEdit) -> None:
    """Raise EffaceError where a weight that an erasure edits is missing, adapted, offloaded or quantised."""
    tensors = {tensor.own_name: tensor for tensor in tensors_of(model.components())}
    adapted = {f"{p.name}.weight" for p in mapped_projections(model, erasure) if p.adapted}
    for name in target_names(model, erasure):
        if name not in tensors:
            raise EffaceError(
                f"the model has no weight called {name}, which the erasure edits: was it made for another model?"
            )
        if name in adapted and erasure.acts_on == "text":
            raise EffaceError(
                f"an adapter (LoRA) sits on {name}, whose own path folding would miss: attach mapped instead."
            )
        storage = tensors[name].storage
        if not storage.is_plain:
            way = "attach mapped, or " if erasure.acts_on == "text" else ""
            raise EffaceError(f"{name} {storage.words} and cannot be edited in place: {way}{REMEDY}.")


def require_order(model: Model, erasure: ModelEdit, mapped: bool) -> None:
    """Raise EffaceError where weights would be edited under text states that are mapped already."""
    if not mapped:
        return
    projections = {f"{p.name}.weight" for p in [*model.text_projections(), *model.family.pooled_projections()]}
    if projections & set(target_names(model, erasure)):
        raise EffaceError(
            "a mapped erasure is attached, and editing the projections under it would change the order in which they "
            "compose: remove it, attach this one first, then the other (or fold both)."
        )


def require_alone(model: Model, erasure: ModelEdit) -> None:
    """Raise EffaceError where a pipeline with a scheduler of its own holds a network whose weights would be edited."""
    components = {name.partition(".")[0] for name in target_names(model, erasure)}
    networks = {id(part): name for name, part in networks_in(model.pipeline) if name in components}
    if others := _other_holders(model.pipeline, networks):
        gc.collect()  # a pipeline that nobody holds any more is no other
        others = _other_holders(model.pipeline, networks)
    if others:
        kind, name = others[0]
        raise EffaceError(
            f"another pipeline ({kind}) holds the same {name}, and weights that are edited are edited for both: attach mapped, "
            "or give each pipeline a copy of its own (copy.deepcopy)."
        )


def _other_holders(pipeline: Any, networks: dict[int, str]) -> list[tuple[str, str]]:
    """Class of every other pipeline that draws by itself with one of these networks, and what the network is called here."""
    from diffusers import DiffusionPipeline  # whoever folds has it already; who only erases does without

    scheduler = getattr(pipeline, "scheduler", None)
    found = []
    for thing in gc.get_objects():
        if not issubclass(type(thing), DiffusionPipeline) or thing is pipeline:
            continue
        if scheduler is not None and vars(thing).get("scheduler") is scheduler:
            continue
        found += [(type(thing).__name__, networks[id(part)]) for _, part in networks_in(thing) if id(part) in networks]
    return found


def warn_of_unmapped(model: Model, erasure: ModelEdit) -> None:
    """Warn where text enters past an erasure's maps."""
    if unmapped := model.family.unreached(pooled=erasure.maps_pooled):
        warnings.warn(f"the erasure does not reach {' and '.join(unmapped)}: text enters there unmapped.", stacklevel=6)


def target_names(model: Model, erasure: ModelEdit) -> list[str]:
    """The weights that an erasure edits, by the names that the model gives them."""
    targets = erasure.targets()
    if targets is None:
        return [f"{p.name}.weight" for p in mapped_projections(model, erasure)]
    return list(spelt_as(targets, parameters_of(model)).values())


def mapped_projections(model: Model, erasure: ModelEdit) -> list[Projection]:
    """The matrices behind what an erasure maps: those that read text, and those of pooled text where it maps that too."""
    return [*model.text_projections(), *(model.family.pooled_projections() if erasure.maps_pooled else ())]


def component_of(components: Mapping[str, nn.Module], name: str) -> str:
    """The component that a tensor's full name begins with.

    Raises:
        EffaceError: the model has none that does.
    """
    fitting = [component for component in components if name.startswith(f"{component}.")]
    if not fitting:
        raise EffaceError(
            f"the model has no weight called {name}, which the erasure edits: was it made for another model?"
        )
    return max(fitting, key=len)
