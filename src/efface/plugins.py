"""Entry points of installed plugins, found once and read from files: none of their code is imported here."""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from importlib.machinery import PathFinder
from typing import Any, NamedTuple

from efface.errors import EffaceError

PREFIX = "efface."
"""With which the names of all groups of entry points begin."""


class Origin(NamedTuple):
    """The installed distribution that brings a component."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Component(NamedTuple):
    """Something with a name in a registry."""

    name: str
    value: str
    """`module` or `module:attribute`."""
    origin: Origin | None
    """None for what is built in."""


def components() -> dict[str, tuple[Component, ...]]:
    """Group -> components of all installed plugins."""
    return _scan(tuple(sys.path))


@functools.cache
def _scan(path: tuple[str, ...]) -> dict[str, tuple[Component, ...]]:
    from importlib import metadata  # slow to import

    groups: dict[str, list[Component]] = {}
    seen: set[str] = set()
    for distribution in metadata.distributions(path=list(path)):
        name = "an installed distribution"
        try:
            if f"[{PREFIX}" not in (distribution.read_text("entry_points.txt") or ""):
                continue
            name = distribution.name
            first = next(iter(metadata.distributions(name=name, path=list(path))))
            if name in seen or first.version != distribution.version:  # an older one, behind it on the path
                continue
            seen.add(name)
            origin = Origin(name, distribution.version)
            for point in distribution.entry_points:
                if point.group.startswith(PREFIX):
                    value = point.value.partition("[")[0].strip()
                    groups.setdefault(point.group, []).append(Component(point.name, value, origin))
        except Exception as error:  # whatever a stranger's files make importlib.metadata raise
            complain(f"the entry points of {name} cannot be read ({reason(error)}): update or uninstall it.")
    return {group: tuple(found) for group, found in groups.items()}


def summary_of(component: Component) -> str:
    """First line of the docstring of a component's module; raises EffaceError where there is no such module."""
    module = component.value.partition(":")[0]
    try:
        source = _source(module)
    except Exception as error:  # a stranger's import hooks may raise anything
        raise EffaceError(
            f"{component.name!r} of the plugin {component.origin} is left out ({reason(error)}): update or uninstall it."
        ) from error
    quoted = re.match(r"""(?:\#[^\n]*\n|\s)*[rR]?(\"{3}|'{3}|"|')(.*?)\1""", source, re.DOTALL)
    return "" if quoted is None else next(iter(quoted[2].strip().splitlines()), "")


def _source(module: str) -> str:
    """Source of a module; neither it nor the packages that it stands in are imported."""
    name, *parts = module.split(".")
    spec = importlib.util.find_spec(name)
    for part in parts:
        places = None if spec is None else spec.submodule_search_locations
        name = f"{name}.{part}"
        spec = None if places is None else PathFinder.find_spec(name, list(places))
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"there is no module {module}")
    loader: Any = spec.loader
    return loader.get_source(name) or ""


def reason(error: BaseException) -> str:
    """What went wrong, in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@functools.cache
def complain(sentence: str) -> None:
    """A line on standard error, once a process."""
    sys.stderr.write(f"efface: {sentence}\n")
