"""A command's arguments: a dataclass is read from words, help names what each value is, and what is wrong is one sentence."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import textwrap
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from efface.errors import UsageError

R = TypeVar("R")
NOTHING: Mapping[str, str] = types.MappingProxyType({})
HIDDEN = ""
"""In place of an option: the field cannot be named on the command line."""

METAVARS = {
    "anchor": "CONCEPT",
    "attacks": "ATTACK [ATTACK ...]",
    "budget": "BUDGET",
    "base": "MODEL",
    "clip": "FOLDER",
    "coder": "FOLDER",
    "concept": "CONCEPT",
    "concepts": "CONCEPT [CONCEPT ...]",
    "data": "FOLDER",
    "erasure": "ERASURE",
    "features": "FEATURES",
    "harmless": "PROMPT [PROMPT ...]",
    "indirect": "PROMPT",
    "judge": "JUDGE",
    "keep": "PROMPT [PROMPT ...]",
    "latent": "LATENT",
    "latents": "N",
    "lpips": "{alex,vgg} FILE FILE",
    "method": "METHOD",
    "model": "MODEL",
    "negative": "PROMPT",
    "object_judge": "JUDGE",
    "objects": "OBJECT [OBJECT ...]",
    "original": "MODEL",
    "pattern": "[PATTERN]",
    "pictures": "FOLDER",
    "prompt": "PROMPT",
    "prompts": "PROMPT [PROMPT ...]",
    "region": "LEFT TOP RIGHT BOTTOM",
    "save_images": "FOLDER",
    "seed": "SEED",
    "second_judge": "JUDGE",
    "shards": "FOLDER",
    "site": "SITE",
    "sites": "SITE [SITE ...]",
    "statistics": "FILE",
    "style_judge": "JUDGE",
    "styles": "STYLE [STYLE ...]",
    "time_limit": "TIME",
    "vector": "FILE",
}
"""What help says for an option's value, where neither its type nor the command itself says so."""


PLAIN: dict[Any, tuple[str, str]] = {
    int: ("N", "a whole number"),
    float: ("X", "a number"),
    str: ("TEXT", "a text"),
    Path: ("FILE", "a path"),
}
"""Type -> what help calls a value of it, and what a wrong value is not."""


def parse(request: type[R], args: Sequence[str], *, prog: str, description: str | None) -> R:
    """Read a dataclass from words.

    Args:
        request: every field is an option, with its docstring as help.
        args: the words.
        prog: what is typed before them, for help.
        description: what help begins with.

    Raises:
        UsageError: an option is unknown, or a value is missing or not understood.
        SystemExit: help was printed.
    """
    return _plain_copy(request, _read(_with_metavars(request), args, prog, description))


def parse_parts(
    parts: Mapping[str, type[Any]],
    args: Sequence[str],
    *,
    prog: str,
    description: str | None,
    renamed: Mapping[str, str] = NOTHING,
) -> tuple[Any, ...]:
    """Read several dataclasses from the same words, as `parse` reads one.

    Args:
        parts: heading in help -> dataclass.
        args: the words.
        prog: what is typed before them, for help.
        description: what help begins with.
        renamed: a field of the last part -> the option that sets it, where they differ; HIDDEN for none.
    """
    headings = [heading.replace("-", "_") for heading in parts]
    kinds = list(parts.values())
    annotated = [*map(_with_metavars, kinds[:-1]), _with_metavars(kinds[-1], renamed)]
    fields = [(heading, tyro.conf.OmitArgPrefixes[kind]) for heading, kind in zip(headings, annotated, strict=True)]
    values = _read(dataclasses.make_dataclass("Parts", fields), args, prog, description)
    return tuple(_plain_copy(kind, getattr(values, heading)) for heading, kind in zip(headings, kinds, strict=True))


def named_options(config: Any, args: Sequence[str], renamed: Mapping[str, str] = NOTHING) -> dict[str, Any]:
    """Those fields of a component's config that the user named.

    The others must not override what is known of a model or a budget, even where they agree with a default.
    """
    words = {
        arg.split("=")[0].lstrip("-").removeprefix("no-").replace("-", "_") for arg in args if arg.startswith("--")
    }
    names = [field.name for field in dataclasses.fields(config)]
    return {name: getattr(config, name) for name in names if renamed.get(name, name) in words}


