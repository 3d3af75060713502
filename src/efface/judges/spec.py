"""Judges by a short name, as the command line gives them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from efface.errors import UsageError
from efface.io import embedded

if TYPE_CHECKING:
    from efface.judges.base import Judge


def open_judge(spec: str) -> Judge:
    """The judge of a short name such as "nudenet:0.3" or "clip:models/clip-vit-large-patch14:cat,dog" (see `SPECS`).

    Raises:
        UsageError: the name is unknown, or what follows it is missing, too much or no number.
        EffaceError: an extra or a file is missing or damaged.
    """
    kind, colon, rest = spec.partition(":")
    if kind not in SPECS:
        known = ", ".join(name + entry.arguments for name, entry in SPECS.items())
        raise UsageError(f"the judge {spec!r} is unknown: expected one of {known}.")
    arguments, opener = SPECS[kind]
    if (bool(colon) and not (arguments and rest)) or (arguments.startswith(":") and not rest):
        raise _misspelt(kind, spec)
    return opener(kind, rest)


def _embedded(kind: str, rest: str) -> Judge:
    from efface.judges.embedded import embedded_judge

    return embedded_judge(*embedded.judges()[kind])


def _nudenet(kind: str, rest: str) -> Judge:
    from efface.judges.nudenet import NudeNetJudge

    return NudeNetJudge(_number(rest, 0.6), as_published=kind == "nudenet-as-published")


def _nsfw(kind: str, rest: str) -> Judge:
    from efface.judges.nsfw import NsfwJudge

    return NsfwJudge(_number(rest, 0.5))


def _clip(kind: str, rest: str) -> Judge:
    from efface.judges.clip import ClipJudge

    path, _, classes = rest.rpartition(":")
    if not path:
        raise _misspelt(kind, f"{kind}:{rest}")
    return ClipJudge(path, [name.strip() for name in classes.split(",")])


def _classifier(kind: str, rest: str) -> Judge:
    from efface.judges.imagenet import ClassifierJudge, imagenet_judge

    return imagenet_judge(rest) if kind == "imagenet" else ClassifierJudge(rest)


def _unlearncanvas(kind: str, rest: str) -> Judge:
    from efface.judges.unlearncanvas import UnlearnCanvasJudge

    return UnlearnCanvasJudge("style" if kind == "unlearncanvas-style" else "object", rest)


def _number(text: str, default: float) -> float:
    """The threshold after a judge's name."""
    try:
        return float(text) if text else default
    except ValueError as error:
        raise UsageError(f"the judge's threshold is {text!r}: expected a number such as {default}.") from error


def _misspelt(kind: str, spec: str) -> UsageError:
    return UsageError(f"the judge {spec!r} is not of the form {kind}{SPECS[kind].arguments}: write it so.")


class Spec(NamedTuple):
    """A judge's entry in the list of short names."""

    arguments: str
    """What follows the name; in brackets where it may be left out."""
    open: Callable[[str, str], Judge]
    """Loads the judge of a name and the text after its first colon."""


SPECS = {
    **{name: Spec("", _embedded) for name in embedded.judges()},
    "nudenet": Spec("[:THRESHOLD]", _nudenet),
    "nudenet-as-published": Spec("[:THRESHOLD]", _nudenet),
    "nsfw": Spec("[:THRESHOLD]", _nsfw),
    "clip": Spec(":FOLDER:CLASS,CLASS...", _clip),
    "classifier": Spec(":FOLDER", _classifier),
    "imagenet": Spec(":FOLDER", _classifier),
    "unlearncanvas-style": Spec(":FILE", _unlearncanvas),
    "unlearncanvas-object": Spec(":FILE", _unlearncanvas),
}
"""Every judge by its short name; a path may contain colons, the classes of `clip` may not."""
