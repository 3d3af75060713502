"""The audit and its card, on the real embedded model with few steps."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

import efface
from efface.api.audit import audit, plan_audit
from efface.api.audit_groups import audit_groups
from efface.api.card import Group, against, write_cards
from efface.cli import main
from efface.cli.audit import seconds_of
from efface.concepts.sample import Sample
from efface.errors import UsageError
from efface.judges import embedded_judge
from efface.judges.base import Verdicts
from efface.models.model import Model
from efface.models.sampling import Sampling


@pytest.fixture(scope="module")
def pipe():
    return efface.load("emoji")


@pytest.fixture(scope="module")
def church(pipe):
    return efface.erase(pipe, "church", method="uce")


def test_groups_are_found_in_the_models_own_text_space(pipe, church):
    groups = {
        g.name: g for g in audit_groups(Model(pipe), church.provenance.concepts, embedded_judge("emoji", "object"))
    }
    assert {p.concept for p in groups["concept"].samples} == {"church"}
    assert any("chapel" in p.prompt or "cathedral" in p.prompt for p in groups["aliases"].samples)
    assert len(groups["neighbours"].samples) == 8
    assert not any("church" in p.prompt for g in ("neighbours", "unrelated") for p in groups[g].samples)
    assert all(p.concept for p in groups["unrelated"].samples)


def test_every_number_of_the_page_is_in_the_json(pipe, church, tmp_path):
    groups = [
        Group("concept", (Sample("a church in noto style", shows=("church",)), Sample("a church", shows=("church",)))),
        Group("unrelated", (Sample("a sunflower in noto style", shows=("sunflower",)), Sample("a cat on the moon"))),
    ]
    card = audit(pipe, church, groups=groups, seeds=2, sampling=Sampling(4))
    page = card.save(tmp_path).read_text()
    data = json.loads((tmp_path / "card.json").read_text())
    assert data == json.loads(json.dumps(card.to_json()))
    assert "http" not in page
    assert "<script" not in page
    assert page.count("data:image/png") == 2 * 8
    for name, group in data["groups"].items():
        assert f"{group['distance']:.3f}" in page, name
        assert f"{group['shown_after']['value']:.1%}" in page
    for share in data["certificate"]["recoverable"]:
        assert f"{share:.1%}" in page
    assert data["groups"]["unrelated"]["shown_before"]["pictures"] == 2
    assert data["groups"]["concept"]["pictures"] == 4


KEPT = [
    Group("concept", (Sample("a church", shows=("church",)),)),
    Group(
        "neighbours", (Sample("a house in noto style", shows=("house",)), Sample("a cat in noto style", shows=("cat",)))
    ),
]


def test_the_first_lines_name_what_suffered_most(pipe, church, tmp_path, capsys):
    everything = efface.erase(pipe, ["church", "cat"], method="uce")  # of which one was to be kept
    card = audit(pipe, everything, groups=KEPT, seeds=2, sampling=Sampling(12))
    assert card.suffered is not None
    assert card.suffered.name == "cat"
    assert card.suffered.shown_before == 1
    assert card.suffered.shown_after == 0
    page = card.save(tmp_path).read_text()
    assert page.index("<b>cat</b> suffered most: shown in 100.0%") < page.index("<table>")
    assert json.loads((tmp_path / "card.json").read_text())["suffered"]["name"] == "cat"
    apart = audit(pipe, church, groups=[KEPT[0]], seeds=1, sampling=Sampling(1))
    assert apart.suffered is None  # nothing was to be kept
    church.save(tmp_path / "e.safetensors")
    args = ["audit", "emoji", "--erasure", str(tmp_path / "e.safetensors"), "-o", str(tmp_path / "card")]
    assert main([*args, "--seeds", "1", "--steps", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("uce suffered most")


def test_without_a_judge_what_changed_most_suffered_most(pipe, church):
    class Nobody:
        name, classes, detects = "nobody", ("nothing",), False

        def __call__(self, images):
            raise AssertionError("it was asked about a class that it has not")

    groups = [Group("unrelated", (Sample("a church"), Sample("a cat")))]
    card = audit(pipe, church, judge=Nobody(), groups=groups, seeds=1, sampling=Sampling(4))
    assert card.suffered is not None
    assert (card.suffered.name, card.suffered.shown_before) == ("a church", None)
    assert card.suffered.distance == max(card.groups[0].distances)


def test_nothing_stays_attached(pipe, church):
    from efface.erasures import attached_to

    audit(
        pipe, church, groups=[Group("concept", (Sample("a church", shows=("church",)),))], seeds=1, sampling=Sampling(1)
    )
    assert attached_to(pipe) == []


@pytest.mark.slow
def test_two_erasures_stand_side_by_side(church, tmp_path, capsys):
    church.save(tmp_path / "a.safetensors")
    args = [
        "audit",
        "emoji",
        "--erasure",
        str(tmp_path / "a.safetensors"),
        "--erasure",
        str(tmp_path / "a.safetensors"),
    ]
    assert main([*args, "-o", str(tmp_path / "card"), "--time-limit", "1s", "--steps", "2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["cards"]) == 2
    page = (tmp_path / "card" / "card.html").read_text()
    assert "Side by side" in page
    assert len(page) < 5_000_000
    assert re.search(r'name="viewport"', page)


def test_budgets():
    assert [seconds_of(t) for t in ("90s", "5min", "1.5h")] == [90, 300, 5400]
    with pytest.raises(UsageError, match="not understood"):
        seconds_of("soon")


def test_bad_input(pipe, church, capsys):
    assert main(["audit", "emoji"]) == 2
    assert "no erasure was given" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no prompts"):
        audit(pipe, church, groups=[])


class Detector:
    """Finds something in dark pictures."""

    name, classes, detects = "dark 1", ("dark",), True

    def __call__(self, images):
        dark = torch.tensor([[np.asarray(image).mean() < 250] for image in images])
        return Verdicts(("dark",) * len(images), dark.float(), torch.ones(len(images), dtype=torch.bool), dark.long())


def test_a_detector_looks_at_every_picture(pipe, church):
    groups = [Group("concept", (Sample("a church"), Sample("a cat in stencil style")))]
    card = audit(pipe, church, judge=Detector(), groups=groups, seeds=2, sampling=Sampling(4))
    (found,) = card.groups
    assert found.shown_after is not None
    assert found.shown_after.pictures == 4
    assert [shown for _, shown in found.shown] == [
        np.asarray(picture.convert("RGB")).mean() < 250 for picture in found.after
    ]


def test_indirect_prompts_have_a_group(pipe, church):
    said = ("a building with a bell and a cross", "where people pray")
    groups = audit_groups(Model(pipe), church.provenance.concepts, embedded_judge("emoji", "object"), said)
    (indirect,) = (g for g in groups if g.name == "indirect")
    assert indirect.samples == tuple(Sample(text, shows=("church",)) for text in said)


@pytest.mark.slow
def test_two_erasures_are_tested_picture_by_picture(pipe, church, tmp_path):
    groups = [
        Group("concept", (Sample("a church", shows=("church",)), Sample("a church in noto style", shows=("church",))))
    ]
    nothing = efface.erase(pipe, "cat", method="uce")
    cards = [audit(pipe, e, groups=groups, seeds=3, sampling=Sampling(12)) for e in (church, nothing)]
    change = against(*cards)["concept"]
    assert change.difference == pytest.approx(
        cards[1].groups[0].shown_after.value - cards[0].groups[0].shown_after.value
    )
    assert change.difference > 0.5  # erasing cats leaves churches
    write_cards(cards, tmp_path)
    data = json.loads((tmp_path / "card.json").read_text())
    assert data[1]["against_first"]["concept"]["difference"] == change.difference
    assert f"{change.difference:+.1%}" in (tmp_path / "card.html").read_text()
    other = audit(pipe, church, groups=groups, seeds=1, sampling=Sampling(1))
    assert against(cards[0], other) == {}  # other seeds


SOME = [Group("concept", (Sample("a church", shows=("church",)), Sample("a church in noto style", shows=("church",))))]


def test_what_was_drawn_is_not_drawn_again(pipe, church, tmp_path, monkeypatch):
    """Killed after the first batch: the audit goes on from there, and gives what one without a stop gives."""
    drawn = []
    stop_at = [1]
    real = Model.draw

    def draw(self, prompts, **settings):
        if len(drawn) in stop_at:
            stop_at.clear()
            raise KeyboardInterrupt
        drawn.extend(prompts)
        return real(self, prompts, **settings)

    monkeypatch.setattr("efface.api.pictures.BATCH", 1)
    monkeypatch.setattr(Model, "draw", draw)
    options = {"groups": SOME, "seeds": 2, "sampling": Sampling(2), "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        audit(pipe, church, **options)
    card = audit(pipe, church, **options)
    assert len(drawn) == 8  # two prompts, two seeds, before and after
    nothing = efface.erase(pipe, "cat", method="uce")
    audit(pipe, nothing, **options)
    assert len(drawn) == 12  # the unerased model's pictures are shared
    plain = audit(pipe, church, groups=SOME, seeds=2, sampling=Sampling(2))
    assert card.to_json()["groups"] == plain.to_json()["groups"]
    assert all(np.array_equal(a, b) for a, b in zip(card.groups[0].after, plain.groups[0].after, strict=True))


def test_an_audit_that_goes_on_has_the_same_seeds(pipe, church, tmp_path):
    first = plan_audit(pipe, church, groups=SOME, time_limit=2.0, sampling=Sampling(1), folder=tmp_path)
    assert not list(tmp_path.iterdir())  # a plan writes nothing
    first.run()
    again = plan_audit(pipe, church, groups=SOME, time_limit=2.0, sampling=Sampling(1), folder=tmp_path)
    assert again.seeds == first.seeds
    assert again.seconds_each is None  # nothing is left to measure


def test_a_damaged_picture_is_one_sentence(pipe, church, tmp_path):
    options = {"groups": SOME[:1], "seeds": 1, "sampling": Sampling(1), "folder": tmp_path}
    audit(pipe, church, **options)
    path = next((tmp_path / "pictures").glob("*.png"))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(efface.EffaceError, match="delete it"):
        audit(pipe, church, **options)


def test_the_card_says_what_was_decided(pipe, church, tmp_path):
    card = audit(pipe, church, groups=SOME, seeds=1, sampling=Sampling(1))
    page = card.save(tmp_path).read_text()
    assert card.decisions["model"] == "emoji"
    for text in ("emoji on cpu, float32, 96 x 96 pixels", "audited by", "led to a house", "beside it"):
        assert text in page, text


def test_progress_reaches_the_end(pipe, church):
    told = []
    audit(pipe, church, groups=SOME, seeds=1, sampling=Sampling(2), progress=lambda done, line: told.append(done))
    assert told == sorted(told)
    assert told[-1] == 1.0