def _read(request: type[R], args: Sequence[str], prog: str, description: str | None) -> R:
    """What tyro reads; its complaints are a UsageError."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(request, args=args, prog=prog, description=description, registry=_registry())
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_sentence(errors.getvalue(), prog)) from None


def _plain_copy(kind: type[R], value: Any) -> R:
    """The same values in the class itself, which can be sent to other processes."""
    assert dataclasses.is_dataclass(kind)
    return kind(**{field.name: getattr(value, field.name) for field in dataclasses.fields(kind)})  # type: ignore[return-value]


def _with_metavars(request: type[R], renamed: Mapping[str, str] = NOTHING) -> type[R]:
    """The same dataclass, whose fields say what their values are called in help."""
    assert dataclasses.is_dataclass(request)
    hints = get_type_hints(request, include_extras=True)
    changed = []
    for field in dataclasses.fields(request):
        hint = hints[field.name]
        own = any(getattr(extra, "metavar", None) for extra in getattr(hint, "__metadata__", ()))
        metavar = None if own or hint is bool else METAVARS.get(field.name)
        if renamed.get(field.name) == HIDDEN:
            hidden = Annotated[hint, tyro.conf.Suppress, tyro.conf.Fixed, tyro.conf.arg(name=f"hidden_{field.name}")]
            changed.append((field.name, hidden, field))
        elif metavar or field.name in renamed:
            extra = tyro.conf.arg(name=renamed.get(field.name), metavar=metavar)
            changed.append((field.name, Annotated[hint, extra], field))
    return dataclasses.make_dataclass(
        request.__name__, changed, bases=(request,), frozen=vars(request)["__dataclass_params__"].frozen
    )  # type: ignore[return-value]


def _registry() -> ConstructorRegistry:
    """How plain types are read: as tyro does, under names that say what is meant."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        """`X | None` is named as X is; the word None still gives None."""
        kinds = get_args(info.type)
        if info.type_origin not in (Union, types.UnionType) or len(kinds) != 2 or type(None) not in kinds:
            return None
        kind = next(one for one in kinds if one is not type(None))
        spec = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(kind, info.markers))
        if not isinstance(spec, PrimitiveConstructorSpec):
            return None
        return dataclasses.replace(
            spec,
            instance_from_str=lambda words: None if words == ["None"] else spec.instance_from_str(words),
            is_instance=lambda value: value is None or spec.is_instance(value),
            str_from_instance=lambda value: ["None"] if value is None else spec.str_from_instance(value),
            choices=None if spec.choices is None else (*spec.choices, "None"),
        )

    @registry.primitive_rule
    def _plain(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if info.type not in PLAIN:
            return None
        kind: Any = info.type
        metavar, expected = PLAIN[kind]

        def read(words: list[str]) -> Any:
            try:
                return kind(words[0])
            except ValueError as error:
                raise ValueError(f"{words[0]!r} is not {expected}") from error

        return PrimitiveConstructorSpec(
            nargs=1,
            metavar=metavar,
            instance_from_str=read,
            is_instance=lambda value: isinstance(value, (int, float) if kind is float else kind),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _sentence(box: str, prog: str) -> str:
    """What tyro draws as a box, in a frame or between rules of hyphens, as one sentence."""
    rows = [re.sub(r"^│ |│$", "", line).rstrip() for line in box.splitlines()[1:]]  # below the title
    rules = [number for number, row in enumerate(rows) if number and re.fullmatch(r" *[─╰╯-]{3,}", row)]
    first = 1 if rows and re.fullmatch(r" *-{3,}", rows[0]) else 0
    rows = textwrap.dedent("\n".join(rows[first : rules[0] if rules else None])).splitlines()
    if rows and rows[0].startswith("Missing from"):
        missing = [row.strip() for row in rows if re.match(r" {4}\S", row)]
        what = f"{', '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing"
    else:
        what = " ".join(" ".join(rows).split()).rstrip(".") or "the arguments are not understood"
        what = what.removeprefix("Error parsing ").replace(". Expected", "; expected")
        what = what.replace("expected 1 values", "expected one")
        shouted = what.split(":")[0].isupper()  # the name of an argument
        what = what if shouted else what[0].lower() + what[1:]
    return f"{what}; see `{prog} --help`."
