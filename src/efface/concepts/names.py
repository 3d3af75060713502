"""Names that no dictionary of nouns holds: artists, styles, persons, given names, and words for explicit content."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources

from efface.concepts.words import folded

STYLES = (
    "watercolor", "oil painting", "charcoal drawing", "pencil sketch", "ink wash", "woodcut", "linocut", "etching",
    "engraving", "fresco", "mosaic", "stained glass", "collage", "pastel", "gouache", "calligraphy", "ukiyo-e",
    "anime", "cartoon", "comic book", "pixel art", "vector art", "low poly", "claymation", "origami", "graffiti",
    "pop art", "op art", "art deco", "art nouveau", "bauhaus", "cubism", "impressionism", "expressionism",
    "surrealism", "dadaism", "fauvism", "pointillism", "futurism", "minimalism", "realism", "romanticism", "baroque",
    "rococo", "gothic", "byzantine", "renaissance", "cyberpunk", "steampunk", "vaporwave", "photograph",
    "daguerreotype", "blueprint", "tapestry", "embroidery", "psychedelic art",
)  # fmt: skip
"""Techniques and movements, each of which may stand beside another that is erased."""

STYLE_FAMILIES = (
    ("watercolor", "watercolour", "aquarelle"),
    ("anime", "manga", "otaku", "chibi"),
    ("cartoon", "comic", "comic book", "caricature", "toon"),
    ("pencil sketch", "sketch", "pencil drawing", "charcoal drawing", "line drawing", "doodle"),
    ("photograph", "photo", "photography", "photorealism", "photorealistic", "daguerreotype", "snapshot", "realism"),
    ("oil painting", "oils", "oil", "impasto"),
    ("woodcut", "woodblock", "linocut", "ukiyo-e", "etching", "engraving"),
    ("pixel art", "8-bit", "16-bit", "pixelated", "voxel"),
    ("low poly", "polygonal", "3d render", "cgi"),
    ("dadaism", "dada"),
    ("cyberpunk", "steampunk", "neon"),
    ("pastel", "pastels", "crayon", "chalk"),
    ("surrealism", "surreal", "surrealist"),
    ("fresco", "mural"),
    ("embroidery", "tapestry", "needlework", "cross-stitch"),
    ("graffiti", "street art", "tag"),
    ("baroque", "rococo"),
    ("gothic", "goth"),
)
"""Styles that a reader may take for one another: none of a family is kept when another is erased."""

OBJECT_FAMILIES = (
    ("cassette player", "tape player", "cassette deck", "tape deck", "cassette recorder", "tape recorder", "cassette",
     "boombox", "ghetto blaster", "walkman"),
    ("chain saw", "chainsaw"),
    ("church", "chapel", "parish", "steeple", "cathedral"),
    ("English springer", "springer spaniel", "English springer spaniel", "Welsh springer spaniel", "spaniel"),
    ("French horn", "horn", "hornist"),
    ("garbage truck", "trash truck", "rubbish truck", "refuse truck", "refuse lorry", "bin lorry", "waste truck"),
    ("gas pump", "petrol pump", "fuel pump", "fuel dispenser", "gas station", "petrol station", "filling station"),
    ("golf ball", "golfball", "golf"),
    ("parachute", "chute", "parachutist", "skydiver", "skydiving", "parasail", "paraglider", "paratrooper"),
    ("tench", "doctor fish"),
    ("mushroom", "toadstool", "agaric", "fly agaric", "false deathcap", "death cap", "deathcap", "destroying angel",
     "lepiota", "waxycap", "nameko", "blewits", "inky cap", "jack-o-lantern fungus", "poisonous parasol", "onion stem",
     "gill fungus", "shoestring fungus", "pig's ears", "bolete", "boletus", "chanterelle", "morel", "puffball", "truffle",
     "shiitake", "polypore", "fungus"),
)  # fmt: skip
"""Names of Imagenette's classes and of mushrooms, and of what a picture of one also shows, beyond the table of nouns."""

STYLE_WORDS = frozenset({
    "art", "artist", "arts", "artwork", "drawing", "drawings", "painting", "paintings", "picture", "style", "styles",
})  # fmt: skip
"""Words of styles' names that say only that they are styles."""

SAME_ARTIST = (
    ("Moebius", "Jean Giraud"), ("Beeple", "Mike Winkelmann"), ("Craola", "Greg Simkins"), ("Loish", "Lois van Baarle"),
    ("Raphael", "Raffaello Sanizo", "Raphael Sanzio", "Raffaello"), ("Dr. Seuss", "Theodor Geisel"),
    ("Caravaggio", "Michelangelo Merisi Da Caravaggio"), ("Titian", "Tiziano Vecellio"), ("El Greco", "Theotokopoulos"),
    ("Tintoretto", "Jacopo Robusti"), ("Canaletto", "Antonio Canal"), ("Balthus", "Klossowski"),
    ("Studio Ghibli", "Hayao Miyazaki"), ("Pixar", "Pixar Concept Artists", "John Lasseter"), ("Artgerm", "Stanley Lau"),
    ("Friedensreich Regentag", "Dunkelbunt Hundertwasser"), ("Hanna-Barbera", "William Hanna", "Joseph Barbera"),
    ("Man Ray", "Emmanuel Radnitzky"), ("Grandma Moses", "Anna Mary Robertson"), ("Walt Disney", "Pixar", "Ub Iwerks"),
    ("Rembrandt", "Rembrandt van Rijn"), ("Arnold Bocklin", "Arnold Böcklin"), ("Saner Edgar", "Edgar Flores"),
    ("Botero", "Fernando Botero"), ("Kaws", "Brian Donnelly"), ("Utagawa Hiroshige", "Kunisada"),
    ("Stan Lee", "Jack Kirby"), ("Ajin: Demi Human", "Ajin", "Gamon Sakurai"),
)  # fmt: skip
"""Names of one artist, or of artists whose work is one, that share no word."""

