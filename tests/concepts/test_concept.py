"""Concepts, presets, and which rows of the text states an edit speaks of."""

from __future__ import annotations

import pytest
import torch

import efface
import tiny
from efface.api.resolve import resolve
from efface.closed_form.rows import concept_rows, retained_rows
from efface.concepts.presets import PRESETS, UNSAFE_WORDS, concepts_named
from efface.erasers.rece import Config, paper_settings
from efface.profiles.emoji.concepts import emoji_concepts
from efface.profiles.emoji.words import ALCOHOL, BENCHMARK, OBJECTS, STYLES, caption
from rounding import assert_rounded


@pytest.mark.parametrize(
    ("concepts", "expected"),
    [
        (PRESETS["nudity"], (1e-1, 3, " ")),
        (PRESETS["unsafe"], (1e-1, 2, " ")),
        (PRESETS["artists"][:1], (1e-3, 1, "")),
        (concepts_named("church"), (1e-3, 1, "")),
        (concepts_named("garbage truck"), (1e-3, 1, "")),
        (concepts_named("golf ball"), (1e-1, 1, "")),
    ],
)
def test_published_hyper_parameters(concepts, expected):
    assert paper_settings(concepts) == expected


def test_presets():
    assert [c.name for c in concepts_named("unsafe")] == list(UNSAFE_WORDS)
    assert len(PRESETS["imagenette"]) == 10
    assert concepts_named("Vincent van Gogh")[0].kind == "style"
    assert concepts_named("a thing of my own") == (efface.Concept("a thing of my own"),)


@pytest.mark.parametrize("name", ["", "  ", "\t"])
def test_an_empty_concept_is_refused(name, sd):
    with pytest.raises(efface.UsageError, match="empty"):
        efface.Concept(name)
    with pytest.raises(efface.UsageError, match="empty"):
        efface.erase(sd, name)


@pytest.mark.parametrize("templates", [("no place",), ("{} and {}",)])
def test_a_template_needs_one_place(templates):
    with pytest.raises(efface.UsageError, match="once"):
        efface.Concept("church", templates=templates)


def test_anchors():
    concept = efface.Concept("church", templates=("a {}", "the {}"))
    assert concept.anchors("cat") == ["a cat", "the cat"]
    assert concept.anchors(" ") == [" ", " "]
    assert efface.Concept("church", anchor="").anchors("art") == [""]
    assert efface.Concept("church", neutral=("x",)).anchors("art") == ["x"]


