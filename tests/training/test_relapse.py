"""The relapse run on a tiny pipeline: harmless fine-tuning beside an erasure and on top of it; it goes on where it stopped."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import efface
from attacked import CHURCH, Likeness, pixels
from efface.concepts.sample import SEEDS
from efface.errors import UsageError
from efface.models.model import Model

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "relapse.py"
ESD = {"keep": list(CHURCH.keep), "iterations": 10, "draw_steps": 2, "lr": 0.3, "where": "all"}
"""Options with which ESD takes a second."""


@pytest.fixture(scope="module")
def relapse():
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("relapse_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def judge_of_run(sd, erasure):
    """A judge that tells the run's pictures with the erasure from those without."""
    prompts = [CHURCH.prompts()[i % 2] for i in range(4)]

    def drawn():
        return pixels(Model(sd).draw(prompts, seeds=range(SEEDS.audit, SEEDS.audit + 4), steps=2, guidance=5.0))

    with erasure.attached(sd):
        after = drawn()
    return Likeness(drawn(), after)


@pytest.fixture
def small(relapse, sd, monkeypatch):
    """Two arms of three rows each, on a tiny pipeline with a judge for which the erasure works: folder -> the run."""
    monkeypatch.setattr(relapse, "resolve", lambda name, pipe: (CHURCH,))
    monkeypatch.setattr(relapse, "sampling", lambda *_: {"steps": 2, "guidance": 5.0})
    judge = judge_of_run(sd, efface.erase(sd, CHURCH, method="esd", rank=2, **ESD))
    monkeypatch.setattr(relapse, "load", lambda *_, **__: sd)
    monkeypatch.setattr(relapse, "judge_of", lambda *_: judge)
    tuning = relapse.Tuning(steps=(0, 2, 12), tuned_rank=2, lr=1e-2, batch=2, images=4, pictures=4)
    options = {"concepts": ("church",), "rank": 2, "erasing": json.dumps(ESD), "tuning": tuning}
    return lambda folder, **more: relapse.main(output=folder, **options, **more)


def rows_in(folder):
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    return {(row["arm"], row["steps"]): row["figures"] for row in rows}


def without_minutes(rows):
    return {key: {name: v for name, v in figures.items() if name != "minutes"} for key, figures in rows.items()}


def test_the_run_and_its_last_line(small, sd, draw, tmp_path, capsys):
    before = draw(sd)
    small(tmp_path, plan=True)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("6 rows are missing: about ")
    assert len(said) == 7
    assert not (tmp_path / "rows.jsonl").exists()
    small(tmp_path)
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (draw(sd) == before).all()
    rows = rows_in(tmp_path)
    assert rows.keys() == {(arm, steps) for arm in ("beside", "on_top") for steps in (0, 2, 12)}
    assert last.keys() == {"esd"}
    for column, arm, name in (("beside", "beside", "ua"), ("on_top", "on_top", "ua"), ("shown", "beside", "shown")):
        assert last["esd"][column] == {str(steps): round(rows[arm, steps][name], 2) for steps in (0, 2, 12)}
    # Before any fine-tuning the arms are one, the erasure works, and the concept is there without it.
    assert rows["beside", 0]["ua"] == rows["on_top", 0]["ua"] == 100
    assert rows["beside", 0]["shown"] == 100
    assert all(f["low"] <= f["ua"] <= f["high"] for f in rows.values())
    # What was learnt on top is learnt for the model as it stands there.
    assert rows["on_top", 12]["loss"] < rows["on_top", 0]["loss"]
    assert rows["on_top", 12]["loss"] != rows["beside", 12]["loss"]
    small(tmp_path, plan=True)
    assert capsys.readouterr().out == "0 rows are missing: about 0 minutes\n"
    (tmp_path / "rows.jsonl").unlink()
    small(tmp_path, methods=("esd",), plan=True)
    assert capsys.readouterr().out.startswith("6 rows")


@pytest.mark.slow
def test_a_stopped_run_goes_on_to_the_same_rows(small, relapse, tmp_path, monkeypatch, capsys):
    small(tmp_path / "whole")
    measure = relapse.Run.shown

    def stop(run, concept):
        if (run.folder / "rows.jsonl").exists() and len(rows_in(run.folder)) == 2:
            raise KeyboardInterrupt
        return measure(run, concept)

    with monkeypatch.context() as patch:
        patch.setattr(relapse.Run, "shown", stop)
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path / "stopped")
    assert len(rows_in(tmp_path / "stopped")) == 2
    tuned = []
    fine_tune = relapse.fine_tune
    monkeypatch.setattr(
        relapse, "fine_tune", lambda *args, **options: (tuned.append(args[4]), fine_tune(*args, **options))
    )
    small(tmp_path / "stopped")
    assert tuned == [range(0, 2), range(2, 12)], "beside the erasure all was trained before; on top nothing was"
    assert without_minutes(rows_in(tmp_path / "stopped")) == without_minutes(rows_in(tmp_path / "whole"))


def test_one_fine_tuning_beside_serves_every_method(relapse, sd, tmp_path):
    run = relapse.Run(Model(sd), tmp_path, relapse.Tuning(), {"rank": 2}, judge=lambda concept: None)
    keys = [run.key(method, CHURCH, arm, 50) for method in ("esd", "sdd") for arm in ("beside", "on_top")]
    states = [run.state(key, 50) for key in keys]
    assert states[0] == states[2]
    assert len(set(states)) == 3


def test_what_a_run_refuses(relapse):
    with pytest.raises(UsageError, match="larger than the one before"):
        relapse.Tuning(steps=(0, 50, 50))
    with pytest.raises(UsageError, match="at least 1"):
        relapse.Tuning(batch=0)
    for text in ("lr", "[1]"):
        with pytest.raises(UsageError, match="expected a JSON object"):
            relapse.options_in(text)


def test_pictures_are_learnt_on_paper_that_is_not_white(relapse):
    image = relapse.on_paper(Image.new("RGB", (4, 4), "white"))
    assert image.getpixel((0, 0)) == relapse.PAPER


def test_factors_beside_one_another_add_up_in_either_order(sd):
    """W + ΔW_safe + ΔW_tuned: the modules know nothing of each other."""
    erasure = efface.erase(sd, CHURCH, method="esd", rank=2, **ESD)
    other = efface.erase(sd, CHURCH, method="esd", rank=2, seed=5, **ESD)
    name = erasure.targets()[0]
    weights = []
    for first, second in ((erasure, other), (other, erasure)):
        with first.attached(sd), second.attached(sd):
            weights.append(sd.unet.get_parameter(name.removeprefix("unet.")).detach().double().clone())
    own = sd.unet.get_parameter(name.removeprefix("unet.")).detach().double()
    expected = own + sum(
        e.deltas[f"{name}.up"].double() @ e.deltas[f"{name}.down"].double() for e in (erasure, other)
    ).view_as(own)
    for weight in weights:
        torch.testing.assert_close(weight, expected, rtol=0, atol=2e-7 * float(expected.abs().max()))
