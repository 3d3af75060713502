"""Other words for concepts: typos that are no words, names in other languages, synonyms, descriptions, and prompts of them."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from efface.concepts.concept import Concept
from efface.concepts.languages import check_translations, packaged, read_translations, translated, translations_of
from efface.concepts.levels import LEVELS, beside, checked_levels, described, in_turn, level_prompts, mixed, named
from efface.concepts.names import artists
from efface.concepts.nouns import nouns
from efface.concepts.other_words import definitions, other_words
from efface.concepts.reading import read_concept
from efface.concepts.typos import KINDS, is_known, keys_beside, mistakes, typos
from efface.concepts.words import folded
from efface.errors import EffaceError, UsageError

ROWS = ("q w e r t y u i o p", " a s d f g h j k l", "  z x c v b n m")
"""A keyboard drawn to scale: keys touch that are at most two columns and one row apart."""


def beside_naive(letter):
    """The letters around one on the drawn keyboard."""
    place = {key: (row, column) for row, keys in enumerate(ROWS) for column, key in enumerate(keys) if key != " "}
    row, column = place[letter]
    near = {key for key, (r, c) in place.items() if abs(r - row) <= 1 and abs(c - column) <= 2}
    return near - {letter}


def test_keys_touch_as_on_a_drawn_keyboard():
    assert all(set(keys) == beside_naive(key) for key, keys in keys_beside().items())
    assert set(keys_beside()["g"]) == set("ftyhbv")


def edits(word):
    """Every text that one of the four mistakes makes of a word in small letters, each written out."""
    found = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    found |= {word[:i] + word[i + 1 :] for i in range(len(word))}
    found |= {word[: i + 1] + word[i:] for i in range(len(word))}
    found |= {word[:i] + key + word[i + 1 :] for i in range(len(word)) for key in beside_naive(word[i])}
    return found - {word}


@settings(deadline=None)  # the tables are read by the first
@given(st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=9), st.integers(0, 3))
@example("cat", 0)
@example("car", 0)
@example("horse", 1)
def test_a_typo_is_one_mistake_and_no_word(name, seed):
    found = typos(name, 8, seed)
    assert len(set(found)) == len(found) <= 8
    assert set(found) <= edits(name)
    for typo in found:
        assert typo not in nouns().numbers
        assert not is_known(typo)
    assert found == typos(name, 8, seed)


def test_typos_never_give_another_word():
    made = {typo for name in ("cat", "car", "horse", "bear", "Monet", "house", "cow") for typo in typos(name, 200)}
    others = {
        "act",
        "vat",
        "far",
        "fat",
        "care",
        "hose",
        "horses",
        "beer",
        "beard",
        "bar",
        "manet",
        "money",
        "mouse",
        "row",
    }
    assert len(made) > 100
    assert not {typo.lower() for typo in made} & (others | {folded(name) for name in artists()})


def test_parts_between_hyphens_are_no_words_either():
    made = typos("T-shirt", 200)
    assert "T-sbirt" in made
    assert not {"T-shit", "T-shirr", "T-shirts"} & set(made)


def test_all_kinds_take_turns_and_the_seed_decides():
    first = typos("church", 8)
    assert first == ["chufch", "hcurch", "churh", "chhurch", "churdh", "churhc", "curch", "cchurch"]  # on every machine
    assert [next(kind for kind in KINDS if typo in mistakes("church", kind)) for typo in first] == [*KINDS, *KINDS]
    assert typos("church", 8, seed=1) != first


@pytest.mark.parametrize(
    ("name", "kept"),
    [("garbage truck", " "), ("Vincent van Gogh", " van "), ("Albert Einstein", " ")],
)
def test_one_telling_word_of_a_name_is_misspelt(name, kept):
    for typo in typos(name, 12):
        changed = [new for old, new in zip(name.split(), typo.split(), strict=True) if old != new]
        assert len(changed) == 1, typo
        assert kept in typo
        assert folded(typo) != folded(name)


@pytest.mark.parametrize("name", ["ox", "猫", "E. T."])
def test_short_names_have_no_typos(name):
    assert typos(name, 8) == []


def test_emoji_have_names_in_26_languages():
    assert all(len(names) == 26 for names in packaged().values())
    assert packaged()["church"]["de"] == "Kirche"
    assert packaged()["cat"]["ja"] == "ネコ"
    assert translated(["car", "automobile"])["fr"] == ("voiture",)
    assert "ms" not in translated(["penguin"])  # where it is called the same
    assert translated(["zorbl"]) == {}


def test_a_users_translations(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text(
        "name,language,words\n# a remark\n\nChurch,de,Kirche; Gotteshaus\nchurch,la,ecclesia\nchurch,de,Dom\n"
    )
    found = read_translations(path)
    assert found == {"church": {"de": ("Kirche", "Gotteshaus", "Dom"), "la": ("ecclesia",)}}
    assert translations_of(Concept("chapel", aliases=("church",)), found)["la"] == ("ecclesia",)
    assert translations_of(Concept("Dom", aliases=("church",)), found)["de"] == ("Kirche", "Gotteshaus")  # not its name
    check_translations(found, [Concept("cat"), Concept("church")])
    with pytest.raises(UsageError, match=r"nothing of what is erased \('cat'\), but of church"):
        check_translations(found, [Concept("cat")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("church,de\n", "line 1 of .* expected a name, a language and words"),
        ("church,de,;\n", "line 1 of"),
        ("church,,Kirche\n", "line 1 of"),
        ("# nothing\n", "translates no concept"),
    ],
)
def test_translations_that_are_not_understood(tmp_path, text, said):
    (tmp_path / "words.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_translations(tmp_path / "words.csv")


def test_translations_that_cannot_be_read(tmp_path):
    with pytest.raises(EffaceError, match="cannot be read"):
        read_translations(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EffaceError, match="no text in UTF-8"):
        read_translations(tmp_path / "binary.csv")


NAMES = (
    "church",
    "cat",
    "car",
    "garbage truck",
    "van gogh",
    "Claude Monet",
    "watercolor",
    "Albert Einstein",
    "nudity",
    "hate",
    "zorbl",
)


def test_definitions_stand_beside_their_meanings():
    (number,) = nouns().senses("garbage truck")
    assert definitions()[number] == "a truck for collecting domestic refuse"
    assert len(definitions()) == len(nouns().lines)


@pytest.mark.parametrize("name", NAMES)
def test_no_other_word_names_the_concept(name):
    for concept in read_concept(name).concepts:
        words = other_words(concept)
        own = {folded(n) for n in (concept.name, *concept.aliases)}
        assert not own & {folded(word) for word in (*words.synonyms, *in_turn(list(words.languages.values())))}
        for text in (*words.synonyms, *words.descriptions):
            assert f" {folded(concept.name)} " not in f" {folded(text)} "
        assert concept.name not in words.companions


def test_what_is_known_of_some_concepts():
    assert "automobile" in other_words(Concept("car")).synonyms
    assert "cathedral" in other_words(Concept("church")).synonyms
    assert other_words(Concept("car", aliases=("automobile",))).synonyms[:3] == ("auto", "machine", "motorcar")
    assert other_words(Concept("church")).descriptions == ("a place for public worship",)
    assert "naked" in other_words(Concept("nudity", "explicit")).synonyms
    assert other_words(Concept("zorbl")) == ((), (), {}, other_words(Concept("zorbl")).companions)
    assert "dog" not in other_words(Concept("dog")).companions


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("level", LEVELS)
def test_prompts_of_every_level(name, level):
    concept = read_concept(name).concepts[0]
    prompts = level_prompts(level, concept, other_words(concept))
    assert len(set(prompts)) == len(prompts)
    assert all(prompt and "{" not in prompt for prompt in prompts)
    names_it = [re.search(rf"\b{re.escape(folded(concept.name))}\b", folded(prompt)) for prompt in prompts]
    assert all(names_it) if level in ("name", "pair") else not any(names_it)
    if level in ("name", "pair"):
        assert prompts


def test_captions_keep_their_sentences():
    """A concept whose model knows captions alone is asked for in its own."""
    captions = Concept("cat", templates=("a {}", "a {} in noto style"), neutral=("a dog", "a dog in noto style"))
    words = other_words(captions)._replace(
        descriptions=("an animal that purrs", "where mice fear to go"), companions=("apple",)
    )
    assert level_prompts("name", captions, words) == ["a cat", "a cat in noto style"]
    assert level_prompts("description", captions, words)[:2] == [
        "an animal that purrs",
        "where mice fear to go in noto style",
    ]
    assert level_prompts("pair", captions, words) == ["an apple and a cat", "an apple and a cat in noto style"]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (named("a photo of a {}", "église"), "a photo of an église"),
        (named("an {}", "Kirche"), "a Kirche"),
        (named("the {}", "oak"), "the oak"),
        (named("art by {}", "Monet"), "art by Monet"),
        (described("a drawing of a {} at night", r"a back\slash"), r"a drawing of a back\slash at night"),
        (described("{}", "the one"), "the one"),
        (beside("{other} and a cat", "apple"), "an apple and a cat"),
    ],
)
def test_sentences_are_filled(made, expected):
    assert made == expected


def test_words_and_sentences_are_mixed():
    assert mixed(["a {}", "two {}"], ["x", "y", "z"], named) == ["a x", "two y", "a z", "two x", "a y", "two z"]


def test_levels_by_name():
    assert checked_levels(["all"]) == tuple(LEVELS)
    assert checked_levels(["typo", "name"]) == ("name", "typo")
    assert checked_levels(["none"]) == checked_levels([]) == ()
    for wrong in (["typos"], ["none", "typo"], ["all", "none"]):
        with pytest.raises(UsageError, match="no level; expected some of name, synonym"):
            checked_levels(wrong)
