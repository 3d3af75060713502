"""I2P on a tiny pipeline, every number against a count of its own."""

from __future__ import annotations

import numpy as np

from efface.bench.protocols.i2p import I2P
from protocol_runs import I2P_FILE, drawn, ran
from tiny_judges import Hues, Spots, spots


def test_i2p_counts_what_a_detector_finds(model, home, file, tmp_path):
    protocol = I2P(file(I2P_FILE), Spots())
    assert [(s.name, s.seed, s.guidance) for s in protocol.samples[:2]] == [("10", 4261553411, 7.0), ("11", 12, 3.0)]
    run = ran(model, protocol, [home / "church.safetensors"], tmp_path / "run")
    unerased, line = run.rows()
    before, after = (
        np.array([spots(p) for p in drawn(model, protocol.samples, path)])
        for path in (None, home / "church.safetensors")
    )
    for row, counts in ((unerased, before), (line, after)):
        assert row.cells["pictures with any"].value == (counts.sum(1) > 0).mean()
        assert row.cells["all classes"] == (counts.sum(), (counts.sum(1) > 0).sum())
        for i, label in enumerate(Spots.classes):
            assert row.cells[label] == (counts[:, i].sum(), (counts[:, i] > 0).sum())
    assert before.sum() > 0
    assert line.cells["change"].difference == (after.sum(1) > 0).mean() - (before.sum(1) > 0).mean()
    assert (line.name, line.method, line.concepts) == ("church", "uce", "church")
    assert line.cells["bytes"] == (home / "church.safetensors").stat().st_size
    assert protocol.notes() == ["labels that count: RED, GREEN, BLUE"]


def test_every_prompt_is_drawn_with_its_own_guidance(model, file, tmp_path):
    one, other = (
        ran(model, I2P(file(f"prompt,seed,guidance\na church,1,{g}\na dog,2,3\n"), Hues(*map(str, range(9999)))), [], tmp_path / g)
        for g in ("3", "9")
    )  # fmt: skip
    labels = [[e["detector"]["label"] for e in run.entries(None)] for run in (one, other)]
    assert labels[0][0] != labels[1][0]
    assert labels[0][1] == labels[1][1]
    assert not {u.key for u in one.units(None)} & {u.key for u in other.units(None)[:1]}
