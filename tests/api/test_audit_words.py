"""Other words in an audit, on a tiny pipeline with stand-in judges: what is drawn, what counts, what the card says."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import efface
import tiny_judges
from efface.api.audit import audit, plan_audit
from efface.api.audit_words import FIRST, MORE, NOT_ASKED, plan_words
from efface.api.card import Group, words_against, write_cards
from efface.api.level_result import LEAST, LevelResult, Pair
from efface.api.pictures import BATCH
from efface.cli import main
from efface.concepts.levels import LEVELS
from efface.concepts.other_words import OtherWords
from efface.concepts.sample import Sample
from efface.errors import UsageError
from efface.judges.criterion import criterion_for
from efface.metrics.rates import rate
from efface.models.model import Model
from efface.models.sampling import Sampling
from efface.profiles.base import Profile
from efface.report.model_card import erasure_card
from tiny_judges import Hues, Spots

ONE = [Group("concept", (Sample("a church", shows=("church",)),))]
DRAWN = Sampling(2)
HALF = Hues("church", "cat")
"""Finds a church in every second picture."""
SELDOM = Hues("church", *(f"class {i}" for i in range(400)))
OFTEN = Hues("church")


@pytest.fixture(scope="module")
def church(sd):
    return efface.erase(sd, "church", method="uce", keep=["a cat"])


@pytest.fixture(scope="module")
def card(sd, church):
    return audit(sd, church, judge=HALF, groups=ONE, seeds=1, words=("typo", "language", "synonym"), sampling=DRAWN)


def drawn_again(pipe, samples):
    """The pictures of some samples, in batches as large as the audit's: rounding is that of a batch."""
    settings = {**DRAWN.settings(pipe), "checked": False}
    batches = [samples[i : i + BATCH] for i in range(0, len(samples), BATCH)]
    return [p for b in batches for p in Model(pipe).draw([s.prompt for s in b], seeds=[s.seed for s in b], **settings)]


def test_shares_are_of_the_pictures_in_which_the_unerased_model_shows_it(sd, church, card):
    """Everything drawn and counted again, picture by picture, without the audit's own counting."""
    criterion = criterion_for(HALF, "church")
    for result in card.words:
        assert result.still is not None, result.why
        samples = [pair.sample for pair in result.pairs]
        shown = criterion([*drawn_again(sd, samples[:FIRST]), *drawn_again(sd, samples[FIRST:])])
        assert [verdict.shown for verdict in shown] == [pair.before for pair in result.pairs]
        kept = [sample for sample, verdict in zip(samples, shown, strict=True) if verdict.shown]
        assert len(kept) >= LEAST
        with church.attached(sd):
            still = [verdict.shown for verdict in criterion(drawn_again(sd, kept))]
        assert still == [pair.after for pair in result.pairs if pair.before]
        prompts = list(dict.fromkeys(sample.prompt for sample in kept))
        assert result.still == rate(still, [prompts.index(sample.prompt) for sample in kept])


def test_every_number_is_in_the_json(card):
    data = json.loads(json.dumps(card.to_json()))["words"]
    assert list(data) == ["synonym", "typo", "language"]  # in the order of the levels
    for level in data.values():
        shown = [(before, after) for _, _, before, after in level["pairs"]]
        assert level["counted"] == sum(before for before, _ in shown) == level["still"]["pictures"]
        assert level["still"]["value"] == pytest.approx(sum(bool(after) for _, after in shown) / level["counted"])
        assert level["drawn"] == len(shown) in (FIRST, FIRST + MORE)
        assert {place for place, *_ in level["pairs"]} == set(range(len(level["prompts"])))
        assert min(seed for _, seed, *_ in level["pairs"]) == 30_000
    assert data["typo"]["typo_seed"] == 0


def test_what_the_model_does_not_understand_is_not_called_erased(sd, church, tmp_path):
    card = audit(sd, church, judge=SELDOM, groups=ONE, seeds=1, words=("typo", "language"), sampling=DRAWN)
    for result in card.words:
        assert result.still is None
        assert len(result.counted) < LEAST
        assert all(pair.after is None for pair in result.pairs)  # the erased model was not asked
        assert result.line.startswith(f"no figure: the unerased model shows it in {len(result.counted)} of ")
        assert "not understood, which is not erased" in result.line
        assert result.image_rows == ()
    page = card.save(tmp_path).read_text()
    assert page.count("not understood, which is not erased") == 2


