"""Judges by a short name, as the command line gives them: those of this package and of plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from efface.errors import EffaceError, UsageError
from efface.io import embedded
from efface.registry import Opener, Registry, misspelt, opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from efface.judges.base import Judge
    from efface.judges.smoothed import Denoiser


def open_judge(spec: str, *, denoiser: Callable[[float], Denoiser] | None = None) -> Judge:
    """The judge of a short name such as "nudenet:0.3" or "clip:models/clip-vit-large-patch14:cat,dog" (see `JUDGES`).

    Args:
        spec: the name and its arguments.
        denoiser: makes what takes noise of a standard deviation off pictures, for `smooth:SIGMA:JUDGE`.

    Raises:
        UsageError: the name is unknown, or what follows it is missing, too much or no number.
        EffaceError: an extra or a file is missing or damaged, or a plugin cannot be loaded.
    """
    if spec.partition(":")[0] == SMOOTH:
        return _smoothed(spec, denoiser)
    judge = opened(JUDGES, spec)
    from efface.judges.base import Judge  # torch: slow to import

    if not isinstance(judge, Judge):
        raise EffaceError(
            f"what {spec!r} opens is no judge: expected name, classes, detects and a call, as docs/plugins.md says."
        )
    return judge


def _smoothed(spec: str, denoiser: Callable[[float], Denoiser] | None) -> Judge:
    """The judge of `smooth:SIGMA:JUDGE`."""
    sigma, inner = opened(JUDGES, spec)
    if denoiser is None:
        raise UsageError(
            f"the judge {spec!r} denoises pictures by a model in hand, and here is none: give {inner!r} itself, or use it with "
            "efface attack, audit or harden."
        )
    from efface.judges.smoothed import SmoothedJudge

    judge = open_judge(inner)
    return SmoothedJudge(judge, denoiser(sigma), sigma)


def _smooth(kind: str, rest: str) -> tuple[float, str]:
    """Noise and name of the judge that is smoothed."""
    sigma, _, inner = rest.partition(":")
    try:
        noise = float(sigma)
    except ValueError as error:
        raise misspelt(JUDGES, kind, f"{kind}:{rest}") from error
    if not inner or inner.partition(":")[0] == SMOOTH:
        raise misspelt(JUDGES, kind, f"{kind}:{rest}")
    if not 0 < noise < float("inf"):
        raise UsageError(f"the noise of the judge {kind}:{rest} is {noise:g}: expected a positive number such as 0.12.")
    return noise, inner


def _embedded(kind: str, rest: str) -> Judge:
    from efface.judges.shipped import embedded_judge

    return embedded_judge(*embedded.judges()[kind])


def _nudenet(kind: str, rest: str) -> Judge:
    from efface.judges.labels import EXPOSED, FACES
    from efface.judges.nudenet import NudeNetJudge

    classes = FACES if kind == "nudenet-faces" else EXPOSED
    return NudeNetJudge(_number(rest, 0.6), classes=classes, as_published=kind == "nudenet-as-published")


def _nsfw(kind: str, rest: str) -> Judge:
    from efface.judges.nsfw import NsfwJudge

    return NsfwJudge(_number(rest, 0.5))


def _clip(kind: str, rest: str) -> Judge:
    from efface.judges.clip import ClipJudge

    path, _, classes = rest.rpartition(":")
    if not path:
        raise misspelt(JUDGES, kind, f"{kind}:{rest}")
    return ClipJudge(path, [name.strip() for name in classes.split(",")])


def _classifier(kind: str, rest: str) -> Judge:
    from efface.judges.imagenet import ClassifierJudge, imagenet_judge

    return imagenet_judge(rest) if kind == "imagenet" else ClassifierJudge(rest)


def _unlearncanvas(kind: str, rest: str) -> Judge:
    from efface.judges.unlearncanvas import UnlearnCanvasJudge

    return UnlearnCanvasJudge("style" if kind == "unlearncanvas-style" else "object", rest)


def _named(kind: str, rest: str) -> Judge:
    from efface.judges.named import NamedJudge

    return NamedJudge.open(rest, open_judge)


def _number(text: str, default: float) -> float:
    """The threshold after a judge's name."""
    try:
        return float(text) if text else default
    except ValueError as error:
        raise UsageError(f"the judge's threshold is {text!r}: expected a number such as {default}.") from error


SMOOTH = "smooth"
SMOOTHED = Opener(":SIGMA:JUDGE", _smooth)
EMBEDDED = Opener("", _embedded)
NUDENET = Opener("[:THRESHOLD]", _nudenet)
NSFW = Opener("[:THRESHOLD]", _nsfw)
CLIP = Opener(":FOLDER:CLASS,CLASS...", _clip)
CLASSIFIER = Opener(":FOLDER", _classifier)
UNLEARNCANVAS = Opener(":FILE", _unlearncanvas)
NAMED = Opener(":FILE", _named)

JUDGES: Registry[Opener] = Registry(
    "judge",
    "efface.judges",
    dict.fromkeys(embedded.judges(), f"{__name__}:EMBEDDED")
    | {
        "nudenet": f"{__name__}:NUDENET",
        "nudenet-as-published": f"{__name__}:NUDENET",
        "nudenet-faces": f"{__name__}:NUDENET",
        "nsfw": f"{__name__}:NSFW",
        "clip": f"{__name__}:CLIP",
        "classifier": f"{__name__}:CLASSIFIER",
        "imagenet": f"{__name__}:CLASSIFIER",
        "unlearncanvas-style": f"{__name__}:UNLEARNCANVAS",
        "unlearncanvas-object": f"{__name__}:UNLEARNCANVAS",
        "named": f"{__name__}:NAMED",
        SMOOTH: f"{__name__}:SMOOTHED",
    },
    contract=Opener,
)
"""Every judge by its short name; a path may contain colons, the classes of `clip` may not."""
