"""Whether a model is still the one that was looked at: what follows from its weights is found once and kept while they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from efface.models.fingerprint import Fingerprint, difference_as_made, fingerprint
from efface.models.footprint import Footprint, difference_from, footprint
from efface.models.likeness import Difference
from efface.models.model import Model
from efface.models.precision import own_arithmetic

T = TypeVar("T")
_KNOWN: WeakKeyDictionary[nn.Module, dict[Hashable, tuple[Any, Any]]] = WeakKeyDictionary()
"""Denoiser -> what was asked of which components -> state of the weights and answer."""


def known_fingerprint(model: Model) -> Fingerprint:
    """Fingerprint of a model's unedited weights, from memory where no weight has changed since."""
    return _known(model, "fingerprint", lambda: fingerprint(model))


def known_footprint(model: Model, touched: Sequence[str] | None = None) -> Footprint:
    """What an erasure touches of a model, as `efface.models.footprint.footprint` has it, from memory likewise."""
    names = None if touched is None else tuple(touched)
    return _known(model, ("footprint", names), lambda: footprint(model, names))


def known_difference(base: Fingerprint | Footprint, model: Model) -> Difference:
    """In what a model differs from the one that an erasure was made for, from memory likewise."""
    if isinstance(base, Fingerprint):
        return _known(model, base, lambda: difference_as_made(base, model))
    return _known(model, base.key, lambda: difference_from(base, model))


def _known(model: Model, question: Hashable, find: Callable[[], T]) -> T:
    """What `find` found out about a model's weights, from memory where none of them changed since."""
    components = model.components()
    known = _KNOWN.setdefault(model.networks()[0].module, {})
    which = (model.family.name, *components, question)
    state = state_of_weights(components.values())
    if which not in known or known[which][0] != state:
        with own_arithmetic():
            known[which] = (state, find())
    return known[which][1]


@torch.no_grad()
def state_of_weights(networks: Iterable[nn.Module]) -> Any:
    """Something that differs after any of the networks' tensors was replaced, moved, or written to.

    Versions count what torch itself writes; one value out of every tensor tells what was written past them (`.data`).
    """
    names: list[tuple[Any, ...]] = []
    samples: dict[torch.device, list[Tensor]] = defaultdict(list)
    for network in networks:
        for module in network.modules():
            for name, tensor in module._parameters.items():
                if tensor is None:
                    continue
                names.append((id(module), name, id(tensor), *place_in_memory(tensor)))
                if not tensor.is_meta and type(tensor) in (nn.Parameter, Tensor) and tensor.numel():
                    samples[tensor.device].append(tensor[tuple(n // 2 for n in tensor.shape)].double())
    return names, [torch.stack(values).tolist() for values in samples.values()]


def place_in_memory(tensor: Tensor) -> tuple[int, int]:
    """Address and version of a tensor; a version of −1 where torch keeps none."""
    try:
        address = tensor.data_ptr()
    except RuntimeError:  # some quantised tensors have no memory of their own
        address = 0
    return address, -1 if tensor.is_inference() else tensor._version
