"""The Ray engine: the table of this process, digit for digit, also when actors are killed. Ray takes seconds to start."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

import efface
import tiny
from efface.bench import ray_engine
from efface.bench.engine import run, setting_of
from efface.bench.engines import Engine, run_on
from efface.bench.ledger import Ledger
from efface.bench.unit import sha256_of, units_of
from efface.bench.worker_spec import WorkerSpec
from efface.errors import EffaceError, UsageError
from efface.models.load import load
from efface.models.model import Model
from engine_work import JUDGES, WORK, results

pytest.importorskip("ray")
slow = pytest.mark.slow


def judges():
    """What an actor opens."""
    return JUDGES


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A tiny pipeline and two erasures, on disk."""
    folder = tmp_path_factory.mktemp("recipe")
    tiny.stable_diffusion().save_pretrained(folder / "model")
    pipe, paths = load(folder / "model"), {}
    for name in ("church", "cat"):
        path = folder / f"{name}.safetensors"
        efface.erase(pipe, efface.Concept(name, anchor="dog"), method="uce", keep=[]).save(path)
        paths[sha256_of(path)] = path
    return WorkerSpec(str(folder / "model"), judges, paths)


@pytest.fixture(scope="module")
def model(recipe):
    """The recipe's model in this process."""
    return Model(load(recipe.pipeline))


@pytest.fixture(scope="module")
def units(recipe, model):
    """Units of the unerased model and of both erasures; long enough to be killed half-way."""
    setting = setting_of(model, JUDGES, steps=8, guidance=3.0)
    return [
        u for names in ((), *((name,) for name in recipe.erasures)) for u in units_of(setting, names, WORK, batch=1)
    ]


@pytest.fixture(scope="module")
def expected(recipe, model, units, tmp_path_factory):
    """The results of this process."""
    ledger = Ledger(tmp_path_factory.mktemp("here") / "ledger.sqlite")
    run_on(Engine(), recipe, units, ledger, model=model)
    return results(ledger, units)


@pytest.fixture(autouse=True, scope="module")
def _actors_know_these_tests():
    """Actors import what was sent to them by name; they get the environment that Ray is started in."""
    with pytest.MonkeyPatch.context() as patch:
        here = Path(__file__).parent
        patch.setenv("PYTHONPATH", os.pathsep.join(str(folder) for folder in (here, here.parent / "support")))
        yield


@pytest.fixture(scope="module")
def ray_is_up(_actors_know_these_tests):
    """One cluster for all tests that do not look at its start."""
    with ray_engine.cluster(2):
        yield


def actors() -> list[int]:
    """Process ids of the actors that this process has started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name().startswith("ray::Actor"):
                found.append(process.pid)
    return found


@slow
def test_two_actors_give_the_table_of_this_process(recipe, model, units, expected, tmp_path):
    """Ray is started for the run and shut down after it; pictures come back as this process draws them."""
    import ray

    ledger = Ledger(tmp_path / "ledger.sqlite", tmp_path / "sheets")
    assert run_on(Engine("ray", 2), recipe, units, ledger, model=model) == len(units)
    assert not ray.is_initialized()
    assert results(ledger, units) == expected
    assert run_on(Engine("ray", 2), recipe, units, ledger, model=model) == 0
    run(recipe.worker(model), units[:3], Ledger(tmp_path / "here.sqlite", tmp_path / "sheets-here"))
    for unit in units[:3]:
        name = f"{unit.key[:16]}.png"
        assert (tmp_path / "sheets" / name).read_bytes() == (tmp_path / "sheets-here" / name).read_bytes()


def test_an_address_without_a_cluster(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(EffaceError, match="no Ray cluster answers at RAY_ADDRESS"), ray_engine.cluster(1):
        pass


@slow
@pytest.mark.timeout(900)
def test_a_killed_actor_is_replaced_and_its_units_done_again(ray_is_up, recipe, units, expected, tmp_path):
    ledger, recorded, killed = Ledger(tmp_path / "ledger.sqlite"), [], []
    record = ledger.record

    def remember(unit, *rest):
        recorded.append(unit.key)
        record(unit, *rest)

    ledger.record = remember  # counts what comes back from actors

    def kill(done, line):
        if line.startswith(("3 of", "12 of")) and len(killed) < 2:
            killed.append(actors()[0])
            os.kill(killed[-1], signal.SIGKILL)

    assert ray_engine.run(recipe, units, ledger, kill) == len(units)
    assert len(set(killed)) == 2
    assert results(ledger, units) == expected
    assert sorted(recorded) == sorted(u.key for u in units)  # what was in flight never came back, all else came once


@slow
def test_what_an_actor_refuses_is_said_in_one_sentence(ray_is_up, recipe, units, tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with pytest.raises(EffaceError, match="no pipeline could be loaded"):
        ray_engine.run(WorkerSpec(str(tmp_path / "nowhere"), judges), units, ledger)
    with pytest.raises(UsageError, match="not given to this run"):
        ray_engine.run(WorkerSpec(recipe.pipeline, judges), units, ledger)
    with pytest.raises(EffaceError, match="another model or other judges"):
        ray_engine.run(WorkerSpec(recipe.pipeline, dict), units[:1], Ledger(tmp_path / "other.sqlite"))


def test_bad_options():
    with pytest.raises(UsageError, match="workers is 0"):
        Engine("ray", 0)
