"""Imagenette on a tiny pipeline, every number against a count of its own."""

from __future__ import annotations

import numpy as np
import pytest

from efface.bench.protocols.base import load_erasures
from efface.bench.protocols.imagenette import Imagenette
from efface.bench.protocols.run import Run
from efface.errors import EffaceError
from protocol_runs import IMAGENETTE_FILE, drawn, ran
from tiny_judges import Hues, hue


def test_imagenette_is_top_one_of_the_erased_class_and_the_others(model, home, file, tmp_path):
    protocol = Imagenette(file(IMAGENETTE_FILE), Hues("dog", "tench", "church"))
    paths = [home / "church.safetensors", home / "dog.safetensors"]
    lines = ran(model, protocol, paths, tmp_path / "run").rows()

    def right(path):
        names = ("dog", "tench", "church")
        pictures = drawn(model, protocol.samples, path)
        return np.array(
            [names[hue(p, 3)] == s.concept.lower() for p, s in zip(pictures, protocol.samples, strict=True)], float
        )

    before = right(None)
    assert lines[0].cells["all classes"].value == before.mean()
    for line, path, gone in zip(lines[1:3], paths, ("church", "Dog"), strict=True):
        after, is_gone = right(path), np.array([s.concept == gone for s in protocol.samples])
        assert line.cells["erased"].value == after[is_gone].mean()
        assert line.cells["others"].value == after[~is_gone].mean()
        assert line.cells["erased change"].difference == pytest.approx((after - before)[is_gone].mean())
        assert line.cells["others change"].difference == pytest.approx((after - before)[~is_gone].mean())
        assert (line.cells["erased"].pictures, line.cells["others"].pictures) == (4, 8)
    assert (lines[3].name, lines[3].concepts) == ("mean", "2 classes")
    values = [line.cells["erased"].value for line in lines[1:3]]
    assert lines[3].cells["erased"].value == pytest.approx(sum(values) / 2)
    with pytest.raises(EffaceError, match="no class 'tench'"):
        Imagenette(file(IMAGENETTE_FILE), Hues("dog", "church"))
    with pytest.raises(EffaceError, match="Van Gogh erases Van Gogh, which is no class"):
        Run(model, protocol, load_erasures([home / "Van Gogh.safetensors"]), tmp_path / "never")
    assert not (tmp_path / "never").exists()
