"""Artists on a tiny pipeline, every number against a count of its own."""

from __future__ import annotations

import pytest

from efface.bench.protocols.artists import Artists
from efface.bench.protocols.base import load_erasures
from efface.metrics.pixels import Pixels
from protocol_runs import ARTISTS_FILE, drawn, far, ran


def test_artists_compares_with_the_unerased_pictures(model, home, file, tmp_path):
    protocol = Artists(file(ARTISTS_FILE), Pixels())
    path = home / "church.safetensors"
    (line,) = ran(model, protocol, [path], tmp_path / "run").rows()
    pairs = zip(*(drawn(model, protocol.samples, p) for p in (None, path)), strict=True)
    values = [far(*pair) for pair in pairs]
    assert line.cells["distance_e"].value == pytest.approx((values[0] + values[3]) / 2)
    assert line.cells["distance_u"].value == pytest.approx((values[1] + values[2]) / 2)
    assert min(values) > 0
    assert len(list((tmp_path / "run" / "originals").iterdir())) == 4


def test_a_concept_may_be_named(model, home, file):
    protocol = Artists(file(ARTISTS_FILE), Pixels())
    (erasure,) = load_erasures([home / "dog.safetensors"], ["cat style"])
    assert protocol.kind(erasure) == "artists"
