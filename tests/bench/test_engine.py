"""Units, ledger and engine: named by what determines them, and not lost whatever happens."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import resource
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import efface
from efface.bench.engine import Worker, run, setting_of
from efface.bench.ledger import Ledger
from efface.bench.queue import Queue
from efface.bench.unit import Unit, units_of
from efface.errors import EffaceError, UsageError
from efface.models.model import Model
from engine_work import JUDGES, WORK, results
from killing import run_until


@pytest.fixture
def parts(sd, tmp_path):
    """A worker, units with and without an erasure, and an empty ledger."""
    model = Model(sd)
    erasure = efface.erase(sd, efface.Concept("church", anchor="cat"), method="uce", keep=["a dog"])
    setting = setting_of(model, JUDGES, steps=2, guidance=3.0)
    units = [u for names in ((), ("e",)) for u in units_of(setting, names, WORK, batch=2)]
    return Worker(model, {"e": erasure}, JUDGES), units, Ledger(tmp_path / "ledger.sqlite")


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

    def stop(done, line):
        drawn.append(line)
        if line.startswith("3 of"):
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


def refused_for_want_of_room(worker, units, ledger):
    """A run that ends with the sentence about a full disk."""
    with pytest.raises(EffaceError, match="could not be") as error:
        run(worker, units, ledger)
    assert "\n" not in str(error.value)
    assert "make room" in str(error.value)


def test_a_full_disk_keeps_what_was_recorded_and_goes_on_after_room_is_made(parts, tmp_path):
    worker, units, ledger = parts
    run(worker, units, ledger)
    other = Ledger(tmp_path / "other.sqlite")
    run(worker, units[:4], other)
    # The kernel refuses to write beyond the limit, as a full disk does.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    most = (tmp_path / "other.sqlite-wal").stat().st_size + 6000
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        refused_for_want_of_room(worker, units, other)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    left = other.missing(units)
    assert 0 < len(left) <= len(units) - 4
    assert results(other, units[:4]) == results(ledger, units[:4])
    assert run(worker, units, other) == len(left)
    assert results(other, units) == results(ledger, units)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB in memory; skipped where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_is_really_full(parts, small_disk):
    worker, units, ledger = parts
    run(worker, units, ledger)
    other = Ledger(small_disk / "ledger.sqlite", small_disk / "sheets")
    run(worker, units[:2], other)
    with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while filler.write(bytes(512)):
            pass
    refused_for_want_of_room(worker, units, other)
    with pytest.raises(EffaceError, match="could not be"):
        Ledger(small_disk / "another.sqlite").record(units[0], [{}], 0.0)
    other.close()
    (small_disk / "filler").unlink()
    again = Ledger(small_disk / "ledger.sqlite", small_disk / "sheets")
    assert results(again, units[:2]) == results(ledger, units[:2])
    run(worker, units, again)
    assert results(again, units) == results(ledger, units)
    again.close()


def test_pictures_are_kept_as_sheets_that_say_what_they_are(parts, tmp_path):
    worker, units, _ = parts
    ledger = Ledger(tmp_path / "kept.sqlite", tmp_path / "sheets")
    run(worker, units[:1], ledger)
    pictures = worker.draw(units[0])
    with Image.open(tmp_path / "sheets" / f"{units[0].key[:16]}.png") as sheet:
        assert Unit.from_json({k: v for k, v in json.loads(sheet.text["efface"]).items() if k != "columns"}) == units[0]
        side = pictures[0].size[0]
        for i, picture in enumerate(pictures):
            assert np.array_equal(np.asarray(sheet)[:side, i * side : (i + 1) * side], np.asarray(picture))
    worker.close()


def test_only_one_process_writes(parts, tmp_path):
    worker, units, ledger = parts
    holder = f"""
import sys
from pathlib import Path
from efface.bench.ledger import Ledger
with Ledger(Path({str(ledger.path)!r})).writing():
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(EffaceError, match="another process is writing"):
            run(worker, units, ledger)
        process.kill()
    assert run(worker, units[:1], ledger) == 1  # the system lets go of a dead process's lock