def test_prompts_that_were_understood_are_drawn_again_where_they_are_few(sd, church):
    """Two of twenty prompts are understood: more seeds of these two decide."""

    class Two(Hues):
        def __call__(self, images):
            self.asked += len(images)
            verdicts = super().__call__(images)
            first = self.asked <= FIRST
            seen = [i for i in range(len(images)) if not first or self.asked - len(images) + i in (3, 4)]
            verdicts.scores[:] = 0
            verdicts.scores[seen, 0] = 1
            return verdicts._replace(labels=tuple("church" if i in seen else "cat" for i in range(len(images))))

    judge = Two("church", "cat")
    judge.asked = 0
    plan = plan_audit(sd, church, judge=judge, groups=ONE, seeds=1, words=("typo",), sampling=DRAWN)
    (result,) = plan.words.run(plan.store, church, judge)
    first, again = result.pairs[:FIRST], result.pairs[FIRST:]
    known = {pair.sample.prompt for pair in first if pair.before}
    assert len(known) == 2
    assert len(again) == MORE
    assert {pair.sample.prompt for pair in again} == known
    assert len({(pair.sample.prompt, pair.sample.seed) for pair in result.pairs}) == FIRST + MORE
    assert len(result.counted) == 2 + MORE
    assert result.still is not None


def test_no_more_is_drawn_than_was_said(sd, church, monkeypatch):
    drawn = []
    real = Model.draw

    def draw(self, prompts, **settings):
        drawn.extend(prompts)
        return real(self, prompts, **settings)

    for judge in (OFTEN, HALF, SELDOM):
        plan = plan_audit(sd, church, judge=judge, groups=ONE, seeds=1, words=("all",), sampling=DRAWN)
        said = 2 * len(plan.work) + 2 * len(plan.words.samples)
        monkeypatch.setattr(Model, "draw", draw)
        drawn.clear()
        plan.run()
        monkeypatch.setattr(Model, "draw", real)
        assert len(drawn) <= said + plan.words.more
        if judge is OFTEN:
            assert len(drawn) > said * 0.6  # a fifth of what it shows counts as debris


def test_an_audit_that_was_stopped_draws_nothing_twice(sd, church, tmp_path, monkeypatch):
    options = {"judge": HALF, "groups": ONE, "seeds": 1, "words": ("typo",), "sampling": DRAWN, "folder": tmp_path}
    first = audit(sd, church, **options)
    monkeypatch.setattr(Model, "draw", lambda *args, **kwargs: pytest.fail("it was drawn before"))
    again = audit(sd, church, **options)
    assert again.to_json()["words"] == first.to_json()["words"]


def test_by_default_all_that_fit_into_half_of_the_time(sd, church, monkeypatch):
    monkeypatch.setattr("efface.api.audit.seconds_each", lambda *args: 0.25)
    options = {"judge": OFTEN, "sampling": DRAWN}
    long = plan_audit(sd, church, time_limit=1000.0, **options)
    needed = 2 * len(long.words.samples) * 0.25
    assert long.words.names == tuple(LEVELS)
    assert long.decisions["words"] == ", ".join(LEVELS)
    assert len(long.seeds) < len(plan_audit(sd, church, time_limit=1000.0, words=("none",), **options).seeds)
    short = plan_audit(sd, church, time_limit=2 * needed - 1, **options)
    assert short.words.names == tuple(LEVELS)[1:]
    assert f"without name: half of the time limit is {needed - 0.5:.0f} s, all take" in short.decisions["words"]
    none = plan_audit(sd, church, time_limit=10.0, **options)
    assert none.words.levels == ()
    assert none.decisions["words"].startswith(f"without {', '.join(LEVELS)}: half")
    asked = plan_audit(sd, church, time_limit=10.0, words=("typo",), **options)
    assert asked.words.names == ("typo",)
    assert len(asked.seeds) == len(none.seeds)  # beside the time limit


def test_an_audit_that_goes_on_keeps_its_decision(sd, church, tmp_path, monkeypatch):
    options = {"judge": OFTEN, "sampling": Sampling(1)}
    for each, levels in ((1e-3, len(LEVELS)), (0.1, 2), (1.0, 0)):  # one of the two has no prompt that fits
        monkeypatch.setattr("efface.api.audit.seconds_each", lambda *args, each=each: each)
        monkeypatch.setattr("efface.api.audit.affordable", lambda *args: 1)
        folder = tmp_path / str(each)
        first = plan_audit(sd, church, time_limit=13.0, folder=folder, **options)
        assert len(first.words.levels) == levels
        first.run()
        monkeypatch.setattr("efface.api.audit.seconds_each", lambda *args: pytest.fail("it was measured before"))
        again = plan_audit(sd, church, time_limit=13.0, folder=folder, **options)
        assert again.words == first.words


