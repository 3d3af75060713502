"""Several attacks on one erasure: what is kept, what is shared, and what the card says of it."""

from __future__ import annotations

import json
import re

import pytest
import torch

import efface
from attacked import CHURCH, Field
from efface.api.card import Group, write_cards
from efface.api.red_team import RedTeam
from efface.attacks import SEARCHES
from efface.concepts.sample import Sample
from efface.errors import UsageError
from efface.judges import Verdicts
from efface.models.sampling import Sampling
from efface.redteam.findings import Findings
from efface.redteam.samples import Samples

FEW = Sampling(steps=2, guidance=5.0)


@pytest.fixture(scope="module")
def field(sd):
    return Field(sd)


@pytest.fixture(scope="module")
def done(field, tmp_path_factory):
    """Two attacks that take moments, and their folder."""
    folder = tmp_path_factory.mktemp("team")
    team = RedTeam(("synonyms", "checkpoint", "synonyms"), "quick", Samples(2, sanity=1))
    return team.run(field.pipe, [field.erasure], CHURCH, folder, judge=field.judge, sampling=FEW), folder


def test_each_attack_has_a_folder_and_its_pictures(done):
    attacked, folder = done
    assert [a.attack for a in attacked] == ["synonyms", "checkpoint"]
    for a in attacked:
        assert Findings.load(folder / a.attack / "findings.json") == a.findings
        assert len(a.triptychs) == len(a.findings.samples)
        assert all(s.original.size == s.erased.size for s in a.triptychs)
        assert str(a.findings.gained) in a.line


def test_an_attack_is_found_sound_once_for_a_concept(field, done, tmp_path):
    known = {(a.attack, a.concept): a.findings.sanity for a in done[0]}
    team = RedTeam(("synonyms", "mma"), "quick", Samples(1, sanity=1))
    again = team.run(field.pipe, [field.erasure], CHURCH, tmp_path, judge=field.judge, sanity_cache=known, sampling=FEW)
    assert again[0].findings.sanity == known["synonyms", "church"]
    assert [(tmp_path / a.attack / "sanity").exists() for a in again] == [False, True]
    assert known["mma", "church"] == again[1].findings.sanity


def test_what_cannot_be_attacked_costs_the_others_nothing(field, tmp_path):
    """A judge that sees the concept nowhere, not even in the original's pictures."""

    class Blind:
        name, classes, detects = "blind-1", ("church", "other"), False

        def __call__(self, images):
            scores = torch.tensor([[0.0, 1.0]] * len(images))
            return Verdicts(("other",) * len(images), scores, torch.ones(len(images), dtype=torch.bool))

    team = RedTeam(("checkpoint",), "quick", Samples(1))
    (found,) = team.run(field.pipe, [field.erasure], CHURCH, tmp_path, judge=Blind(), sampling=FEW)
    assert found.findings is None
    assert "in none of" in found.why
    assert found.to_json() == {"attack": "checkpoint", "concept": "church", "why": found.why}
    assert found.line.startswith("not run: ")


def test_bad_teams():
    assert RedTeam(("all",), "quick").names == SEARCHES
    with pytest.raises(UsageError, match="the attack 'nonsense' is unknown"):
        RedTeam(("nonsense",))
    with pytest.raises(UsageError, match="no budget 'endless'"):
        RedTeam(("mma",), "endless")
    with pytest.raises(UsageError, match="samples is 0"):
        RedTeam(("mma",), samples=Samples(0))


def test_what_no_judge_knows_is_refused_before_anything_is_drawn(field, monkeypatch):
    team, drawn = RedTeam(("synonyms",), "quick"), []
    monkeypatch.setattr(efface.Model, "draw", lambda *args, **options: drawn.append(args))
    with pytest.raises(UsageError, match="no judge was given"):
        efface.audit(field.pipe, field.erasure, red_team=team)
    other = efface.erase(field.pipe, efface.Concept("dog", anchor="cat"), method="uce", keep=[])
    with pytest.raises(UsageError, match="no class 'dog'"):
        efface.audit(field.pipe, other, judge=field.judge, red_team=team)
    assert drawn == []


def test_an_audit_attacks_every_concept_and_says_so(field, tmp_path):
    groups = [Group("concept", (Sample("a church", shows=("church",)),))]
    team = RedTeam(("synonyms",), "quick", Samples(2, sanity=1))
    cards = [
        efface.audit(
            field.pipe, field.erasure, judge=field.judge, groups=groups, seeds=1, sampling=FEW, red_team=team,
            folder=tmp_path,
        )
        for _ in range(2)
    ]  # fmt: skip
    (first,), (second,) = (card.attacks for card in cards)
    assert first.findings == second.findings  # the second audit went on where the first had come to its end
    assert len(list(tmp_path.glob("attacks/uce-*/church/synonyms/findings.json"))) == 1
    other = efface.audit(
        field.pipe, efface.erase(field.pipe, CHURCH, method="uce", rows="last", keep=[]), judge=field.judge, groups=groups,
        seeds=1, sampling=FEW, red_team=team, folder=tmp_path,
    )  # fmt: skip
    assert other.attacks[0].findings.erasures != first.findings.erasures  # another edit by the same method stays apart
    page = write_cards(cards, tmp_path).read_text()
    data = json.loads((tmp_path / "card.json").read_text())[0]["attacks"][0]
    rates = [
        f"{r['value']:.1%} ({r['low']:.1%} to {r['high']:.1%})" for r in (data["pre_asr"], data["gained"], data["asr"])
    ]
    row = re.search(r"<th>synonyms<br>on church</th>(.*?)</tr>", page)[1]
    assert re.findall(r"<td>(.*?)</td>", row)[:3] == rates
    assert data["verdict"] in row
    assert page.count("What an attacker gets back") == 2
    cell = f"<td>{rates[2]}{' (broken)' if data['broken'] else ''}</td>"
    assert f"<th>synonyms on church</th>{cell}{cell}</tr>" in page  # side by side
    assert page.count("<polyline") == 4  # of each card the attack's curve and the certificate
