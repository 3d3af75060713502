"""Say what pictures show by any judge, and why, where the judge can tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from efface.cli.arguments import parse
from efface.cli.output import result
from efface.errors import EffaceError, UsageError, system_reason

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Request:
    """Judge picture files."""

    judge: tyro.conf.Positional[str]
    """For example canvas-object, or named:FILE (`efface judge make`), which says why."""
    pictures: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="PICTURE [PICTURE ...]")]
    """Files of pictures."""
    concept: str | None = None
    """Of a judge that says why: explain the logit of this class instead of the most likely one's."""
    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = parse(Request, args, prog="efface judge look", description=__doc__)
    if not request.pictures:
        raise UsageError("no picture was given: name one or more files.")
    from efface.judges import open_judge
    from efface.judges.named import NamedJudge

    judge = open_judge(request.judge)
    reasons = isinstance(judge, NamedJudge)
    if request.concept is not None and not reasons:
        raise UsageError(
            f"the judge {judge.name} does not say why: give named:FILE (`efface judge make`), or no concept."
        )
    images = [_opened(path) for path in request.pictures]
    verdicts = judge(images)
    data: list[dict[str, Any]] = []
    rows = []
    for i, path in enumerate(request.pictures):
        label, intact = verdicts.labels[i], bool(verdicts.intact[i])
        score = float(verdicts.scores[i, judge.classes.index(label)]) if label in judge.classes else None
        data.append({"picture": str(path), "label": label, "score": score, "intact": intact})
        rows.append((str(path), f"{label}{'' if score is None else f' {score:.3f}'}{'' if intact else ', not intact'}"))
        if reasons:
            why = judge.explain(images[i : i + 1], request.concept)[0]
            contributions = [c.name.to_json() | {"part": c.part, "value": c.value} for c in why.contributions]
            data[-1]["why"] = {"label": why.label, "logit": why.logit, "bias": why.bias, "contributions": contributions}
            rows.append(("", str(why)))
    result({"judge": judge.name, "pictures": data}, as_json=request.json, rows=rows)


def _opened(path: Path) -> Image.Image:
    """A picture; raises EffaceError where the file is none."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise EffaceError(f"{path} could not be read ({system_reason(error)}): expected a picture.") from error
