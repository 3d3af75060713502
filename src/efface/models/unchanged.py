"""Whether a model is still the one that was looked at: its fingerprint is taken once and kept while it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from efface.models.fingerprint import Fingerprint, fingerprint, fingerprint_like
from efface.models.model import Model
from efface.models.precision import own_arithmetic

_KNOWN: WeakKeyDictionary[nn.Module, dict[tuple[str, ...], tuple[Any, Fingerprint]]] = WeakKeyDictionary()
"""Denoiser -> family and components -> state of the weights and fingerprint."""


def known_fingerprint(model: Model, like: Fingerprint | None = None) -> Fingerprint:
    """Fingerprint of a model's unedited weights, from memory where no weight has changed since.

    Args:
        model: whatever is attached to it.
        like: another fingerprint, whose spelling of names is taken where this is the same model.
    """
    components = model.components()
    known = _KNOWN.setdefault(model.networks()[0].module, {})
    which = (model.family.name, *components, like.structure if like else "")
    state = state_of_weights(components.values())
    if which not in known or known[which][0] != state:
        with own_arithmetic():
            known[which] = (state, fingerprint_like(model, like) if like else fingerprint(model))
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