def test_progress_reaches_the_end(sd, church):
    told = []
    options = {"judge": SELDOM, "groups": ONE, "seeds": 1, "words": ("typo", "language"), "sampling": DRAWN}
    audit(sd, church, progress=lambda done, line: told.append(done), **options)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_where_there_are_none_it_is_said(sd, church, tmp_path):
    unasked = plan_audit(sd, church, judge=OFTEN, groups=ONE, seeds=1, sampling=DRAWN)
    assert unasked.decisions["words"] == NOT_ASKED
    other = plan_audit(sd, church, judge=Hues("cat"), groups=ONE, seeds=1, words=("all",), sampling=DRAWN)
    assert "has no class of what is erased" in other.decisions["words"]
    nobody = audit(sd, church, groups=ONE, seeds=1, words=("all",), sampling=DRAWN)
    assert "there is no judge" in nobody.decisions["words"]
    assert "there is no judge" in nobody.save(tmp_path).read_text()
    detector = plan_audit(sd, church, judge=Spots(), groups=ONE, seeds=1, words=("typo",), sampling=DRAWN)
    assert {sample.concept for sample in detector.words.samples} == {None}  # it looks for anything

    class Churches(Spots):
        classes = ("church", "GREEN", "BLUE")

    own = plan_audit(sd, church, judge=Churches(), groups=ONE, seeds=1, words=("typo",), sampling=DRAWN)
    assert {sample.concept for sample in own.words.samples} == {"church"}


def test_prompts_that_the_model_cuts_are_left_out(sd, church):
    plan = plan_audit(sd, church, judge=HALF, groups=ONE, seeds=1, words=("all",), sampling=DRAWN)
    assert not [sample.prompt for sample in plan.words.samples if Model(sd).truncated(sample.prompt)]
    by_name = {level.name: level for level in plan.words.levels}
    assert by_name["description"].why == "its prompts are longer than the model reads"
    assert len(by_name["typo"].samples) == FIRST
    (result,) = [r for r in plan.words.run(plan.store, church, HALF) if r.level == "description"]
    assert result.line == "no figure: its prompts are longer than the model reads"
    assert result.to_json()["pairs"] == []


def test_a_profile_gives_its_own_words(sd, church, monkeypatch):
    class Own(Profile):
        def other_words(self, concept):
            return OtherWords(
                synonyms=("kirk",), descriptions=("it has pews",), languages={"nl": ("kerk",)}, companions=("cat",)
            )

    monkeypatch.setattr("efface.api.audit_words.profile_of", lambda pipeline: Own())
    translations = {"church": {"nl": ("godshuis",), "la": ("templum",)}}
    plan = plan_audit(
        sd, church, judge=HALF, groups=ONE, seeds=1, words=("all",), translations=translations, sampling=DRAWN
    )
    prompts = {level.name: {sample.prompt for sample in level.samples} for level in plan.words.levels}
    assert all("kirk" in prompt for prompt in prompts["synonym"])
    assert prompts["description"] == {"it has pews"}
    assert {word for word in ("kerk", "godshuis", "templum") if word in " ".join(prompts["language"])} == {
        "godshuis",  # a user's file instead of the profile, in a language of both
        "templum",
    }
    assert all("a cat" in prompt and "church" in prompt for prompt in prompts["pair"])


def test_several_concepts_share_a_level(sd):
    both = efface.erase(sd, ["church", "dog"], method="uce", keep=["a cat"])
    judge = Hues("church", "dog", "cat")
    plan = plan_audit(sd, both, judge=judge, groups=ONE, seeds=1, words=("typo",), sampling=DRAWN)
    (level,) = plan.words.levels
    assert len(level.samples) == FIRST
    shares = [sum(sample.concept == name for sample in level.samples) for name in ("church", "dog")]
    assert min(shares) >= FIRST // 2 - 4
    assert plan.decisions["words"] == "typo"
    one = plan_audit(sd, both, judge=Hues("dog", "cat"), groups=ONE, seeds=1, words=("typo",), sampling=DRAWN)
    assert one.decisions["words"] == "typo; of 1 of 2 concepts that are erased (dog)"
    many = [replace(c, name=f"zorbl{i}") for i in range(40) for c in both.provenance.concepts[:1]]
    names = tuple(concept.name for concept in many)
    some = plan_words(("typo",), Model(sd), many, Hues(*names), 0)
    assert len({sample.concept for plan in some.levels for sample in plan.samples}) == FIRST
    assert some.why == "of 32 of 40 concepts that are erased (zorbl0, zorbl1, zorbl2, …)"


