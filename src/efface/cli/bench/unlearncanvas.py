"""UnlearnCanvas on a user's model, data set and judges: 51 styles x 20 objects x 5 seeds, UA / IRA / CRA and FID."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from efface.cli.bench import common, options
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.bench.protocols.unlearncanvas import UnlearnCanvas


@dataclass(frozen=True)
class Request(options.OnModel):
    """Draw every style, object and seed, and name the style and the object of each picture."""

    style_judge: str | None = None
    """unlearncanvas-style:style50.pth, or another judge that knows the styles."""
    object_judge: str | None = None
    """unlearncanvas-object:style50_cls.pth, or another judge that knows the objects."""
    wording: Literal["official", "saeuron"] = "official"
    """Prompts of the benchmark, or of SAeUron, which draws objects without a style instead of photographs."""
    features: str | None = None
    """What FID is taken over: inception (extra `fid`), or torchscript:FILE."""
    data: Path | None = None
    """Folder of the data set, <style>/<object>/<index>.jpg, for FID."""
    as_published: bool = False
    """Count as the public code of the wording does: photographs in FID (official), CRA of styles on unstyled pictures."""
    repeat_unstyled: bool = False
    """Count an unstyled picture once per style in UA and IRA of an erased object, as SAeUron's code did before October 2025."""
    jpeg: Annotated[int | None, tyro.conf.arg(metavar="QUALITY")] = None
    """Judge pictures through JPEG files of this quality (the public codes: 75); as they are drawn by default."""
    styles: tuple[str, ...] = ()
    """A part of the styles; all of them by default."""
    objects: tuple[str, ...] = ()
    """A part of the objects; all of them by default."""
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="SEED [SEED ...]")] = ()
    """Other seeds than 188, 288, 588, 688 and 888; --seed names one."""


def build(request: Request, shared: options.Shared) -> UnlearnCanvas:
    """The protocol of a request; a plan needs no judges."""
    if not shared.plan and (request.style_judge is None or request.object_judge is None):
        raise UsageError("a judge is missing: name both, --style-judge and --object-judge (a plan needs none).")
    if (request.data is None) != (request.features is None):
        raise UsageError("FID needs both: name the data set's folder (--data) and what it is taken over (--features).")
    from efface.bench.protocols.unlearncanvas import Plan, UnlearnCanvas
    from efface.judges import open_judge
    from efface.metrics.features import open_features

    if request.seeds and shared.seed is not None:
        raise UsageError("--seed was given beside --seeds: name the seeds once.")
    chosen = {name: getattr(request, name) for name in ("styles", "objects", "seeds") if getattr(request, name)}
    if shared.seed is not None:
        chosen["seeds"] = (shared.seed,)
    style_judge = open_judge(request.style_judge) if request.style_judge else None
    object_judge = open_judge(request.object_judge) if request.object_judge else None
    return UnlearnCanvas(
        style_judge,
        object_judge,
        Plan(request.wording, **chosen),
        extract=open_features(request.features) if request.features else None,
        data=request.data,
        as_published=request.as_published,
        repeat_unstyled=request.repeat_unstyled,
        jpeg=request.jpeg,
    )


def main(args: list[str]) -> None:
    """Run the command."""
    common.main(Request, build, args, name="unlearncanvas", summary=__doc__)
