"""Manifest: a JSON file that says which erasures each policy has, by the sha256 of their files; to be signed, compared, audited."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.erasures.summary import summary_in
from efface.errors import EffaceError, UsageError, system_reason
from efface.io.atomic import write_atomically

if TYPE_CHECKING:
    from efface.erasures.erasure import Erasure

FORMAT = 1
"""Version of the manifest's format; a reader refuses newer ones."""
NAME = re.compile(r"\w[\w.-]*")
"""What a policy may be called: it names a folder of its audit."""
SHA256 = re.compile(r"[0-9a-f]{64}")


class Entry(NamedTuple):
    """An erasure of a policy."""

    file: str
    """Its path, from the manifest's folder."""
    sha256: str
    """Of the file's bytes."""
    concepts: tuple[str, ...]
    """What it erases, for readers."""
    method: str
    """How, for readers."""


@dataclass(frozen=True)
class Manifest:
    """Which erasures each policy has."""

    path: Path
    """Of the manifest; the erasures' paths begin in its folder."""
    policies: Mapping[str, tuple[Entry, ...]]

    @classmethod
    def of(cls, path: Path, policies: Mapping[str, Sequence[Path]]) -> Manifest:
        """The manifest of erasure files as they are now; nothing is written.

        Raises:
            UsageError: there is no policy, or one whose name is none.
            EffaceError: a file is no erasure.
        """
        if not policies:
            raise UsageError("there are no policies: name one with its erasures.")
        for name in policies:
            if not NAME.fullmatch(name):
                raise UsageError(f"a policy is called {name!r}; expected letters, digits, '_', '-' and '.'.")
        return cls(path, {name: tuple(_entry(path, file) for file in files) for name, files in policies.items()})

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read a manifest; the erasures are not looked at.

        Raises:
            EffaceError: it is missing, of a newer format, or no manifest.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
        except OSError as error:
            raise EffaceError(
                f"{path} could not be read ({system_reason(error)}); expected a manifest of policies."
            ) from error
        except (ValueError, RecursionError) as error:
            raise EffaceError(f"{path} is no manifest of policies ({str(error)[:100]}): write it anew.") from error
        number = data.get("format") if isinstance(data, dict) else None
        if type(number) is int and number > FORMAT:
            raise EffaceError(f"{path} has format {number}, this efface reads up to {FORMAT}: update efface.")
        try:
            if number != FORMAT or set(data) != {"format", "policies"}:
                raise ValueError("format and policies are expected")
            return cls(path, {_name(name): _entries_of(held) for name, held in data["policies"].items()})
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise EffaceError(f"{path} is no manifest of policies ({str(error)[:100]}): write it anew.") from error

    def write(self) -> None:
        """Write it, always in the same way, so that two can be compared line by line."""
        text = json.dumps(self.data, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.path, text.encode())

    @property
    def data(self) -> dict[str, Any]:
        """What the file holds."""
        policies = {
            name: [entry._asdict() | {"concepts": list(entry.concepts)} for entry in entries]
            for name, entries in self.policies.items()
        }
        return {"format": FORMAT, "policies": policies}

    def file(self, entry: Entry) -> Path:
        """Where an erasure lies."""
        return self.path.parent / entry.file

    def wrong(self) -> dict[str, str]:
        """File -> what is wrong with it, in words; empty where every file is what it was."""
        entries = dict.fromkeys(entry for held in self.policies.values() for entry in held)
        found = {entry.file: self._wrong(entry) for entry in entries}
        return {file: words for file, words in found.items() if words}

    def verify(self) -> None:
        """Raise EffaceError where a file is missing or another one than when the manifest was written."""
        if wrong := self.wrong():
            said = "; ".join(f"{file} {words}" for file, words in wrong.items())
            raise EffaceError(
                f"{self.path} does not hold: {said}; bring the files back, or write and sign a new manifest."
            )

    def load(self) -> dict[str, list[Erasure]]:
        """Name -> erasures, each file read once, after all were compared; raises EffaceError as `verify`."""
        from efface.erasures.erasure import Erasure

        self.verify()
        files = dict.fromkeys(entry.file for held in self.policies.values() for entry in held)
        erasures = {file: Erasure.load(self.path.parent / file) for file in files}
        self.verify()  # what was read is what was compared
        return {name: [erasures[entry.file] for entry in held] for name, held in self.policies.items()}

    def _wrong(self, entry: Entry) -> str:
        path = self.file(entry)
        if not path.is_file():
            return "is missing"
        return "" if _sha256(path) == entry.sha256 else "is another file than the one that was named"


def _entry(path: Path, file: Path) -> Entry:
    summary = summary_in(file)
    relative = Path(os.path.relpath(file.resolve(), path.resolve().parent)).as_posix()
    names = tuple(concept["name"] for concept in summary["concepts"])
    return Entry(file=relative, sha256=_sha256(file), concepts=names, method=summary["method"])


def _entries_of(held: Any) -> tuple[Entry, ...]:
    """The erasures of a policy, from its list."""
    if not isinstance(held, list):
        raise ValueError(f"{str(held)[:60]!r} stands where the list of a policy's erasures is expected")
    return tuple(map(_entry_of, held))


def _entry_of(data: Any) -> Entry:
    """The entry that a manifest holds; raises ValueError where it is none."""
    if not isinstance(data, dict) or set(data) != set(Entry._fields) or not isinstance(data["concepts"], list):
        raise ValueError(f"an erasure is {str(data)[:60]}")
    texts = [data["file"], data["sha256"], data["method"], *data["concepts"]]
    if not all(isinstance(text, str) for text in texts) or not SHA256.fullmatch(data["sha256"]):
        raise ValueError(f"an erasure is {str(data)[:60]}")
    return Entry(file=data["file"], sha256=data["sha256"], concepts=tuple(data["concepts"]), method=data["method"])


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"a policy is called {name[:40]!r}")
    return name


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys stand there once: of two policies of one name, a reader would see the first and get the second."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _sha256(path: Path) -> str:
    from efface.io.digest import sha256_of_file

    return sha256_of_file(path, expected="an erasure")