def test_erasures_are_compared_pair_by_pair(card, tmp_path):
    same = words_against(card, card)
    assert {change.difference for change in same.values()} == {0.0}
    fewer = LevelResult("typo", tuple(Pair(pair.sample, pair.before, False) for pair in card.words[1].pairs))
    other = replace(card, words=(fewer,))
    change = words_against(card, other)["typo"]
    assert change.difference == pytest.approx(-card.words[1].still.value)
    page = write_cards([card, other], tmp_path).read_text()
    data = json.loads((tmp_path / "card.json").read_text())
    assert data[1]["words_against_first"]["typo"]["difference"] == change.difference
    assert f"{change.difference:+.1%}, p = {change.p:.3g}" in page
    assert words_against(card, replace(card, words=())) == {}


def test_cards_show_the_levels(card, church, tmp_path):
    page = card.save(tmp_path).read_text()
    markdown = erasure_card(church.summary(), b"", card.to_json(), None)
    for result in card.words:
        for text in (page, markdown):
            assert LEVELS[result.level] in text
            assert f"{len(result.counted)} of {len(result.pairs)} pictures" in text
            assert str(result.still) in text
        assert 0 < len(result.image_rows) <= 4
        for row in result.image_rows:
            assert row.caption in page
            before, after = (np.asarray(picture) for picture in row.pictures)
            assert (before != after).any()
    assert "By other words" in page
    old = {name: value for name, value in card.to_json().items() if name != "words"}  # of an older efface
    assert "other languages" not in erasure_card(church.summary(), b"", old, None)


def test_names_of_levels_and_files_are_checked(sd, church, tmp_path, capsys):
    with pytest.raises(UsageError, match="the words 'typos' are no level"):
        audit(sd, church, judge=HALF, words=("typos",))
    with pytest.raises(UsageError, match="of the level language"):
        audit(sd, church, judge=HALF, words=("typo",), translations={"church": {"de": ("Kirche",)}})
    with pytest.raises(UsageError, match="nothing of what is erased"):
        audit(sd, church, judge=HALF, translations={"cat": {"de": ("Katze",)}})
    church.save(tmp_path / "e.safetensors")
    args = ["audit", "nowhere", "--erasure", str(tmp_path / "e.safetensors")]
    assert main([*args, "--words", "typos"]) == 2  # before the model is looked for
    assert "expected some of name, synonym" in capsys.readouterr().err
    assert main([*args, "--translations", str(tmp_path / "none.csv")]) != 0
    assert "none.csv cannot be read" in capsys.readouterr().err


def test_the_command_plans_and_draws(sd, church, tmp_path, capsys):
    church.save(tmp_path / "e.safetensors")
    sd.save_pretrained(tmp_path / "model")
    (tmp_path / "words.csv").write_text("church,la,templum\n")
    clip = tmp_path / "clip"
    tiny_judges.clip(clip)
    args = [
        "audit",
        str(tmp_path / "model"),
        "--erasure",
        str(tmp_path / "e.safetensors"),
        "--seeds",
        "1",
        "--steps",
        "1",
    ]
    args += ["--judge", f"clip:{clip}:church,cat", "-o", str(tmp_path / "card")]
    assert main([*args, "--plan", "--json"]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert main([*args, "--words", "typo", "--plan", "--json"]) == 0
    typo = json.loads(capsys.readouterr().out)
    assert typo["pictures"] == plain["pictures"] + 2 * FIRST
    assert (plain["more_pictures"], typo["more_pictures"]) == (0, 2 * MORE)
    assert (plain["words"], typo["words"]) == (NOT_ASKED, "typo")
    assert main([*args, "--translations", str(tmp_path / "words.csv")]) == 0
    out = capsys.readouterr()
    assert "uce by language" in out.out
    data = json.loads((tmp_path / "card" / "card.json").read_text())
    assert any("templum" in prompt for prompt in data["words"]["language"]["prompts"])
