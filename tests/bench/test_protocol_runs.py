"""Runs of any protocol: interruption, kept pictures, cost and forms of the table."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from efface.bench.protocols.base import Drawing, load_erasures
from efface.bench.protocols.estimate import cost
from efface.bench.protocols.i2p import I2P
from efface.bench.protocols.prompts import Prompts
from efface.bench.protocols.run import Run
from efface.bench.protocols.unlearncanvas import UnlearnCanvas
from efface.bench.table import as_csv, as_json, markdown
from protocol_runs import FEW, I2P_FILE, PROMPTS_FILE, drawn, ran, table
from tiny_judges import Hues, Spots


def test_an_interrupted_run_ends_as_the_undisturbed_one(model, home, file, tmp_path):
    paths = [home / "church.safetensors", home / "dog.safetensors"]
    protocol = Prompts(file(PROMPTS_FILE), {"hues": Hues("a", "b")})
    drawing = Drawing(steps=2, guidance=3.0, batch=1)

    def begun(folder, paths=paths):
        return Run(model, protocol, load_erasures(paths), tmp_path / folder, drawing=drawing)

    whole, broken = begun("whole"), begun("broken")
    whole.run()
    assert len(whole.missing()) == 0

    def stop(done, line):
        if line.startswith("5 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.run(stop)
    left, totals = len(broken.missing()), []
    assert 0 < left < 9
    again = begun("broken")
    again.run(lambda done, line: totals.append(int(line.split()[2])))
    assert totals[-1] == left
    assert table(again) == table(whole)

    # An erasure that comes later finds the unerased pictures, also when their files were taken away.
    later = begun("later", paths[:1])
    later.run()
    for path in (tmp_path / "later" / "originals").iterdir():
        path.unlink()
    more = begun("later")
    more.run(lambda done, line: totals.append(int(line.split()[2])))
    assert totals[-1] == 3
    assert table(more) == table(whole)


def test_pictures_are_kept_as_files_and_determine_nothing(model, home, file, tmp_path):
    protocol = Prompts(file("case_number,prompt,seed,guidance\n7/a,a church,1,3\n8,a dog,2,5\n"))
    run = ran(model, protocol, [home / "church.safetensors"], tmp_path / "run", save=tmp_path / "pictures")
    (erased,) = [f for f in (tmp_path / "pictures").iterdir() if f.name.startswith("church-")]
    for folder, path in ((tmp_path / "pictures" / "unerased", None), (erased, home / "church.safetensors")):
        assert sorted(f.name for f in folder.iterdir()) == ["7_a.png", "8.png"]
        for name, picture in zip(("7_a", "8"), drawn(model, protocol.samples, path), strict=True):
            with Image.open(folder / f"{name}.png") as kept:
                assert np.array_equal(np.asarray(kept), np.asarray(picture))
    without = Run(model, protocol, run.erasures, tmp_path / "run", drawing=FEW)
    assert without.missing() == []
    assert "saved" not in without.entries(run.erasures[0])[0]


def test_the_plan_of_unlearncanvas(model, tmp_path):
    run = Run(model, UnlearnCanvas(), [], tmp_path / "run", drawing=FEW)
    one, eight = (cost(run, erasures=UnlearnCanvas.erasures, devices=n) for n in (1, 8))
    assert (one.unerased, one.erased, one.erasures) == (5100, 357_000, 70)
    assert one.missing == 362_100
    assert one.seconds == pytest.approx(one.missing * one.seconds_each)
    assert eight.seconds == pytest.approx(eight.missing * eight.seconds_each / 8)
    assert "357,000 of 70 erasures" in str(one)
    assert not (tmp_path / "run").exists()


def test_the_cost_is_of_what_is_missing(model, home, file, tmp_path):
    protocol = Prompts(file(PROMPTS_FILE))
    run = ran(model, protocol, [home / "church.safetensors"], tmp_path / "run")
    assert cost(run).missing == cost(run).bytes == 0
    more = Run(
        model,
        protocol,
        load_erasures([home / "church.safetensors", home / "dog.safetensors"]),
        tmp_path / "run",
        drawing=FEW,
    )
    expected = cost(more)
    assert (expected.missing, expected.unerased, expected.erased) == (3, 3, 6)
    assert expected.bytes >= 3 * 16 * 16 * 3 / 3  # a third of the originals at least, as if they were to come
    saved = Run(model, protocol, more.erasures, tmp_path / "run", drawing=FEW, save=tmp_path)
    assert cost(saved).bytes >= expected.bytes + 3 * 3 * 16 * 16


def test_forms_of_the_table(model, home, file, tmp_path):
    lines = ran(model, I2P(file(I2P_FILE), Spots()), [home / "church.safetensors"], tmp_path / "run").rows()
    text = markdown(lines).splitlines()
    assert (
        text[0]
        == "| erasure | method | concepts | pictures with any | change | all classes | RED | GREEN | BLUE | seconds | bytes |"
    )
    assert len(text) == 4
    assert f"| {lines[1].cells['RED'].found} in {lines[1].cells['RED'].pictures} |" in text[3]
    rows = list(csv.DictReader(io.StringIO(as_csv(lines, "detector: spots-1"))))
    assert float(rows[1]["pictures with any"]) == lines[1].cells["pictures with any"].value
    assert int(rows[1]["RED found"]) == lines[1].cells["RED"].found
    assert rows[0]["change difference"] == ""
    assert list(rows[0])[-1] == "seen by"
    assert {row["seen by"] for row in rows} == {"detector: spots-1"}
    assert (
        json.loads(json.dumps(as_json(lines)))[1]["cells"]["pictures with any"]["low"]
        == lines[1].cells["pictures with any"].low
    )
