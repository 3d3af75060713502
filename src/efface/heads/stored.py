"""A sparse head and names as parts of a tensor file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from efface.heads.fit import Accuracy
from efface.heads.head import SparseHead
from efface.heads.names import Name

PER_UNIT = ("mean", "scale", "offset", "rank")


def head_header(head: SparseHead) -> dict[str, Any]:
    """What a header says of a head."""
    return {"concepts": head.concepts, "exclusive": head.exclusive, "k": head.k}


def head_tensors(head: SparseHead, prefix: str) -> dict[str, Tensor]:
    """A head's tensors, by names that begin with `prefix`."""
    names = ("units", *PER_UNIT, "weight", "bias", "means")
    return {f"{prefix}|{name}": getattr(head, name).clone() for name in names}


def read_head(header: Mapping[str, Any], tensors: Mapping[str, Tensor], prefix: str, activations: int) -> SparseHead:
    """The head that `head_header` and `head_tensors` were made of.

    Args:
        header: what the file says of it.
        tensors: all of the file's.
        prefix: with which its own begin.
        activations: how many there are, of which it reads some.

    Raises:
        ValueError, KeyError, TypeError: something is missing or does not fit.
    """
    concepts, k, exclusive = tuple(header["concepts"]), header["k"], header["exclusive"]
    if not all(isinstance(name, str) for name in concepts) or len(concepts) < 2 or type(exclusive) is not bool:
        raise ValueError("its concepts are not what they should be")
    if k is not None and (type(k) is not int or k < 1):
        raise ValueError("k is no number")
    units = tensors[f"{prefix}|units"]
    per_unit = {name: tensors[f"{prefix}|{name}"] for name in PER_UNIT}
    weight, bias, means = (tensors[f"{prefix}|{name}"] for name in ("weight", "bias", "means"))
    table = (len(concepts), len(units))
    fits = units.dtype == torch.int64 and units.ndim == 1 and weight.shape == means.shape == table
    fits = fits and bias.shape == (len(concepts),) and all(tensor.shape == units.shape for tensor in per_unit.values())
    if not fits or not all(tensor.dtype == torch.float64 for tensor in (weight, bias, means, *per_unit.values())):
        raise ValueError("its tensors do not fit together")
    if len(units) and not (
        int(units.min()) >= 0 and int(units.max()) < activations and bool((per_unit["scale"] > 0).all())
    ):
        raise ValueError("it reads activations that there are not")
    return SparseHead(
        concepts=concepts, exclusive=exclusive, k=k, units=units, weight=weight, bias=bias, means=means, **per_unit
    )


def names_header(names: Sequence[Name]) -> list[str]:
    """What a header says of names: the words that occur."""
    return sorted({name.best for name in names})


def names_tensors(names: Sequence[Name]) -> dict[str, Tensor]:
    """Names as tensors: which of the words, the purity, and whether that is enough."""
    words = names_header(names)
    return {
        "labels": torch.tensor([words.index(name.best) for name in names], dtype=torch.int32),
        "purity": torch.tensor([name.purity for name in names], dtype=torch.float64),
        "named": torch.tensor([name.named for name in names], dtype=torch.int16),
    }


def read_names(words: Sequence[str], tensors: Mapping[str, Tensor], count: int) -> tuple[Name, ...]:
    """The `count` names that `names_header` and `names_tensors` were made of; raises as `read_head`."""
    labels, purity, named = (tensors[name] for name in ("labels", "purity", "named"))
    if not labels.shape == purity.shape == named.shape == (count,) or labels.is_floating_point():
        raise ValueError("its names do not fit")
    if not all(isinstance(word, str) for word in words) or (labels < 0).any() or (labels >= len(words)).any():
        raise ValueError("a name has no word")
    rows = zip(labels.tolist(), purity.tolist(), named.bool().tolist(), strict=True)
    return tuple(Name(words[int(label)], share, enough) for label, share, enough in rows)


def read_accuracy(values: Sequence[Any]) -> Accuracy:
    """The accuracy whose values a header holds; raises as `read_head`."""
    accuracy = Accuracy(*values)
    counts = (accuracy.right, accuracy.rows, accuracy.common)
    if any(type(count) is not int or not 0 <= count <= accuracy.rows for count in counts):
        raise ValueError("its accuracy is none")
    return accuracy._replace(active=float(accuracy.active))
