"""Options checked against a Config: the one place that says which are unknown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from efface.errors import UsageError


def configure(config: Any, named: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> Any:
    """A Config of the class `config` with some of its fields given.

    Args:
        config: a dataclass.
        named: fields that the user gave.
        defaults: fields of a budget or a model's profile, under those that the user gave.

    Raises:
        UsageError: there is no such field, or its value is refused.
    """
    options = dict(defaults or {}) | dict(named)
    known = [field.name for field in dataclasses.fields(config)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(f"the option {unknown[0]!r} is unknown; expected one of: {', '.join(known)}.")
    return config(**options)