@pytest.mark.parametrize(
    "options", [{"ridge": -1}, {"epochs": -1}, {"regulariser": float("nan")}, {"preserve_weight": float("inf")}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(efface.UsageError, match="expected"):
        Config(**options)


def test_unknown_method_and_option(sd):
    with pytest.raises(efface.UsageError, match="rece, gated, joint, preserve, project, saeuron"):
        efface.erase(sd, "church", method="ecer")
    with pytest.raises(efface.UsageError, match="strength"):
        efface.erase(sd, "church", strength=2)


def test_rows_by_rule(pipe):
    model = efface.Model(pipe)
    concept = efface.Concept("garbage truck", anchor="cat", templates=("a {} in noto style",))
    states = model.encode(["a garbage truck in noto style", "a cat in noto style"]).states
    # Begin token, "a", "garbage", "truck": the last subject token is at 3; in the anchor "cat" is at 2.
    expected = {
        "last": (states[0, 3:4], states[1, 2:3]),
        "subject": (states[0, 3:], states[1, 2:-1]),
        "all": tuple(states),
    }
    for rule, (c, t) in expected.items():
        found = concept_rows(model, concept, rule)
        assert_rounded(found[0], c)  # encoded in other batches
        assert_rounded(found[1], t)


def test_rows_of_an_anchor_with_another_article(sd):
    model = efface.Model(sd)
    concept = efface.Concept("church", templates=("a {} in noto style",), neutral=("art cat in noto style",))
    c, t = concept_rows(model, concept, "last")
    states = model.encode(["a church in noto style", "art cat in noto style"]).states
    assert_rounded(c, states[0, 2:3])
    assert_rounded(t, states[1, 2:3])
    other = efface.Concept("church", templates=("a {} in noto style",), neutral=("a dog cat",))
    assert_rounded(concept_rows(model, other, "last")[1], model.encode(["a dog cat"]).states[0, 3:4])


def test_rows_of_an_empty_anchor(sd):
    model = efface.Model(sd)
    c, t = concept_rows(model, efface.Concept("church", anchor=""), "last")
    states = model.encode(["church", ""]).states
    assert_rounded(c, states[0, 1:2])
    assert_rounded(t, states[1, :1])  # the begin token


def test_retained_rows(sd):
    model = efface.Model(sd)
    prompts = ["a cat", "a dog in noto style", ""]
    text = model.encode(prompts)
    assert text.last.tolist() == [2, 5, 0]
    assert text.mask.sum(1).tolist() == [4, 7, 2]
    assert_rounded(torch.cat(list(retained_rows(model, prompts, "all", batch=2))), text.states.flatten(0, 1))
    assert_rounded(torch.cat(list(retained_rows(model, prompts, "last", batch=2))), text.states[[0, 1, 2], [2, 5, 0]])
    rows = torch.cat(list(retained_rows(model, prompts, "subject", batch=2)))
    assert len(rows) == sum(tiny.LENGTH - last for last in (2, 5, 0))


def test_a_concept_longer_than_the_tokenizer_takes(sd):
    with pytest.raises(efface.EffaceError, match="'style cat' would be cut"):
        efface.erase(sd, "church " * 8 + "in noto style cat", method="uce", keep=[])


def test_neighbours_leave_out_the_concept_itself(sd):
    from efface.models.neighbours import neighbours

    found = neighbours(efface.Model(sd), efface.Concept("church", aliases=("dog",), templates=("a {}",)), count=3)
    assert len(found) == 3
    assert not {"a church", "a dog"} & set(found)
    assert all(prompt.startswith("a ") for prompt in found)


def test_the_canvas_speaks_in_captions():
    (church,) = emoji_concepts("church")
    assert "a church in noto style" in church.prompts()
    assert "a house in noto style" in church.anchors(" ")
    assert "a cat in flat style" in church.keep
    (apple,) = emoji_concepts("apple")
    assert apple.prompts()[0] == "an apple"
    (noto,) = emoji_concepts("noto")
    assert noto.kind == "style"
    assert "a church in noto style" in noto.prompts()
    assert {c.name for c in emoji_concepts("alcohol")} == {"alcohol", *ALCOHOL}
    assert emoji_concepts("puppy")[0].name == "dog"
    with pytest.raises(efface.UsageError, match="does not draw"):
        emoji_concepts("unicorn")


def test_concepts_of_the_canvas_that_are_erased_together_do_not_take_each_others_place():
    """A church is drawn as a house and a house as a church: erased together, neither may stand for the other."""
    pipeline = efface.load("emoji")
    church, house = resolve(["church", "house"], pipeline)
    assert not {"a church", "a house"} & {*church.neutral, *house.neutral, *church.keep, *house.keep}
    (alone,) = resolve("church", pipeline)
    assert "a house" in alone.neutral
    assert "a house" in alone.keep
    with efface.erase(pipeline, "church", method="uce").attached(pipeline):
        (after,) = resolve("house", pipeline)
    assert after == house
    noto, firefox = resolve(["noto", "firefox"], pipeline)
    assert not any(style in text for text in (*noto.neutral, *firefox.neutral) for style in ("noto", "firefox"))
    drinks = resolve(["alcohol", "umbrella"], pipeline)
    assert not any("umbrella" in text for concept in drinks for text in concept.keep)


def test_the_benchmark_is_fixed():
    assert len(OBJECTS) == 64
    assert len(BENCHMARK) == 20
    assert len(STYLES) == 9
    assert caption("apple", "noto", "beach") == "an apple in noto style on a beach"
