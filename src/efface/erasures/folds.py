"""Erasures in weights: writing them there, and taking them off again.

A weight's original is kept with its network. What an erasure adds is computed anew from the original when it is needed, always
on the CPU, so that it is the same each time. A weight that still is what was written gets its original back, bit for bit. One
that others have worked on since (a fused LoRA) has the erasure's own change subtracted. One that was replaced is left alone.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from efface.erasures.attachment import Attachment
from efface.erasures.fold_record import KEY, FoldedErasure, Folds, Samples, WriteRecord, folds_in
from efface.erasures.places import places_of
from efface.erasures.weight_status import WeightCheck, WeightStatus, holds_erasure, inspect
from efface.errors import EffaceError
from efface.io.digest import sha256_of_tensor
from efface.models.originals import KEY as ORIGINALS
from efface.models.originals import originals_in


def fold(network: nn.Module, component: str, attachment: Attachment, paths: Sequence[str]) -> None:
    """Write one more erasure into a network's weights.

    Raises:
        EffaceError: a weight cannot be written, is not what earlier erasures made of it, or would not be finite; no weight is
            changed then.
    """
    folds = vars(network).setdefault(KEY, Folds(component))
    originals = originals_in(network)
    known = [path for path in paths if path in folds.written]
    for check in inspect(network, known):
        if check.status not in (WeightStatus.INTACT, WeightStatus.ROUNDED):
            earlier = ", ".join(entry.attachment.erasure.names for entry in folds.entries)
            raise EffaceError(
                f"{component}.{check.path} is not what the erasure of {earlier} made of it (a LoRA fused, weights loaded?): "
                "remove that first."
            )
    entry = FoldedErasure(attachment, set())
    folds.entries.append(entry)
    try:
        for path in paths:
            places = list(places_of(network, path))
            for place in places:
                place.require_writable(f"{component}.{path}")
            if path not in originals:
                originals[path] = places[0].read().to("cpu", copy=True)
            entry.paths.add(path)
            values = folds.value(path, originals[path])
            if not torch.isfinite(values.double()).all():
                entry.paths.remove(path)
                raise EffaceError(
                    f"folding into {component}.{path} gives values that are not finite: use a smaller scale or mapped attachment."
                )
            folds.write(network, path, values, places)
    except BaseException:
        unfold([network], attachment)
        raise
    finally:
        torch.clear_autocast_cache()  # autocast keeps cast copies of weights, which would go on as they were


def unfold(networks: Iterable[nn.Module], attachment: Attachment, *, subtract: bool | None = None) -> None:
    """Take an erasure out of the weights of some networks.

    Args:
        networks: those without it are passed over.
        attachment: the erasure.
        subtract: what to do with weights that others changed: True subtracts the erasure's own change, False leaves them;
            None finds out whether they still hold it.

    Raises:
        EffaceError: that cannot be found out, or a weight cannot be written; no weight is changed then.
    """
    removals = [
        _Removal(network, folds, folded, inspect(network, folded.paths))
        for network in networks
        if (folds := folds_in(network)) and (folded := folds.entry(attachment))
    ]
    checks = [check for removal in removals for check in removal.checks]
    names = attachment.erasure.names
    subtracts = _decide(names, checks, subtract)
    for removal in removals:
        removal.require_possible(names)
    for removal in removals:
        for check in removal.checks:
            _take_off(removal, attachment, check, subtracts)
        _forget(removal)
    torch.clear_autocast_cache()
    _tell(names, checks, subtracts)


class _Removal(NamedTuple):
    """What is to be taken off one network."""

    network: nn.Module
    folds: Folds
    folded: FoldedErasure
    checks: list[WeightCheck]

    def require_possible(self, names: str) -> None:
        """Raise EffaceError where a weight that must be written cannot be."""
        for check in self.checks:
            name = f"{self.folds.component}.{check.path}"
            if check.status is WeightStatus.QUANTISED:
                raise EffaceError(
                    f"{name} was quantised since {names} was folded into it, and cannot be edited: load the model anew."
                )
            if check.place is not None and check.status is not WeightStatus.RESTORED:
                check.place.require_writable(name)


def _decide(names: str, checks: Sequence[WeightCheck], subtract: bool | None) -> bool:
    """Whether an erasure's change is subtracted from weights that others changed; raises EffaceError where nobody can say."""
    altered = [check for check in checks if check.status is WeightStatus.ALTERED]
    if not altered or subtract is not None:
        return bool(subtract)
    holds = holds_erasure(check.share for check in altered)
    if holds is None:
        raise EffaceError(
            f"{len(altered)} weights were changed since {names} was folded into them ({altered[0].path}), and whether they still "
            "hold the erasure cannot be told: remove it with subtract=True to subtract its own change, with subtract=False to "
            "leave them, or load the model anew."
        )
    return holds


def _take_off(removal: _Removal, attachment: Attachment, check: WeightCheck, subtracts: bool) -> None:
    """Take an erasure out of one place."""
    place, folds = check.place, removal.folds
    if place is None or check.status in (WeightStatus.RESTORED, WeightStatus.GONE):
        return
    original = originals_in(removal.network)[check.path]
    rest = folds.value(check.path, original, without=attachment)
    if check.status is not WeightStatus.ALTERED:
        place.write(rest if check.through is None else rest.to(check.through))
    elif subtracts:
        full = folds.value(check.path, original)
        place.write(place.read().to("cpu", torch.float64) - (full.double() - rest.double()))


def _forget(removal: _Removal) -> None:
    """Forget an erasure that was taken off, and the originals that nothing else needs."""
    network, folds, folded, _ = removal
    folds.entries.remove(folded)
    originals = originals_in(network)
    for path in folded.paths:
        if not any(path in other.paths for other in folds.entries):
            folds.written.pop(path, None)
            originals.pop(path, None)
            continue
        values = folds.value(path, originals[path])
        folds.written[path] = WriteRecord(sha256_of_tensor(values), values.dtype, Samples.of(originals[path], values))
    if not folds.entries:
        vars(network).pop(KEY, None)
        vars(network).pop(ORIGINALS, None)


def _tell(names: str, checks: Sequence[WeightCheck], subtract: bool) -> None:
    """Warn where the weights were not what the erasure had made of them."""
    counts = Counter(check.status for check in checks)
    if counts[WeightStatus.ALTERED] and subtract:
        done = "its own change was subtracted, which is exact to rounding; load the model anew for its own bits"
    elif counts[WeightStatus.ALTERED]:
        done = "they no longer hold it and were left as they are"
    else:
        done = "they were left as they are"
    changed = counts[WeightStatus.ALTERED] + counts[WeightStatus.RESTORED] + counts[WeightStatus.GONE]
    if changed:
        warnings.warn(
            f"{changed} of {len(checks)} weights were changed by others since the erasure of {names} was folded into them (a LoRA "
            f"fused, weights loaded?): {done}.",
            stacklevel=6,
        )