PEOPLE = (
    "a person", "a man", "a woman", "a portrait", "a face", "a crowd of people", "a family", "a group of friends",
    "an old man", "an old woman", "a nurse", "a teacher", "a farmer", "a musician", "a dancer", "a chef",
)  # fmt: skip
"""Prompts of anybody, for what is erased about persons."""

NEUTRAL = (
    "a person", "clothes", "a man", "a woman", "a portrait", "a face", "a family", "a group of friends", "a dress",
    "a coat", "a house", "a street", "a landscape", "an animal", "a meal", "a photo",
)  # fmt: skip
"""Neutral prompts that explicit and abstract concepts retain beside the blank one, which is the methods' own option."""

PERSONS = (
    "Albert Einstein", "Marilyn Monroe", "Abraham Lincoln", "Nelson Mandela", "Elvis Presley", "Audrey Hepburn",
    "Winston Churchill", "Queen Elizabeth", "Mahatma Gandhi", "Charlie Chaplin", "Barack Obama", "Angela Merkel",
    "Taylor Swift", "Brad Pitt", "Oprah Winfrey", "Morgan Freeman", "Emma Watson", "Lionel Messi", "Serena Williams",
    "Steve Jobs", "Michael Jackson", "Beyoncé Knowles", "Keanu Reeves", "Scarlett Johansson", "Bruce Lee",
    "Muhammad Ali", "Princess Diana", "Martin Luther King", "Cleopatra", "Napoleon Bonaparte", "Donald Trump",
    "Joe Biden", "Elon Musk", "Bill Gates", "Tom Cruise", "Tom Hanks", "Leonardo DiCaprio", "Jennifer Lawrence",
    "Angelina Jolie", "Johnny Depp", "Rihanna", "Lady Gaga", "Kim Kardashian", "Cristiano Ronaldo", "Kanye West",
    "Beyoncé", "Adele", "Zendaya", "Eminem", "Shakira", "Paris Hilton", "Kim Jong-un", "Xi Jinping", "Narendra Modi",
    "Volodymyr Zelensky", "Emmanuel Macron", "Jeff Bezos", "Mark Zuckerberg", "Ariana Grande", "Billie Eilish",
)  # fmt: skip
"""Persons whom these models know, each of whom may stand beside another who is erased."""

MORE_ARTISTS = ("Banksy", "Annie Leibovitz", "Hergé")
"""Artists whom these models know and the public list does not hold."""

MILD = frozenset({
    "bare", "cutting", "strip", "explicit", "butt", "fight", "hit", "hurt", "hanging", "escort", "pain", "illegal",
    "shame", "war",
})  # fmt: skip
"""Words of these lists that say nothing explicit beside others ("bare tree")."""
OBJECTS = frozenset({"gun", "weapon", "bomb", "noose", "cocaine", "heroin", "drugs", "saliva", "wound"})
"""Words of these lists that are things by themselves."""


def _text(name: str) -> str:
    """A file of the folder of tables."""
    return (resources.files("efface") / "concepts" / "data" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def artists() -> tuple[str, ...]:
    """The public list of 1,734 artists, those of encyclopedias first."""
    return tuple(_text("artists.txt").splitlines())


@lru_cache(maxsize=1)
def given_names() -> frozenset[str]:
    """Common given names of the persons whom these models know, in small letters."""
    return frozenset(_text("given_names.txt").split())


@lru_cache(maxsize=1)
def sensitive_words() -> dict[str, tuple[str, ...]]:
    """Each word of the unsafe preset -> words by which a reader would call the same."""
    return {topic: tuple(words) for topic, words in json.loads(_text("sensitive.json")).items()}


@lru_cache(maxsize=1)
def style_names() -> frozenset[str]:
    """Folded names of techniques and movements, of the followers of a movement too ("impressionist")."""
    found = {folded(name) for name in (*STYLES, *(name for family in STYLE_FAMILIES for name in family))}
    return frozenset(found | {name.removesuffix("ism") + "ist" for name in found if name.endswith("ism")})


@lru_cache(maxsize=1)
def families() -> dict[str, tuple[str, ...]]:
    """Folded name -> all names that may mean the same: of artists, of styles, of Imagenette's classes."""
    found: dict[str, tuple[str, ...]] = {}
    for family in (*SAME_ARTIST, *STYLE_FAMILIES, *OBJECT_FAMILIES):
        for name in family:
            found[folded(name)] = (*found.get(folded(name), ()), *family)
    return found


@lru_cache(maxsize=1)
def sensitive() -> dict[str, str]:
    """Folded word -> the first word of the unsafe preset under which it stands."""
    found: dict[str, str] = {}
    for topic, words in sensitive_words().items():
        for word in words:
            found.setdefault(folded(word), topic)
    return found
