"""Names as people type them: plural, possessive, hyphens, accents, phrases; none changes what is meant or what goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from efface.concepts.reading import read_concept
from efface.concepts.retained import candidates, proposals
from efface.concepts.words import folded

WORDS = (Path(__file__).parents[1] / "data" / "words5000.txt").read_text().split()
DOG = "dog dogs doggy puppy pup hound hounds poodle terrier canine"
NUDE = "nude nudes naked nakedness topless nsfw undressed breasts sex porn erotic lingerie"
GORE = "gore gory blood bloody bleeding corpse murder killing violence wound"
TRUMP = "trump trumps donald donalds trumpism"
KAHLO = "kahlo kahlos frida"
MONET = "monet monets claude"

TYPED = [
    # what is typed, kind, words of which none may be retained
    ("dogs", "object", DOG),
    ("Dog's", "object", DOG),
    ("golden retriever", "object", "golden"),
    ("church's", "object", "church churches chapel cathedral steeple"),
    ("Churches", "object", "church churches chapel cathedral steeple"),
    ("garbage trucks", "object", "garbage trash rubbish"),
    ("Bin-Lorry", "object", "garbage trash rubbish bin lorry lorries"),
    ("golf-balls", "object", "golf golfball golfer"),
    ("hot dog", "object", "hot dog dogs hotdog hotdogs frankfurter wiener sausage"),
    ("mushrooms", "object", "mushroom mushrooms toadstool agaric fungus fungi"),
    ("Frida Kahlo", "style", KAHLO),
    ("kahlo", "style", KAHLO),
    ("Kahlo's", "style", KAHLO),
    ("Joan Miró", "style", "joan miro miros"),
    ("Joan Miro", "style", "joan miro miros"),
    ("Miró", "style", "joan miro miros"),
    ("in the style of Monet", "style", MONET),
    ("style of monet", "style", MONET),
    ("Monet's paintings", "style", MONET),
    ("a painting by van Gogh", "style", "gogh goghs vincent"),
    ("van-gogh", "style", "gogh goghs vincent"),
    ("vincent van gough", "style", "gogh goghs vincent"),
    ("HR Giger", "style", "giger gigers hans ruedi"),
    ("H.R. Giger", "style", "giger gigers hans ruedi"),
    ("Picassos", "style", "picasso picassos pablo"),
    ("Jean-Michel Basquiat", "style", "basquiat michel"),
    ("impressionism", "style", "impressionism impressionist impressionists impression"),
    ("Impressionist paintings", "style", "impressionism impressionist impressionists"),
    ("pixel-art", "style", "pixel pixels pixelated voxel"),
    ("watercolours", "style", "watercolor watercolour watercolors watercolours aquarelle"),
    ("Donald Trump", "person", TRUMP),
    ("trump", "person", TRUMP),
    ("Trump's", "person", TRUMP),
    ("Beyonce", "person", "beyonce"),
    ("paris hilton", "person", "hilton hiltons"),
    ("NSFW", "explicit", NUDE),
    ("topless woman", "explicit", NUDE),
    ("Nudes", "explicit", NUDE),
    ("gore", "explicit", GORE),
    ("Gore", "explicit", GORE),
    ("bloody corpses", "explicit", GORE),
    ("love", "abstract", "love loves lover beloved"),
]


@pytest.mark.parametrize(("text", "kind", "gone"), TYPED, ids=[row[0] for row in TYPED])
def test_what_is_typed_is_understood_and_not_retained(text, kind, gone):
    (concept,) = read_concept(text).concepts
    assert concept.kind == kind
    words = set(gone.split())
    order = [*words, *WORDS]
    for retained in (candidates(concept, order), proposals(concept, order)):
        assert not [prompt for prompt in retained if words & set(folded(prompt).split())]
    assert len(proposals(concept, order)) >= 8


@pytest.mark.parametrize(
    ("text", "broader"),
    [
        ("golden retriever", "dog dogs retriever animal canine"),
        ("garbage truck", "truck vehicle"),
        ("church", "building"),
    ],
)
def test_what_a_concept_is_a_kind_of_is_not_retained(text, broader):
    """To keep a dog as it is would keep a golden retriever; an Irish setter may stay."""
    (concept,) = read_concept(text).concepts
    assert not set(broader.split()) & set(candidates(concept, [*broader.split(), *WORDS]))


@pytest.mark.parametrize("text", ["Frida Kahlo", "Kahlo's", "in the style of Monet", "Monet's paintings", "HR Giger"])
def test_styles_of_artists_stand_beside_artists(text):
    (concept,) = read_concept(text).concepts
    assert "Andy Warhol" in candidates(concept, ())


@pytest.mark.parametrize("text", ["art style", "painting", "stand by me", "photo of a church", "house by the sea"])
def test_phrases_that_name_nobody_are_nobodys_style(text):
    reading = read_concept(text)
    assert not [remark for remark in reading.remarks if "the artist" in remark]


@pytest.mark.parametrize("text", ["Pikachu", "Zorblax Quux", "Cher"])
def test_a_name_that_nobody_knows_is_said(text):
    (remark,) = read_concept(text).remarks
    assert "is not known and read as an object" in remark


THINGS = "killer whale,assault rifle,van,arena,wreck,fawn,bass,vacuum,traffic light,hot air balloon,German shepherd,prison,robin"


@pytest.mark.parametrize("text", THINGS.split(","))
def test_things_stay_things(text):
    reading = read_concept(text)
    assert (reading.concepts[0].kind, reading.remarks) == ("object", ())


def test_capital_letters_do_not_change_known_names():
    """Tokenizers do not see them; a plural noun in small letters is still a noun."""
    for name in ("Trump", "Musk", "Kahlo", "Van Gogh", "Picasso", "Obama"):
        assert read_concept(name).concepts[0].kind == read_concept(name.lower()).concepts[0].kind
    assert read_concept("gates").concepts[0].kind == "object"


ROWS = json.loads((Path(__file__).parents[1] / "data" / "concepts60.json").read_text())["concepts"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["name"])
def test_plurals_and_possessives_of_the_sixty_are_never_retained(row):
    name = row["name"]
    (concept,) = read_concept(name + "'s").concepts
    order = [name, *row["synonyms"], *row["inflections"], *row["hyponyms"], *WORDS]
    kept = {folded(prompt) for prompt in proposals(concept, order)}
    assert not kept & {folded(word) for word in order[: -len(WORDS)]}
