"""COCO (ESD, UCE, RECE): CLIP score and FID of pictures of MS-COCO's captions, 30,000 of them or the 3,000 of RECE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from efface.bench.measures import Features, PromptAgreement
from efface.bench.observer import Observer
from efface.bench.prompt_files import PromptFile
from efface.bench.protocols.base import Benchmark, Drawing, Observations, distance_of_sets, malformed, samples_of
from efface.bench.table import Cell, mean
from efface.concepts.sample import evenly_spaced
from efface.errors import EffaceError, UsageError
from efface.metrics.base import Agreement
from efface.metrics.features import Extractor

ENDINGS = (".jpg", ".jpeg", ".png")


class Coco(Benchmark):
    """What an erasure costs elsewhere: agreement with captions, and distance from real pictures and from the unerased.

    Args:
        file: captions; `coco_id`, or a case number of twelve digits, names the picture of each.
        agreement: the CLIP score; None leaves it out.
        extract: features for FID; None leaves it out.
        pictures: folder of MS-COCO's pictures, for FID against them: those of the captions, or all where ids are missing.
        limit: at most so many captions, evenly spaced.

    Raises:
        UsageError: neither a score nor features were given, or pictures without features.
        EffaceError: the picture of a caption is missing.
    """

    name = "coco"
    drawing = Drawing(steps=50, guidance=7.5)

    def __init__(
        self,
        file: PromptFile,
        agreement: Agreement | None = None,
        extract: Extractor | None = None,
        *,
        pictures: Path | None = None,
        limit: int | None = None,
    ):
        if agreement is None and extract is None:
            raise UsageError("neither a CLIP nor features were given: name at least one (--clip, --features).")
        if pictures is not None and extract is None:
            raise UsageError("real pictures were given without features: name what FID is taken over (--features).")
        self.file = file
        self.agreement = agreement
        self.extract = extract
        self.samples = tuple(evenly_spaced(samples_of(file), limit))
        ids = coco_ids(file)
        chosen = evenly_spaced(tuple(zip(file.rows, ids, strict=True)), limit)
        self.real = () if pictures is None else _pictures(pictures, [number for _, number in chosen])

    def observers(self, folder: Path) -> dict[str, Observer]:
        """The CLIP score and the features."""
        observers: dict[str, Observer] = {} if self.agreement is None else {"clip": PromptAgreement(self.agreement)}
        return observers | self.real_observers()

    def real_observers(self) -> dict[str, Observer]:
        """The features."""
        return {} if self.extract is None else {"features": Features(self.extract)}

    def cells(self, observed: Observations) -> dict[str, Cell]:
        """CLIP score and its paired change, FID against the real pictures and against the unerased model's."""
        cells: dict[str, Cell] = {}
        if self.agreement is not None:
            now, before = (
                [entry["clip"]["score"] for entry in entries] for entries in (observed.after, observed.before)
            )
            cells["CLIP score"] = mean(now)
            if observed.erasure is not None:
                cells["CLIP change"] = mean([a - b for a, b in zip(now, before, strict=True)])
        if observed.real:
            cells["FID"] = distance_of_sets(observed.after, observed.real, "features")
        if self.extract is not None and observed.erasure is not None:
            cells["FID to unerased"] = distance_of_sets(observed.after, observed.before, "features")
        return cells

    def notes(self) -> list[str]:
        """How many pictures FID is taken over, which moves it, and malformed rows."""
        count = f"FID over {len(self.samples)} pictures" + (f" against {len(self.real)} real ones" if self.real else "")
        return ([count] if self.extract else []) + malformed(self.file)


def coco_ids(file: PromptFile) -> list[int | None]:
    """MS-COCO's number of each caption's picture; None where the file does not say it."""
    return [
        int(row.columns["coco_id"])
        if row.columns.get("coco_id", "").isdigit()
        else int(row.name)
        if len(row.name) == 12 and row.name.isdigit()
        else None
        for row in file.rows
    ]


def _pictures(folder: Path, ids: Sequence[int | None]) -> tuple[Path, ...]:
    """The pictures of the captions, or all of a folder."""
    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in ENDINGS)
    if not files:
        raise EffaceError(f"{folder} holds no .jpg or .png pictures: give the folder of MS-COCO's pictures.")
    if None in ids:
        return tuple(files)
    known = {path.stem[-12:]: path for path in files}  # COCO_val2014_000000078748.jpg, or the twelve digits alone
    wanted = [f"{number:012}" for number in ids]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise EffaceError(
            f"{folder} lacks the pictures of {len(missing)} of {len(ids)} captions, {missing[0]}.jpg for one: give the "
            "folder that holds MS-COCO's pictures of these captions."
        )
    return tuple(known[name] for name in dict.fromkeys(wanted))
