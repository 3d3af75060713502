"""The words of the emoji canvas, its judge, and what is asked of an erasure on it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import efface
from efface.cli import demo
from efface.errors import UsageError
from efface.io import embedded
from efface.judges import SceneJudge, embedded_judge
from efface.judges.scene import SceneNet, summed
from efface.models.model import Model
from efface.profiles.emoji import exam
from efface.profiles.emoji.exam import Seen, figures
from efface.profiles.emoji.profile import PROFILE
from efface.profiles.emoji.questions import Asked, by_words, in_scenes
from efface.profiles.emoji.shares import Figures, Share, added
from efface.profiles.emoji.words import (
    BENCHMARK,
    OBJECTS,
    PLACES,
    STYLES,
    both,
    caption,
    described,
    empty_place,
    object_class,
)


@pytest.fixture(scope="module")
def emoji():
    """The embedded pipeline."""
    return efface.load("emoji")


def test_every_prompt_of_the_benchmark_fits_its_tokenizer(emoji):
    model = Model(emoji)
    for thing in BENCHMARK:
        for asked in (*by_words(thing, "synonym"), *by_words(thing, "description"), *in_scenes(thing, 8)):
            assert model.truncated(asked.prompt) == "", asked.prompt


def test_no_eraser_is_given_a_held_out_word():
    for entry in OBJECTS:
        held = {*object_class(entry.name).heldout_synonyms, *object_class(entry.name).heldout_descriptions}
        for concept in PROFILE.concepts(entry.name):
            assert not held & {concept.name, *concept.aliases}
            assert not [text for text in (*concept.prompts(), *concept.keep) if exam.names(text, held)]


def test_any_listed_word_means_its_object():
    assert [c.name for c in PROFILE.concepts("kitty")] == ["cat"]
    assert [c.name for c in PROFILE.concepts("chapel")] == ["church"]
    with pytest.raises(UsageError, match="does not draw 'unicorn'"):
        PROFILE.concepts("unicorn")


def test_empty_places_are_kept():
    (concept,) = PROFILE.concepts("church")
    assert {empty_place(place) for place in PLACES} <= set(concept.keep)
    assert [empty_place(p) for p in ("meadow", "snow", "sunset")] == ["a meadow", "the snow", "a sunset"]


def test_prompts_are_english():
    assert caption("kitty", "noto", "beach") == "a kitty in noto style on a beach"
    assert caption("umbrella") == "an umbrella"
    assert caption("grapes", "flat") == "grapes in flat style"
    assert described("it moos in the pasture", "flat") == "it moos in the pasture in flat style"
    assert both("apple", "cat", "blob", "sunset") == "an apple and a cat in blob style at sunset"


def test_the_judge_finds_several_things_and_refuses_noise():
    judge = embedded_judge("emoji", "object")
    assert isinstance(judge, SceneJudge)
    assert isinstance(judge, efface.judges.Judge)
    noise = np.random.default_rng(0).integers(0, 255, (3, 96, 96, 3), dtype=np.uint8)
    images = [*(Image.fromarray(n) for n in noise), Image.new("RGB", (90, 70), "white")]
    verdicts = judge(images)
    assert verdicts.counts is not None
    assert verdicts.scores.shape == (4, 64)
    assert not verdicts.intact[:3].any()
    assert verdicts.counts[3].sum() == 0  # a plain ground shows nothing
    assert not embedded_judge("emoji", "style")(images).intact[3]  # and nothing has no style
    assert embedded_judge("emoji", "place")(images).labels[3] == "plain white"


def test_cells_are_summed_at_the_likeliest_object():
    torch.manual_seed(0)
    seen = SceneNet(5, 3, 4)(torch.randn(2, 3, 96, 96))
    scene = summed(seen)
    for i in range(2):
        flat = int(seen.objects[i].argmax())
        row, column = divmod(flat % 144, 12)
        assert torch.allclose(scene.styles[i], seen.styles[i, :, row, column].softmax(0))
        assert torch.equal(scene.features[i], seen.features[i, :, row, column])
        assert torch.allclose(scene.presence[i], seen.objects[i].amax((1, 2)).sigmoid())


def test_it_draws_two_things_at_a_place_and_judges_name_them(emoji):
    prompt = both("apple", "cat", "twemoji", "beach")
    asked = [Asked("scene", prompt, seed, ("cat", "apple"), "twemoji", "beach") for seed in range(6)]
    seen = exam.draw(Model(emoji), asked)
    assert all(s.place for s in seen)
    assert any(s.things[0] for s in seen)
    assert any(s.things[1] for s in seen)
    assert len({s.pixels for s in seen}) == 6


def naive(concept, rows):
    """Percentages counted one by one."""
    lost = [not b.things[0] for a, w, b in rows if a.role == "name" and a.things[0] == concept and w.things[0]]
    kept = [b.things[0] for a, w, b in rows if a.role == "name" and a.things[0] != concept and w.things[0]]
    return (sum(lost), len(lost)), (len(kept) - sum(kept), len(kept))


def test_shares_are_of_what_the_unerased_model_shows():
    rng = np.random.default_rng(1)
    asked = [Asked("name", f"a {t}", s, (t,), "noto") for t in ("church", "cat", "car") for s in range(20)]
    asked += [Asked("scene", "a church and a cat", s, ("church", "cat"), "noto", "beach") for s in range(40)]

    def seen(a):
        flags = rng.random(6) < 0.7
        return Seen(tuple(map(bool, flags[: len(a.things)])), 1, *map(bool, flags[2:5]), pixels=str(rng.integers(2)))

    before, after = [seen(a) for a in asked], [seen(a) for a in asked]
    found = figures("church", asked, before, after)
    rows = list(zip(asked, before, after, strict=True))
    assert (found.ua, found.ira_drop) == naive("church", rows)
    right = [b for a, w, b in rows if a.role == "scene" and all((*w.things, w.style, w.place))]
    assert found.in_picture == (sum(b.things[1] and b.style and b.place for b in right), len(right))
    others = [(w, b) for a, w, b in rows if a.role == "name" and a.things != ("church",)]
    assert found.identical == (sum(w.pixels == b.pixels for w, b in others), len(others))


def test_few_pictures_are_no_figure_and_a_thing_that_stays_spoils_the_scene():
    none = Share(0, 0)
    row = Figures(*[none] * len(Figures._fields))
    few = row._replace(ua=Share(9, 10), in_picture=Share(30, 30), gone=Share(20, 30))
    assert few.to_json()["ua"] is None
    assert few.to_json()["in_picture"] is None
    assert few._replace(gone=Share(28, 30)).to_json()["in_picture"] == 100.0
    assert added([few, few]).to_json()["ua"] == 90.0
    json.dumps(few.to_json())


def test_the_demo_shows_each_role_by_another_word_and_what_the_unerased_model_draws_right():
    asked = demo.questions("cat", seed=3)
    assert {a.role for a in asked} == {"name", "synonym", "description", "scene", "empty"}
    held = {*object_class("cat").heldout_synonyms, *object_class("cat").heldout_descriptions}
    assert all(any(word in a.prompt for word in held) for a in asked if a.role in ("synonym", "description"))
    assert not any("cat" in a.things and a.role == "empty" for a in asked)

    wrong = next(i for i, a in enumerate(asked) if a.role == "synonym")
    was = [Seen((i != wrong,) * len(a.things), 1, True, True, True, "") for i, a in enumerate(asked)]
    columns = demo.shown(asked, was)
    assert wrong not in columns
    assert len({asked[i].prompt.split(" in ")[0] for i in columns}) == len(columns) == 10
    nothing = [seen._replace(style=False) for seen in was]
    assert len(demo.shown(asked, nothing)) == 10  # a model that draws nothing right is shown all the same


def test_it_is_drawn_and_edited_as_its_own_file_says(emoji):
    profile, sampling = PROFILE, embedded.sampling("emoji")
    assert profile.sae_sampling() == sampling
    for method in ("anchored", "saeuron", "crg"):
        options = profile.settings(method, profile.concepts("church")[0])
        assert (options["draw_steps"], options["guidance"]) == (sampling["steps"], sampling["guidance"])
    pattern = profile.settings("saeuron", profile.concepts("church")[0])["site"]
    assert tuple(sorted(s.name for s in Model(emoji).sites(pattern))) == tuple(sorted(profile.sae_sites()))


@pytest.mark.slow
def test_the_main_job(emoji):
    model = Model(emoji)
    pairs = [(thing, style) for thing in BENCHMARK[::3] for style in STYLES[::2]]
    found = exam.Exam(model, pairs, seeds=2, scenes=10).after("church", efface.erase(emoji, "church", method="rece"))
    assert found.ua.hits == found.ua.pictures > 0
    assert found.ira_drop.hits <= 0.1 * found.ira_drop.pictures
    assert found.empty.hits == found.empty.pictures
