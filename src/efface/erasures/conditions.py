"""When an erasure may go on a model: the right base, weights that can be edited, and nobody else behind them."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from efface.erasures.interface import ModelEdit
from efface.erasures.state import State, networks_in
from efface.errors import EffaceError
from efface.families.projections import Projection
from efface.models.model import Model
from efface.models.parameters import parameters_of
from efface.models.spelling import spelt_as
from efface.models.unchanged import known_fingerprint


def require_base(erasure: ModelEdit, model: Model, force: bool) -> None:
    """Raise EffaceError where an erasure was made for another model; warn where that is forced."""
    difference, same_shape = difference_from_base(erasure, model)
    if not difference:
        return
    message = f"this erasure of {erasure.names} was made for another model: the pipeline has {difference}"
    if not force or not same_shape:
        remedy = "attach with force=True if it is a fine-tune" if same_shape else "make an erasure for this model"
        raise EffaceError(f"{message}; {remedy}.")
    warnings.warn(f"{message}; attached because of force=True.", stacklevel=5)


def difference_from_base(erasure: ModelEdit, model: Model) -> tuple[str, bool]:
    """How a model differs from the one that an erasure was made for, in words, and whether force may say it does not matter."""
    base = erasure.provenance.base
    own = known_fingerprint(model, like=base)
    return base.difference(own), own.structure == base.structure


def require_foldable(model: Model, erasure: ModelEdit) -> None:
    """Raise EffaceError where a weight that an erasure edits is missing, adapted, offloaded or quantised."""
    parameters = parameters_of(model)
    adapted = {f"{p.name}.weight" for p in mapped_projections(model, erasure) if p.adapted}
    for name in target_names(model, erasure):
        if name not in parameters:
            raise EffaceError(
                f"the model has no weight called {name}, which the erasure edits: was it made for another model?"
            )
        if name in adapted and erasure.acts_on == "text":
            raise EffaceError(
                f"an adapter (LoRA) sits on {name}, whose own path folding would miss: attach mapped instead."
            )
        if parameters[name].is_meta:
            raise EffaceError(
                f"{name} is offloaded and cannot be edited in place: attach before offloading, or attach mapped."
            )
        if not parameters[name].is_floating_point() or parameters[name].element_size() < 2:
            raise EffaceError(f"{name} is quantised ({parameters[name].dtype}): attach before quantising.")


def require_order(model: Model, erasure: ModelEdit, state: State) -> None:
    """Raise EffaceError where weights would be edited under text states that are mapped already."""
    if not state.mapped:
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
