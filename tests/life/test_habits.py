"""Habits from other tools."""

from __future__ import annotations

import pytest

import efface
from alive import fresh, text_map
from efface.concepts.reading import split_names


@pytest.mark.parametrize("text", ["cat, dog", "cat; dog", " cat ,dog,", "cat,\ndog", "Cat,  cat, dog"])
def test_several_concepts_in_one_string(text):
    made = efface.erase(fresh(), text, method="uce", keep=[])
    assert [concept.name.lower() for concept in made.provenance.concepts] == ["cat", "dog"]


@pytest.mark.parametrize("text", ["cat", "golden gate bridge", "Ajin: Demi Human", "Vincent van Gogh"])
def test_one_name_stays_one(text):
    assert split_names(text) == (text,)


def test_a_concept_object_is_taken_as_it_is():
    made = efface.erase(fresh(), efface.Concept("cat, dog"), method="uce", keep=[])
    assert [concept.name for concept in made.provenance.concepts] == ["cat, dog"]


def test_names_are_compared_as_the_tokenizer_reads_them():
    made = efface.erase(fresh(), ["Church", "church", " CHURCH"], method="uce", keep=[])
    assert [concept.name for concept in made.provenance.concepts] == ["church"]


def test_an_empty_piece_is_no_concept():
    with pytest.raises(efface.UsageError, match="empty"):
        efface.erase(fresh(), " , ;", method="uce", keep=[])


@pytest.mark.parametrize("scale", [-1.0, float("inf"), float("nan")])
def test_a_negative_scale_is_refused(scale):
    pipe = fresh()
    with pytest.raises(efface.UsageError, match="strengthen"):
        text_map().attach(pipe, scale=scale)
    assert efface.attached_to(pipe) == []
