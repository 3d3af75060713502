"""What a file needs that is not efface: distributions with their versions, which a reader has or says that it has not."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from efface.errors import EffaceError

LONGEST = 100
"""Characters of one requirement."""


def require_installed(who: str, requirements: Any) -> None:
    """Raise EffaceError where something is not a list of requirements such as `my-plugin>=1.2`, or one is not met.

    Args:
        who: begins the sentence.
        requirements: from a file, which may hold anything; nothing of it is imported.
    """
    if not isinstance(requirements, list):
        raise EffaceError(f"{who} requires {str(requirements)[:40]!r}, which is no list of names: make it again.")
    for text in requirements:
        if problem := _problem(text):
            raise EffaceError(f"{who} requires {str(text)[:LONGEST]!r}, {problem}.")


def _problem(text: Any) -> str:
    """Why a requirement is not met, and what to do; empty where it is."""
    from packaging.requirements import InvalidRequirement, Requirement  # takes a moment, and most files require nothing

    try:
        if not isinstance(text, str) or len(text) > LONGEST:
            raise InvalidRequirement("no name")
        wanted = Requirement(text)
    except InvalidRequirement:
        return "which is no name with a version: make it again"
    if wanted.url or wanted.extras or wanted.marker:
        return "which is more than a name with a version: make it again"
    try:
        found = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return "which is not installed: install it if you trust it"
    return "" if wanted.specifier.contains(found, prereleases=True) else f"and {found} is installed: update it"
