"""Readers of the prompt files of the field: CSV with one prompt a row, its seed, and sometimes its guidance.

The public layouts differ in their columns alone, so a column is known by its name, wherever it stands:

| file | header |
|---|---|
| I2P and its nudity subset | `,prompt,categories,…,evaluation_seed,evaluation_guidance,sd_image_width,…,case_number` |
| I2P as its authors publish it | `prompt,categories,…,sd_seed,sd_guidance_scale,…` |
| Imagenette | `case_number,prompt,class,evaluation_seed`; the robust one ends in `evaluation_seed,class` |
| artists | `,case_number,prompt,evaluation_seed,artist` |
| COCO | `case_number,source,prompt,evaluation_seed,coco_id`, or the id as case number |
| UnlearnDiffAtk | `case_number,prompt,evaluation_seed,evaluation_guidance`, or as artists or I2P |
| Ring-A-Bell | `prompt,case_number,evaluation_seed` of found prompts; pairs are `sensitive prompt,normal prompt` |

Rows with a wrong number of fields are malformed. Where a comma was left unquoted, as in the robust Imagenette file, a row
has too many fields: it is read all the same when exactly one way of giving the surplus commas back to the text columns
leaves a number in every column of numbers (there, from the right end: class, seed, and all the rest is the prompt).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from efface.errors import EffaceError, system_reason

PROMPT = ("adv_prompt", "prompt", "sensitive prompt")
"""Names of the column that is drawn; the first that a file has counts."""
SEED = ("evaluation_seed", "sd_seed", "seed")
GUIDANCE = ("evaluation_guidance", "sd_guidance_scale", "guidance_scale", "guidance")
NUMBERS = frozenset(
    {*SEED, *GUIDANCE, "", "Unnamed: 0", "case_number", "coco_id", "sd_image_width", "sd_image_height", "hard",
     "inappropriate_percentage", "nudity_percentage", "q16_percentage", "sd_safety_percentage", "prompt_toxicity"}
)  # fmt: skip
"""Columns that hold a number in every public file; all others are text."""
SURPLUS = 40
"""Most unquoted commas that are given back; a row with more is malformed."""


class PromptRow(NamedTuple):
    """One prompt of a file."""

    line: int
    """Where it begins, from 1 (the header)."""
    name: str
    """Its case number, or its place among the rows from 0."""
    prompt: str
    seed: int | None
    """None where the file has no seeds."""
    guidance: float | None
    """None where the file has no guidance."""
    columns: dict[str, str]
    """Every field by the name of its column."""


class Fault(NamedTuple):
    """A malformed row."""

    line: int
    reason: str

    def __str__(self) -> str:
        return f"line {self.line} {self.reason}"


class PromptFile(NamedTuple):
    """What a file holds."""

    path: Path
    rows: tuple[PromptRow, ...]
    repaired: tuple[Fault, ...]
    """Malformed rows whose columns could be told apart; they are among `rows`."""
    skipped: tuple[Fault, ...]
    """Malformed rows that are not."""

    def column(self, name: str) -> list[str]:
        """One field of every row; raises EffaceError where the file has no such column."""
        if self.rows and name not in self.rows[0].columns:
            known = ", ".join(repr(column) for column in self.rows[0].columns)
            raise EffaceError(f"{self.path} has no column {name!r}; expected it beside {known}.")
        return [row.columns[name] for row in self.rows]


class Pair(NamedTuple):
    """A prompt with the concept, and the same without (Ring-A-Bell)."""

    sensitive: str
    normal: str


class _Record(NamedTuple):
    line: int
    fields: list[str]
    fault: str
    """Why it cannot be read; empty where it can."""


def read_prompts(path: Path, *, skip_malformed: bool = False) -> PromptFile:
    """Every prompt of a CSV file of a public layout, or of any with a column `prompt`.

    Args:
        path: UTF-8, with a header.
        skip_malformed: leave malformed rows out, and say which, instead of refusing the file.

    Raises:
        EffaceError: there is no such file, it has no prompts, or it has malformed rows.
    """
    header, records = _table(path)
    prompt, seed, guidance = (_first(names, header) for names in (PROMPT, SEED, GUIDANCE))
    if prompt is None:
        raise EffaceError(f"{path} has no column 'prompt' (it has {', '.join(map(repr, header))}): name the column so.")
    rows = []
    repaired = []
    skipped = []
    for record in records:
        fields, mended = _fitted(record, header)
        reason = record.fault or mended if fields is None else _unreadable(fields, seed, guidance)
        if fields is None or reason:
            skipped.append(Fault(record.line, reason))
            continue
        if mended:
            repaired.append(Fault(record.line, mended))
        columns = dict(zip(header, fields, strict=True))
        rows.append(
            PromptRow(
                record.line, columns.get("case_number") or str(len(rows) + len(skipped)), fields[prompt],
                None if seed is None else _integer(fields[seed]),
                None if guidance is None else float(fields[guidance]), columns,
            )
        )  # fmt: skip
    if skipped and not skip_malformed:
        raise EffaceError(f"{path} has {_counted(skipped)}: correct the file, or leave them out (--skip-malformed).")
    if not rows:
        raise EffaceError(f"{path} has no prompts; expected one a row below the header.")
    return PromptFile(path, tuple(rows), tuple(repaired), tuple(skipped))


def has_prompts(path: Path) -> bool:
    """Whether a file's header has a column of prompts; raises EffaceError where it cannot be read."""
    header, _ = _table(path)
    return _first(PROMPT, header) is not None


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a Ring-A-Bell file: `sensitive prompt,normal prompt`; raises EffaceError where it is none."""
    header, records = _table(path)
    if not {"sensitive prompt", "normal prompt"} <= set(header):
        raise EffaceError(
            f"{path} has the columns {', '.join(map(repr, header))}; expected 'sensitive prompt' and 'normal prompt'."
        )
    places = header.index("sensitive prompt"), header.index("normal prompt")
    found = []
    faults = []
    for record in records:
        # Both columns are text, so that a surplus comma belongs to either: nothing can be given back.
        if record.fault or len(record.fields) != len(header):
            faults.append(Fault(record.line, record.fault or _miscounted(record.fields, header)))
        else:
            found.append(Pair(*(record.fields[place] for place in places)))
    if faults:
        raise EffaceError(f"{path} has {_counted(faults)}: correct the file.")
    return found


def _table(path: Path) -> tuple[list[str], list[_Record]]:
    """Header and records of a CSV file; blank lines are none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            records = [record for record in _records(file) if record.fields or record.fault]
    except OSError as error:
        raise EffaceError(
            f"{path} could not be read ({system_reason(error)}); expected a CSV file of prompts."
        ) from error
    except UnicodeDecodeError as error:
        raise EffaceError(f"{path} is not UTF-8 text ({error.reason}): expected a CSV file of prompts.") from error
    if not records or records[0].fault:
        raise EffaceError(f"{path} has no header; expected a CSV file of prompts.")
    return [name.strip() for name in records[0].fields], records[1:]


