"""How far a job is: denoising steps reach whoever listens, shares add up, the command line says what is left."""

from __future__ import annotations

import pytest

from efface.cli.progress import EVERY, ProgressBar
from efface.io.progress import Step, TrainingStep, drawing, duration, on_step, part, silent, tell
from efface.models.model import Model
from efface.models.timing import model_bytes, seconds_each


def test_models_tell_every_step(pipe):
    told = []
    with on_step(told.append):
        Model(pipe).draw(["a cat", "a dog"], seeds=[0, 1], steps=3)
    assert told == [Step(number=n, steps=told[0].steps, pictures=2) for n in range(1, told[0].steps + 1)]
    Model(pipe).draw(["a cat"], seeds=[0], steps=1)
    assert len(told) == told[0].steps


def test_shares_of_pictures_add_up(sd):
    told = []
    with drawing(lambda done, line: told.append((done, line)), 5, drawn=1):
        tell("other work is no picture")
        Model(sd).draw(["a cat"] * 4, seeds=range(4), batch=2, steps=2)
    assert [done for done, _ in told] == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert told[0][1] == "2 of 5 pictures, step 1 of 2 of 2 pictures"


def test_the_inner_listener_hears_and_the_outer_one_again_after():
    outer, inner = [], []
    with on_step(outer.append):
        with on_step(inner.append):
            tell(Step(number=1, steps=1, pictures=1))
        assert (len(outer), len(inner)) == (0, 1)
        tell(Step(number=1, steps=1, pictures=1))
    tell(Step(number=1, steps=1, pictures=1))
    assert (len(outer), len(inner)) == (1, 1)


def test_parts():
    told = []
    half = part(lambda done, line: told.append((done, line)), 0.5, 1.0, "after")
    half(0.5, "x")
    assert told == [(0.75, "after: x")]
    assert part(silent, 0.0, 1.0) is silent


def test_a_log_gets_a_line_every_ten_seconds_with_the_time_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("efface.cli.progress.time.monotonic", lambda: now[0])
    with ProgressBar("drawing") as progress:
        for n in range(8):
            progress(n / 8, f"{n} of 8")
            now[0] += EVERY / 2
        now[0] += EVERY
        progress.step(Step(number=3, steps=9, pictures=2))
    assert capsys.readouterr().err.splitlines() == [
        "drawing",
        "25%: 2 of 8, 30 s left",
        "50%: 4 of 8, 20 s left",
        "75%: 6 of 8, 10 s left",
        "88%: 7 of 8, step 3 of 9 of 2 pictures, 7 s left",
    ]


def test_a_training_after_its_pictures_says_its_own_share_and_time(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("efface.cli.progress.time.monotonic", lambda: now[0])
    with ProgressBar("erasing") as progress:
        with drawing(progress, 2):
            for n in (1, 2):
                now[0] += EVERY
                tell(Step(number=n, steps=2, pictures=2))
            for n in range(1, 5):
                now[0] += EVERY
                tell(TrainingStep(n, 40, 0.5))
                tell(Step(number=1, steps=2, pictures=1))  # rolled for the next one: the share does not jump back
        now[0] += EVERY
        tell(TrainingStep(1, 20, 0.25))
        tell("a search")
    assert capsys.readouterr().err.splitlines() == [
        "erasing",
        "50%: 1 of 2 pictures, step 1 of 2 of 2 pictures",
        "100%: 2 of 2 pictures, step 2 of 2 of 2 pictures",
        "2%: training step 1 of 40, loss 0.5",
        "5%: training step 2 of 40, loss 0.5, 6.3 minutes left",
        "8%: training step 3 of 40, loss 0.5, 6.2 minutes left",
        "10%: training step 4 of 40, loss 0.5, 6.0 minutes left",
        "5%: erasing, training step 1 of 20, loss 0.25",
    ]


def test_durations():
    assert [duration(s) for s in (3, 90, 7200, 259200)] == ["3 s", "1.5 minutes", "2.0 hours", "3.0 days"]


def test_a_rate_is_measured_on_two_steps(sd):
    told = []
    with on_step(told.append):
        seconds = seconds_each(Model(sd), ["a cat"] * 9, {"steps": 50})
    assert told == []  # measured by a listener of its own
    assert seconds > 0
    parts = (sd.unet, sd.vae, sd.text_encoder)
    assert model_bytes(sd) == 4 * sum(p.numel() for part in parts for p in part.parameters())
