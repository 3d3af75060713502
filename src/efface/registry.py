"""Names of components -> where they are: built in, or of a plugin through an entry point; described without being imported.

A component is named as `package.module` or `package.module:attribute`. A plugin is any installed distribution with entry
points in the groups `efface.erasers`, `efface.attacks` and so on; its code is imported when it is asked for by name, and a
plugin that is broken is one line on standard error to whoever does not need it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from efface.errors import EffaceError, UsageError
from efface.plugins import Component, Origin, complain, components, reason, summary_of

T_co = TypeVar("T_co", covariant=True)
C = TypeVar("C")


class Registry(Generic[T_co]):
    """Components of one kind by their names.

    Args:
        kind: in a word, for sentences: "method", "attack".
        group: of entry points; None where there are no plugins of this kind.
        builtin: name -> `module` or `module:attribute`, in the order in which they are listed.
        contract: a class or runtime-checkable Protocol that a plugin's component must fit.
    """

    def __init__(self, kind: str, group: str | None, builtin: Mapping[str, str], *, contract: Any = None):
        self.kind = kind
        self.group = group
        self.builtin = dict(builtin)
        self.contract = contract

    def names(self) -> tuple[str, ...]:
        """Every name: built-in ones first, then those of plugins."""
        return tuple(dict.fromkeys((*self.builtin, *(component.name for component in self._plugins()))))

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def load(self, name: str) -> T_co:
        """The component called `name`; only its own module is imported.

        Raises:
            UsageError: nothing is called so, or two things are.
            EffaceError: it is a plugin's and cannot be loaded.
        """
        component = self._component(name)
        if component.origin is None:
            return _resolved(component.value)
        whose = f"the {self.kind} {name!r} of the plugin {component.origin}"
        try:
            value = _resolved(component.value)
        except (Exception, SystemExit) as error:  # a stranger's code may raise anything
            raise EffaceError(f"{whose} cannot be loaded ({reason(error)}): update or uninstall the plugin.") from error
        if not self._fits(value):
            expected = self.contract.__name__
            raise EffaceError(f"{whose} is not what it should be: expected {expected}, as docs/plugins.md says.")
        return value

    def load_builtin(self, name: str) -> T_co:
        """The built-in component called `name`, whatever plugins bring."""
        return _resolved(self.builtin[name])

    def summary(self, name: str) -> str:
        """First line of the docstring of the component's module, read from its file.

        Raises:
            UsageError: nothing is called so, or two things are.
            EffaceError: it is a plugin's and there is no such file.
        """
        component = self._component(name)
        text = summary_of(component)
        return text if component.origin is None else f"{text} (plugin: {component.origin})"

    def described(self) -> dict[str, str]:
        """Name -> summary of everything that works; what does not is a line on standard error."""
        lines = {}
        for name in self.names():
            try:
                lines[name] = self.summary(name)
            except EffaceError as error:
                complain(str(error))
                if name in self.builtin:
                    lines[name] = summary_of(Component(name, self.builtin[name], None))
        return lines

    def origin(self, name: str) -> Origin | None:
        """The plugin that brings a component; None for a built-in one; UsageError as `load`."""
        return self._component(name).origin

    def _plugins(self) -> tuple[Component, ...]:
        """Components of plugins."""
        return () if self.group is None else components().get(self.group, ())

    def _component(self, name: str) -> Component:
        """The one component of a name."""
        owners = [Component(name, self.builtin[name], None)] if name in self.builtin else []
        owners += [component for component in self._plugins() if component.name == name]
        if not owners:
            raise UsageError(f"the {self.kind} {name!r} is unknown; expected one of: {', '.join(self.names())}.")
        if len(owners) > 1:
            brought = " and ".join(f"the plugin {c.origin}" if c.origin else "efface itself" for c in owners)
            raise UsageError(
                f"the {self.kind} {name!r} is brought by {brought}: uninstall the plugin, or rename it there."
            )
        return owners[0]

    def _fits(self, value: Any) -> bool:
        """Whether a component is an instance of the contract, or a class derived from it."""
        if self.contract is None or isinstance(value, self.contract):
            return True
        return isinstance(value, type) and self.contract in value.__mro__


class Opener(NamedTuple):
    """What opens a component that is named with arguments, such as `nudenet:0.3`."""

    arguments: str
    """What follows the name; in brackets where it may be left out."""
    open: Callable[[str, str], Any]
    """Takes the name and the text after its first colon."""


def opened(registry: Registry[Opener], spec: str) -> Any:
    """What a short name with its arguments stands for.

    Raises:
        UsageError: the name is unknown, or what follows it is missing or too much.
        EffaceError: as the opener, or a plugin cannot be loaded.
    """
    name, colon, rest = spec.partition(":")
    if name not in registry:
        known = (n + (registry.load(n).arguments if n in registry.builtin else "") for n in registry)
        raise UsageError(f"the {registry.kind} {spec!r} is unknown: expected one of {', '.join(known)}.")
    arguments, opener = registry.load(name)
    if (bool(colon) and not (arguments and rest)) or (arguments.startswith(":") and not rest):
        raise misspelt(registry, name, spec)
    return opener(name, rest)


def misspelt(registry: Registry[Opener], name: str, spec: str) -> UsageError:
    """What to raise where the arguments of a name are not of its form."""
    form = f"{name}{registry.load(name).arguments}"
    return UsageError(f"the {registry.kind} {spec!r} is not of the form {form}: write it so.")


def configure(config: type[C], named: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> C:
    """A Config of the class `config` with some of its fields given.

    Args:
        config: a dataclass.
        named: fields that the user gave.
        defaults: fields of a budget or a model's profile, under those that the user gave.

    Raises:
        UsageError: there is no such field, or its value is refused.
    """
    import dataclasses  # slow to import, and help needs none

    options = dict(defaults or {}) | dict(named)
    known = [field.name for field in dataclasses.fields(config)]  # type: ignore[arg-type]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(f"the option {unknown[0]!r} is unknown; expected one of: {', '.join(known)}.")
    return config(**options)


def lazily(package: str, homes: Mapping[str, str], namespace: dict[str, Any]) -> Callable[[str], Any]:
    """A package's `__getattr__` that imports each of its public names from its home when it is first used."""

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        namespace[name] = getattr(importlib.import_module(homes[name]), name)
        return namespace[name]

    return get


def _resolved(value: str) -> Any:
    """The object that `module` or `module:attribute` names."""
    module, _, attributes = value.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in filter(None, attributes.split(".")):
        found = getattr(found, attribute)
    return found
