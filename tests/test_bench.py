"""Units, ledger, engine, and the canvas's protocol on a few prompts."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import run_until

import efface
from efface.bench import tables
from efface.bench.engine import Worker, run, setting_of
from efface.bench.ledger import Ledger
from efface.bench.protocols.canvas import Canvas, Plan, unerased
from efface.bench.unit import units_of
from efface.errors import EffaceError, UsageError
from efface.judges import Verdicts
from efface.model import Model


class Brightness:
    """A judge that any picture satisfies: is it dark or bright?"""

    name, classes = "brightness-1", ("dark", "bright")

    def __call__(self, images):
        means = torch.tensor([float(np.asarray(image).mean()) / 255 for image in images])
        labels = tuple(self.classes[int(m > 0.5)] for m in means)
        return Verdicts(labels, torch.stack([1 - means, means], 1), torch.ones(len(means), dtype=torch.bool))


JUDGES = {"light": Brightness()}
WORK = [(f"a {noun}", seed) for noun in ("church", "cat", "dog") for seed in range(3)]


@pytest.fixture
def parts(sd, tmp_path):
    """A worker, units with and without an erasure, and an empty ledger."""
    model = Model(sd)
    erasure = efface.erase(sd, efface.Concept("church", anchor="cat"), method="uce", keep=["a dog"])
    setting = setting_of(model, JUDGES, steps=2, guidance=3.0)
    units = [u for names in ((), ("e",)) for u in units_of(setting, names, WORK, batch=2)]
    return Worker(model, {"e": erasure}, JUDGES), units, Ledger(tmp_path / "ledger.sqlite")


def results(ledger, units):
    return [ledger.result(unit) for unit in units]


def test_units_are_named_by_everything_that_determines_them(parts):
    _, units, _ = parts
    unit = units[0]
    assert len({u.key for u in units}) == len(units) == 10
    others = [
        dataclasses.replace(unit, seeds=(5, 6)),
        dataclasses.replace(unit, erasures=("x",)),
        dataclasses.replace(unit, prompts=("a cat", "a dog")),
        *(dataclasses.replace(unit, setting=dataclasses.replace(unit.setting, **{name: value}))
          for name, value in {"steps": 3, "guidance": 4.0, "judges": ("other",), "threads": 7, "base": "b"}.items()),
    ]  # fmt: skip
    assert unit.key not in {u.key for u in others}
    assert dataclasses.replace(unit).key == unit.key


def test_an_interrupted_run_ends_as_the_undisturbed_one(parts, tmp_path):
    worker, units, ledger = parts
    assert run(worker, units, ledger) == len(units)
    assert run(worker, units, ledger) == 0

    other = Ledger(tmp_path / "other.sqlite")
    drawn = []

    def stop(done, total):
        drawn.append(done)
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(worker, units, other, stop)
    assert len(other.missing(units)) in (len(units) - 4, len(units) - 3)
    run(worker, units, other)
    assert results(other, units) == results(ledger, units)
    assert worker.attached == ()
    assert ledger.seconds(units) > 0


def test_the_order_of_units_does_not_matter(parts, tmp_path):
    worker, units, ledger = parts
    run(worker, units, ledger)
    other = Ledger(tmp_path / "other.sqlite")
    run(worker, units[::-1], other)
    assert results(other, units) == results(ledger, units)


def test_prompts_may_bring_their_own_guidance(parts):
    worker, units, ledger = parts
    own = dataclasses.replace(units[0], guidances=(1.0, 9.0))
    run(worker, [own], ledger)
    assert len(ledger.result(own)) == 2


def test_a_full_disk_is_an_error_that_keeps_what_was_recorded(parts):
    worker, units, ledger = parts
    run(worker, units[:2], ledger)
    ledger.connection.execute(f"PRAGMA max_page_count = {ledger.connection.execute('PRAGMA page_count').fetchone()[0]}")

    def fill():
        for unit in units[2:]:
            ledger.record(unit, [{"light": "x" * 4000}], 0.0)

    with pytest.raises(EffaceError, match="full"):
        fill()
    ledger.connection.execute("PRAGMA max_page_count = 1000000")
    assert len(ledger.result(units[0])) == 2
    run(worker, units, ledger)
    assert ledger.missing(units) == []


def test_what_is_no_ledger_is_refused(tmp_path, parts):
    (tmp_path / "text").write_text("not a database, but long enough to look at" * 100)
    with pytest.raises(EffaceError, match="could not be opened"):
        Ledger(tmp_path / "text")
    with contextlib.closing(sqlite3.connect(tmp_path / "newer")) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(EffaceError, match="format 99"):
        Ledger(tmp_path / "newer")
    worker, units, ledger = parts
    with pytest.raises(EffaceError, match="no result"):
        ledger.result(units[0])
    with pytest.raises(UsageError, match="not given"):
        Worker(worker.model, {}, JUDGES).draw(units[-1])


class Few(Plan):
    """Two objects in two styles."""

    @property
    def concepts(self):
        return {"objects": ("church",), "styles": ("outline",)}

    @property
    def pairs(self):
        return [(o, s) for o in ("church", "sunflower") for s in ("noto", "outline")]


def test_the_canvas_protocol_end_to_end(tmp_path):
    model = Model(efface.load("emoji"))
    canvas = Canvas(model, Few(("uce",), seeds=1), tmp_path)
    canvas.run()
    lines = canvas.lines()
    assert [(line.concept, line.kind) for line in lines] == [("church", "objects"), ("outline", "styles")]
    assert lines[0].ua.pictures == 2
    assert lines[0].ira.pictures == 2
    assert lines[0].cra.pictures == 4
    assert lines[0].bytes == (tmp_path / "erasures" / "uce-church.safetensors").stat().st_size
    assert unerased(canvas)["objects"].pictures == 4
    found = tables.rows(lines)
    assert [r["concept"] for r in found[2:]] == ["mean of 1 objects", "mean of 1 styles"]
    text = tables.markdown(found)
    assert text.count("\n") == 5
    assert tables.as_csv(found).splitlines()[1].startswith("uce,church,objects,")
    before = canvas.ledger.connection.execute("SELECT count(*) FROM units").fetchone()
    again = Canvas(model, Few(("uce",), seeds=1), tmp_path)
    again.run()
    assert again.lines() == lines
    assert again.ledger.connection.execute("SELECT count(*) FROM units").fetchone() == before


def test_the_plan_counts_its_pictures():
    assert Plan(("uce", "rece"), seeds=2).pictures == 360 * (1 + 2 * 29)
    quick = Plan(("uce",), quick=True)
    assert quick.pictures == len(quick.pairs) * (1 + 5 + 3)


SCRIPT = """
import sys
sys.path.insert(0, "tests")
import tiny, torch
from efface.bench.engine import Worker, run, setting_of
from efface.bench.ledger import Ledger
from efface.bench.unit import units_of
from efface.model import Model
from test_bench import JUDGES, WORK
torch.set_num_threads(1)
torch.manual_seed(0)  # the same weights in every process
model = Model(tiny.stable_diffusion())
units = units_of(setting_of(model, JUDGES, steps=20, guidance=3.0), (), WORK * 4, batch=1)
print("ready", flush=True)
run(Worker(model, {}, JUDGES), units, Ledger(sys.argv[1]))
"""


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """SIGKILL while it draws, judges and writes: the table ends digit for digit as the undisturbed one."""

    def rows(path: Path) -> list[tuple[str, str]]:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            if not connection.execute("SELECT name FROM sqlite_master").fetchall():
                return []  # killed before the table was made
            return connection.execute("SELECT key, result FROM units ORDER BY key").fetchall()

    length = run_until(SCRIPT, tmp_path / "whole", None)
    generator, done = random.Random(0), []
    for _ in range(10):
        run_until(SCRIPT, tmp_path / "broken", generator.random() * length / 5)
        done.append(len(rows(tmp_path / "broken")))
    assert any(0 < count < len(rows(tmp_path / "whole")) for count in done), (
        done
    )  # killed half-way, not only at the ends
    run_until(SCRIPT, tmp_path / "broken", None)
    assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
    assert json.loads(rows(tmp_path / "whole")[0][1])[0]["light"]["label"] in ("dark", "bright")