@given(
    st.lists(st.sampled_from(["", "a", "b", "c"]), max_size=30),
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=200),
)
def test_a_queue_gives_every_unit_out_once_and_keeps_groups_together(groups, moves):
    units = [SimpleNamespace(erasures=(name,), number=i) for i, name in enumerate(groups)]
    queue, held, last = Queue(units), [], {}
    for taker, back in [*moves, *((0, False) for _ in range(len(units) * 2))]:
        if back and held:
            queue.put_back(held.pop())
            continue
        unit = queue.take(taker)
        if unit is None:
            assert len(queue) == 0
            continue
        stayed = last.get(taker) in (None, unit.erasures)
        assert stayed or not any(u.erasures == last[taker] for g in queue.groups.values() for u in g)
        last[taker] = unit.erasures
        held.append(unit)
    assert sorted(unit.number for unit in held) == list(range(len(units)))


def test_takers_spread_over_groups():
    units = [SimpleNamespace(erasures=(name,)) for name in "aaab"]
    queue = Queue(units)
    assert [queue.take(0).erasures, queue.take(1).erasures] == [("a",), ("b",)]
    assert queue.take(1).erasures == ("a",)  # helps where most is left
    queue.leave(0)
    assert len(queue) == 1


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
    with pytest.raises(EffaceError, match="make room if the disk is full"):
        Ledger(tmp_path / "text" / "ledger.sqlite")


def test_what_was_drawn_is_read_back(parts):
    worker, units, ledger = parts
    run(worker, units, ledger)
    assert sorted(u.key for u in ledger.unerased()) == sorted(u.key for u in units if not u.erasures)
    assert set(ledger.unerased()) == {u for u in units if not u.erasures}
    assert ledger.pictures() == sum(len(u.prompts) for u in units)


SCRIPT = """
import os, sys
sys.path.insert(0, "tests/support")
import tiny, torch
from efface.bench.engine import Worker, run, setting_of
from efface.bench.ledger import Ledger
from efface.bench.queue import Queue
from efface.bench.unit import Unit, units_of
from efface.models.model import Model
from pathlib import Path
from engine_work import JUDGES, WORK

class Counting(Worker):
    def draw(self, unit):
        with open(sys.argv[1] + ".drawn", "a") as drawn:
            drawn.write(unit.key + "\\n")
        return super().draw(unit)

torch.set_num_threads(1)
torch.manual_seed(0)  # the same weights in every process
model = Model(tiny.stable_diffusion())
units = units_of(setting_of(model, JUDGES, steps=20, guidance=3.0), (), WORK * 4, batch=1)
print("ready", flush=True)
run(Counting(model, {}, JUDGES), units, Ledger(Path(sys.argv[1])))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_at_random_moments(tmp_path):
    """SIGKILL while it draws, judges and writes: the table ends digit for digit as the undisturbed one, and no unit is drawn
    twice but those that were in flight."""

    def rows(path: Path) -> list[tuple[str, str]]:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            if not connection.execute("SELECT name FROM sqlite_master").fetchall():
                return []  # killed before the table was made
            return connection.execute("SELECT key, result FROM units ORDER BY key").fetchall()

    length = run_until(SCRIPT, tmp_path / "whole", None)
    generator, done, kills = random.Random(0), [], 20
    for _ in range(kills):
        run_until(SCRIPT, tmp_path / "broken", generator.random() * length / 10)
        done.append(len(rows(tmp_path / "broken")))
    whole = rows(tmp_path / "whole")
    assert any(0 < count < len(whole) for count in done), done  # killed half-way, not only at the ends
    run_until(SCRIPT, tmp_path / "broken", None)
    assert rows(tmp_path / "broken") == whole
    assert json.loads(whole[0][1])[0]["light"]["label"] in ("dark", "bright")
    drawn = (tmp_path / "broken.drawn").read_text().splitlines()
    assert len(set(drawn)) == len(whole)
    assert len(drawn) - len(whole) <= 2 * kills
