"""What was written, read back, against the erasure: every matrix, and pictures on request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from efface.errors import EffaceError
from efface.export.config import ExportConfig
from efface.export.edit import Edit
from efface.export.written import Reading
from efface.models.model import Model
from efface.models.parameters import parameters_of


class Difference(NamedTuple):
    """Difference of two sets of pictures, in levels of 255."""

    mean: float
    largest: float


def require_same_weights(edit: Edit, names: Sequence[str], reading: Reading, tolerance: float, what: str) -> float:
    """Compare every weight that was read with the edited one, in the precision in which it was read.

    Args:
        edit: what the weights were to become.
        names: of the weights that must be there.
        reading: what is there.
        tolerance: largest ‖read − edited‖ / ‖edited − plain‖ of a weight (Frobenius norms).
        what: was written, for sentences.

    Returns:
        The largest of these shares.

    Raises:
        EffaceError: one is larger, a weight is missing, or one has changed that the erasure leaves alone.
    """
    parameters = parameters_of(edit.model)
    seen = []
    largest = 0.0
    for name, read in reading.weights:
        seen.append(name)
        read = read.detach().cpu()
        plain = edit.weights.get(name, parameters[name]).detach().cpu().to(read.dtype)
        if name not in edit.weights:
            if not torch.equal(read, plain):
                raise EffaceError(f"{what}, read back, changes {name}, which the erasure leaves: nothing was written.")
            continue
        edited = edit.fold(name, plain).double()
        distance = float((read.double() - edited).norm())
        share = distance / max(float((edited - plain.double()).norm()), 1e-300) if distance else 0.0
        if not share <= tolerance:  # also where it is not a number
            raise EffaceError(
                f"{what}, read back, differs in {name} from the erasure by {share:.2g} of what the erasure changes there; "
                f"expected at most {tolerance:g}: nothing was written; allow a higher rank or a larger tolerance."
            )
        largest = max(largest, share)
    require_all(names, [name for name in seen if name in edit.weights], what)
    return largest


class PictureCheck:
    """Draws the same few pictures without the erasure, with it attached, and from what was written.

    Args:
        edit: its erasures' concepts are drawn, and what they retain.
        config: steps, guidance, size and tolerance.
    """

    def __init__(self, edit: Edit, config: ExportConfig):
        drawn = []
        for erasure in edit.erasures:
            drawn += [erasure.provenance.concepts[0].prompts()[0], *erasure.provenance.keep[:1]]
        self.prompts = list(dict.fromkeys(drawn))
        self.config = config
        pipeline = edit.model.pipeline
        plain = self._draw(pipeline)
        with edit.attached(pipeline, force=config.force):
            self.expected = self._draw(pipeline)
        self.effect = difference(self.expected, plain)

    def require_same(self, pipeline: Any, what: str) -> Difference:
        """How its pictures differ from the attached erasure's; raises EffaceError above the tolerance."""
        measured = difference(self.expected, self._draw(pipeline))
        allowed = self.config.tolerance * self.effect.mean
        if not measured.mean <= allowed:  # also where it is not a number
            raise EffaceError(
                f"{what}, read back, draws pictures that differ from the attached erasure's by {measured.mean:.3g} levels of "
                f"255 on average; expected at most {allowed:.3g}, {self.config.tolerance:g} of what the erasure changes: "
                "nothing was written."
            )
        return measured

    def _draw(self, pipeline: Any) -> np.ndarray:
        """Levels 0 to 255 (pictures height width 3)."""
        model = Model(pipeline)
        guidance = model.family.standard().guidance if self.config.guidance is None else self.config.guidance
        pictures = model.draw(
            self.prompts,
            seeds=range(self.config.seed, self.config.seed + len(self.prompts)),
            steps=self.config.steps,
            guidance=guidance,
            side=self.config.side,
            checked=False,  # black pictures would be the same
        )
        return np.stack([np.asarray(picture, dtype=np.float64) for picture in pictures])


def difference(one: np.ndarray, other: np.ndarray) -> Difference:
    """Mean and largest difference of pictures, in levels."""
    distance = np.abs(one - other)
    return Difference(float(distance.mean()), float(distance.max()))


def require_all(expected: Sequence[str], actual: Sequence[str], where: str) -> None:
    """Raise EffaceError unless what was read back holds every name, and no other."""
    missing = sorted(set(expected) - set(actual))
    other = sorted(set(actual) - set(expected))
    if missing or other:
        raise EffaceError(
            f"{where} took {len(set(actual) & set(expected))} of {len(set(expected))} edited layers "
            f"(first of the others: {(missing or other)[0]}): nothing was written."
        )
