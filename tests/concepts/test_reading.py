"""A user's words: presets by any spelling, kinds that names tell, and every guess said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import efface
from efface.concepts.concept import Concept, default_anchor
from efface.concepts.presets import PRESETS
from efface.concepts.reading import read_concept
from efface.profiles.base import Profile

ROWS = json.loads((Path(__file__).parents[1] / "data" / "concepts60.json").read_text())["concepts"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_kinds_of_the_sixty(row):
    (found,) = read_concept(row["name"]).concepts
    unseen = ("explicit", "abstract")
    assert found.kind == row["kind"] or (found.kind in unseen and row["kind"] in unseen)
    assert found.name == row["name"]


@pytest.mark.parametrize("text", ["Van Gogh", "van gogh", " VAN  GOGH ", "Gogh"])
def test_van_gogh_is_a_style_led_to_art_and_said_so(text):
    reading = read_concept(text)
    (found,) = reading.concepts
    assert found.kind == "style"
    assert default_anchor(found) == "art"
    assert found.name == " ".join(text.split())
    assert "Vincent van Gogh" in found.aliases
    assert "a style, led to 'art'" in reading.remarks[0]
    assert Profile().concepts(text) == (found,)


@pytest.mark.parametrize("text", ["Vincent van Gogh", "vincent VAN gogh", "Church", "ENGLISH  springer", "tench"])
def test_presets_match_without_regard_to_case_and_spaces(text):
    reading = read_concept(text)
    assert reading.concepts[0] in {c for preset in PRESETS.values() for c in preset}
    assert reading.remarks == ()


@pytest.mark.parametrize("text", ["nudity", "Nudity", "UNSAFE", "Imagenette", " artists "])
def test_groups(text):
    assert read_concept(text).concepts == PRESETS[text.strip().lower()]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("Greg Rutkowski", "style", "the artist Greg Rutkowski"),
        ("greg rutkowsky", "style", "the artist Greg Rutkowski"),
        ("Picasso", "style", "Pablo Picasso"),
        ("monet", "style", "the artist Claude Monet"),
        ("Michelangelo", "style", "the artist Michelangelo"),
        ("Hokusai", "style", "Hokusai"),
        ("taylor swift", "person", "Taylor Swift"),
        ("Jennifer Aniston", "person", "a given name"),
        ("Barack Obama", "person", "Obama"),
        ("cubist", "style", "technique or movement"),
        ("cyberpunk style", "style", "technique or movement"),
        ("naked woman", "explicit", "'naked' belongs to 'nudity'"),
        ("happiness", "abstract", "cannot be seen"),
        ("Wood", "object", "if the artist Grant Wood is meant, give the kind (style)"),
        ("chainsaw", "object", "read as chain saw, an object"),
        ("nuditty", "object", "did you mean 'nudity'?"),
        ("garbge truck", "object", "did you mean 'garbage truck'?"),
    ],
)
def test_what_is_inferred_is_said(text, kind, said):
    reading = read_concept(text)
    assert reading.concepts[0].kind == kind
    assert len(reading.remarks) == 1
    assert said in reading.remarks[0]


@pytest.mark.parametrize(
    "text",
    ["church", "bacon", "rose garden", "Rose Garden", "olive oil", "tent", "gun", "bare tree", "jordan", "pizza"],
)
def test_common_nouns_are_objects_without_a_word(text):
    reading = read_concept(text)
    assert reading.concepts == (Concept(text),) or text == "church"
    assert reading.remarks == ()


def test_an_empty_name_is_refused():
    with pytest.raises(efface.UsageError, match="empty"):
        read_concept("  ")


def test_the_command_says_what_it_inferred(sd, tmp_path, capsys, monkeypatch):
    from efface.cli.erase import main

    monkeypatch.setattr("efface.models.load.load", lambda name, **options: sd)
    main(["uce", "SD15", "Van Gogh", "-o", str(tmp_path / "van-gogh.safetensors")])
    assert "'Van Gogh' is read as Vincent van Gogh, a style, led to 'art'." in "".join(capsys.readouterr())
    erasure = efface.Erasure.load(tmp_path / "van-gogh.safetensors")
    assert [(concept.name, concept.kind) for concept in erasure.provenance.concepts] == [("Van Gogh", "style")]
    main(["uce", "SD15", "Van Gogh", "--kind", "person", "-o", str(tmp_path / "person.safetensors")])
    assert "is read as" not in "".join(capsys.readouterr())
