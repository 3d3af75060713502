"""Work for the engine: prompts, seeds and a judge that any picture satisfies."""

from __future__ import annotations

import numpy as np
import torch

from efface.judges import Verdicts


class Brightness:
    """A judge that any picture satisfies: is it dark or bright?"""

    name, classes, detects = "brightness-1", ("dark", "bright"), False

    def __call__(self, images):
        means = torch.tensor([float(np.asarray(image).mean()) / 255 for image in images])
        labels = tuple(self.classes[int(m > 0.5)] for m in means)
        return Verdicts(labels, torch.stack([1 - means, means], 1), torch.ones(len(means), dtype=torch.bool))


JUDGES = {"light": Brightness()}
WORK = [(f"a {noun}", seed) for noun in ("church", "cat", "dog") for seed in range(3)]


def results(ledger, units):
    return [ledger.result(unit) for unit in units]
