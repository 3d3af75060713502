"""Published rows of UnlearnCanvas, and whether a run is the protocol that they were measured by.

Source: UnlearnCanvas (arXiv 2402.11846, table 2); the row of SAeUron is of its own paper (arXiv 2501.18052, version 3).
All are of Stable Diffusion 1.5 fine-tuned on UnlearnCanvas, judged by UnlearnCanvas's two classifiers. SAeUron drew its own
prompts, and its CRA of styles is of 100 unstyled pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from efface.bench.protocols.unlearncanvas import Plan
from efface.bench.table import Cell, Row
from efface.bench.unit import Unit
from efface.metrics.rates import Rate


class Published(NamedTuple):
    """A method's row."""

    method: str
    style: tuple[float, float, float]
    """UA, IRA and CRA of 50 erased styles, in percent."""
    thing: tuple[float, float, float]
    """UA, IRA and CRA of 20 erased objects, in percent."""
    fid: float
    seconds: float | None
    """Seconds that one erasure takes."""
    memory: float
    """Peak of the GPU, in GB."""
    disk: float
    """GB stored."""
    wording: str = "official"
    """Wording of the prompts."""


ROWS = (
    Published("ESD", (98.58, 80.97, 93.96), (92.15, 55.78, 44.23), 65.55, 6163, 17.8, 4.3),
    Published("FMN", (88.48, 56.77, 46.60), (45.64, 90.63, 73.46), 131.37, 350, 17.9, 4.2),
    Published("UCE", (98.40, 60.22, 47.71), (94.31, 39.35, 34.67), 182.01, 434, 5.1, 1.7),
    Published("CA", (60.82, 96.01, 92.70), (46.67, 90.11, 81.97), 54.21, 734, 10.1, 4.2),
    Published("SalUn", (86.26, 90.39, 95.08), (86.91, 96.35, 99.59), 61.05, 667, 30.8, 4.0),
    Published("SEOT", (56.90, 94.68, 84.31), (23.25, 95.57, 82.71), 62.38, 95, 7.34, 0),
    Published("SPM", (60.94, 92.39, 84.33), (71.25, 90.79, 81.65), 59.79, 29700, 6.9, 0),
    Published("EDiff", (92.42, 73.91, 98.93), (86.67, 94.03, 48.48), 81.42, 1567, 27.8, 4.0),
    Published("SHS", (95.84, 80.42, 43.27), (80.73, 81.15, 67.99), 119.34, 1223, 31.2, 4.0),
    Published("SAeUron (v3)", (95.80, 99.10, 99.40), (78.82, 95.47, 95.58), 62.15, None, 2.8, 0.2, "saeuron"),
)
SAEURON_OBJECTS_MEASURED_AGAIN = (87.2, 85.6, 74.1)
"""UA, IRA and CRA of SAeUron's 20 objects by an independent run of its public code, known second-hand. Its paper's own row was
probably counted with unstyled pictures once per style (`repeat_unstyled`), as its code did until October 2025."""


def rows_for(protocol: str, units: Sequence[Unit]) -> list[Row]:
    """The published rows that a run may be compared with; none where `difference` says why.

    Args:
        protocol: its name.
        units: what it drew with the unerased model.
    """
    if difference(protocol, units):
        return []
    return [line for row in ROWS if row.wording == _wording(units) for line in _rows(row)]


def remark(rows: Iterable[Published | Row]) -> str:
    """What must be said of published rows, as a sentence; empty where nothing must."""
    if not any(row.method.startswith("SAeUron") for row in rows):
        return ""
    again = ", ".join(f"{n} {v:g}" for n, v in zip(("UA", "IRA", "CRA"), SAEURON_OBJECTS_MEASURED_AGAIN, strict=True))
    return (
        "SAeUron's row of objects is its paper's (version 3), probably counted with every unstyled picture once per style "
        f"(--repeat-unstyled); measured again by others, known second-hand: {again}."
    )


def difference(protocol: str, units: Sequence[Unit]) -> str:
    """Why no published row compares with a run, as a sentence; empty where they do."""
    if protocol == "canvas":
        return (
            "UnlearnCanvas's published rows are not beside these: the protocol is its, but the embedded canvas is another "
            "model with 9 styles and 20 objects at 96 px and judges of its own."
        )
    if protocol != "unlearncanvas":
        return f"No published rows are known for the protocol {protocol}."
    other = [] if _wording(units) else ["other prompts or seeds"]
    for setting in {unit.setting for unit in units}:
        drawn = {"steps": (setting.steps, 100), "guidance": (setting.guidance, 9), "pixels": (setting.side or 512, 512)}
        other += [
            f"{name} {' x '.join(map(str, value)) if isinstance(value, tuple) else f'{value:g}'} instead of {usual:g}"
            for name, (value, usual) in drawn.items()
            if value != usual
        ]
        other += ["other judges"] if not all("unlearncanvas" in judge for judge in setting.judges[:2]) else []
    return f"UnlearnCanvas's published rows are not beside these: this run has {', '.join(other)}." if other else ""


def _wording(units: Sequence[Unit]) -> str | None:
    """Whose prompts were drawn with UnlearnCanvas's seeds, all of them; None for any others."""
    drawn = {(prompt, seed) for unit in units for prompt, seed in zip(unit.prompts, unit.seeds, strict=True)}
    for wording in ("official", "saeuron"):
        if drawn == {(sample.prompt, sample.seed) for sample in Plan(wording).samples}:
            return wording
    return None


def _rows(row: Published) -> list[Row]:
    spent: dict[str, Cell] = {"FID": row.fid}
    if row.seconds is not None:
        spent["seconds"] = row.seconds
    spent |= {"peak MB": 1000 * row.memory, "bytes": round(1e9 * row.disk)}
    return [
        Row("published", row.method, concepts, _rates(values) | spent)
        for concepts, values in (("50 styles", row.style), ("20 objects", row.thing))
    ]


def _rates(values: tuple[float, float, float]) -> dict[str, Cell]:
    return {n: Rate(v / 100, math.nan, math.nan, 0) for n, v in zip(("UA", "IRA", "CRA"), values, strict=True)}