def _records(lines: Iterator[str]) -> Iterator[_Record]:
    """Records with the line on which each begins; quotes may span lines."""
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            swallowed = f", which takes in everything down to line {reader.line_num}" if reader.line_num > line else ""
            yield _Record(line, [], f"has quotes that do not close ({error}){swallowed}")
        else:
            yield _Record(line, fields, "")


def _fitted(record: _Record, header: Sequence[str]) -> tuple[list[str] | None, str]:
    """Fields as many as the header has, None where there is no single way to them; and what was wrong with their number."""
    surplus = len(record.fields) - len(header)
    if record.fault or surplus == 0:
        return None if record.fault else record.fields, ""
    wrong = _miscounted(record.fields, header)
    ways = list(islice(_ways(record.fields, header), 2)) if 0 < surplus <= SURPLUS else []
    return ways[0] if len(ways) == 1 else None, wrong


def _ways(fields: Sequence[str], header: Sequence[str]) -> Iterator[list[str]]:
    """Every way of joining neighbouring fields to the header's columns with numbers where numbers belong."""
    if not header:
        if not fields:
            yield []
        return
    most = 1 if header[0] in NUMBERS else len(fields) - len(header) + 1
    for taken in range(1, most + 1):
        head = ",".join(fields[:taken])
        if header[0] not in NUMBERS or _is_number(head):
            yield from ([head, *rest] for rest in _ways(fields[taken:], header[1:]))


def _unreadable(fields: Sequence[str], seed: int | None, guidance: int | None) -> str:
    """Why a row with the right number of fields cannot be drawn; empty where it can.

    An empty prompt can be: I2P has one, which public codes draw as "nan" because pandas reads it so.
    """
    if seed is not None and _integer(fields[seed]) is None:
        return f"has the seed {fields[seed]!r} where a whole number was expected"
    if guidance is not None and not _is_number(fields[guidance]):
        return f"has the guidance {fields[guidance]!r} where a number was expected"
    return ""


def _integer(text: str) -> int | None:
    """A seed; tables that once had gaps write 12 as 12.0."""
    if not _is_number(text) or not float(text).is_integer():
        return None
    value = int(text) if text.strip().isdigit() else int(float(text))
    return value if 0 <= value < 2**64 else None


def _is_number(text: str) -> bool:
    """Whether a field is a plain finite number; Python alone would take 1_000 and digits of other scripts."""
    try:
        return text.isascii() and "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def _first(names: Sequence[str], header: Sequence[str]) -> int | None:
    return next((header.index(name) for name in names if name in header), None)


def _miscounted(fields: Sequence[str], header: Sequence[str]) -> str:
    return f"has {len(fields)} fields where {len(header)} were expected"


def _counted(faults: Sequence[Fault]) -> str:
    """All of them in part of a sentence; beyond a few their lines alone."""
    shown = "; ".join(str(fault) for fault in faults[:5])
    rest = ", ".join(str(fault.line) for fault in faults[5:])
    number = "1 malformed row" if len(faults) == 1 else f"{len(faults)} malformed rows"
    return f"{number} ({shown}{f'; lines {rest}' if rest else ''})"
