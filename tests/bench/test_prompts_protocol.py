"""Prompts of one's own on a tiny pipeline, every number against a count of its own."""

from __future__ import annotations

import numpy as np
import pytest

from efface.bench.protocols.prompts import Prompts
from protocol_runs import drawn, far, ran
from tiny_judges import Hues, Spots, hue, spots


def test_prompts_takes_any_judge_and_any_file(model, home, file, tmp_path):
    protocol = Prompts(file("prompt\na church\na dog\n"), {"hues": Hues("a", "b", "c"), "spots": Spots()}, seeds=(3, 4))
    assert [(s.name, s.seed) for s in protocol.samples] == [("0-3", 3), ("0-4", 4), ("1-3", 3), ("1-4", 4)]
    path = home / "dog.safetensors"
    unerased, line = ran(model, protocol, [path], tmp_path / "run").rows()
    before, after = (drawn(model, protocol.samples, p) for p in (None, path))
    assert line.cells["distance"].value == pytest.approx(np.mean([far(*p) for p in zip(before, after, strict=True)]))
    labels = [["abc"[hue(p, 3)] for p in pictures] for pictures in (before, after)]
    assert unerased.cells["hues: b"].value == labels[0].count("b") / 4
    assert line.cells["hues: b"].value == labels[1].count("b") / 4
    assert line.cells["hues: label as before"].value == np.mean([a == b for a, b in zip(*labels, strict=True)])
    assert line.cells["spots: RED"].found == sum(spots(p)[0] for p in after)
    assert "distance" not in unerased.cells
