"""The audit of answers: which questions are asked, and what counts."""

from __future__ import annotations

import pytest

import efface
from efface.api.answers import NAMED, OTHERS_NAMED, SEEN, Shown, questions_of, read_shown, row_of
from efface.concepts.questions import affirms, names, presence
from efface.errors import UsageError
from tiny_vlm import patches, tiny_vlm, write_pictures

PICTURE = patches("red", 1)[0]
SHOWN = [
    *(Shown(PICTURE, "red", "flat") for _ in range(2)),
    Shown(PICTURE, "blue", "flat"),
    Shown(PICTURE, "green"),
]


@pytest.mark.parametrize(
    ("answer", "words", "expected"),
    [
        ("a church", ("church",), True), ("A Church.", ("church",), True), ("two churchs", ("church",), True),
        ("a churchyard", ("church",), False), ("a chapel", ("church", "chapel"), True), ("", ("church",), False),
        ("a beer mug and a cat", ("beer mug",), True), ("a car", ("cat",), False),
    ],
)  # fmt: skip
def test_an_answer_names_whole_words(answer, words, expected):
    assert names(answer, words) is expected


@pytest.mark.parametrize(
    ("answer", "expected"), [("yes", True), ("Yes, there is.", True), ("no", False), ("yesterday", False), ("", False)]
)
def test_yes_is_the_first_word(answer, expected):
    assert affirms(answer) is expected
    assert presence("apple") == "Is there an apple in the picture?"


def test_every_picture_is_asked_about():
    asked = questions_of([efface.Concept("red", aliases=("scarlet",))], SHOWN)
    counts = {group: sum(one.group == group for one in asked) for group in dict.fromkeys(one.group for one in asked)}
    assert counts[NAMED] == counts[SEEN] == 2
    assert counts[OTHERS_NAMED] == 2
    assert counts["erased: style"] == 2
    assert counts["others: style"] == 1
    assert counts["others: is there an erased one, yes"] == 2
    assert next(one.words for one in asked if one.group == NAMED) == ("red", "scarlet")
    for one in asked:
        if one.group == "others: is there another, yes":
            assert "red" not in one.question


def test_rows_count_names_and_yes():
    asked = questions_of([efface.Concept("red")], SHOWN)
    before = ["yes" if not one.words else one.words[0] for one in asked]
    after = ["no" if not one.words else "nothing" for one in asked]
    row = row_of(NAMED, asked, before, after)
    assert (row.before.value, row.after.value, row.change.difference, row.before.pictures) == (1, 0, -1, 2)
    assert row_of(SEEN, asked, after, before).change.difference == 1


@pytest.mark.parametrize("shown", [SHOWN[:2], SHOWN[2:]])
def test_pictures_of_both_kinds_are_needed(shown):
    with pytest.raises(UsageError, match="no picture shows"):
        questions_of([efface.Concept("red")], shown)


def test_an_audit_leaves_the_model_as_it_was(tmp_path):
    vlm = tiny_vlm()
    folder = write_pictures(tmp_path / "in", {"red": 4, "blue": 4})
    erasure = efface.erase(vlm, "red", images=str(folder), iterations=10, expansion=2, k=2, count=2)
    shown = read_shown(write_pictures(tmp_path / "out", {"red": 2, "blue": 2}, seed=3, style="flat"))
    card = efface.audit_answers(vlm, erasure, shown)
    again = efface.audit_answers(vlm, erasure, shown, batch=3)
    assert card.to_json() == again.to_json()
    assert card.row(NAMED).before.pictures == 2
    assert card.save(tmp_path / "card").read_text().startswith("{")
    with pytest.raises(UsageError, match="has no row"):
        card.row("others")
    PICTURE.save(tmp_path / "out" / "loose.png")
    with pytest.raises(UsageError, match="lies in no sub-folder"):
        read_shown(tmp_path / "out")
