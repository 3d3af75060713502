"""Choosing a command by its first word: shared by `efface`, `efface sae` and `efface bench`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

from efface.errors import UsageError


def summaries(folder: Path, names: Sequence[str]) -> list[str]:
    """A line for each command: its name and the first line of its file, which is read, not imported."""
    files = {n: folder / n / "__init__.py" if (folder / n).is_dir() else folder / f"{n}.py" for n in names}
    quotes, width = '"""', max(9, *map(len, names))
    return [f"  {name:{width}} {path.read_text().split(quotes)[1].splitlines()[0]}" for name, path in files.items()]


def dispatch(package: str, names: Sequence[str], args: list[str], *, title: str, usage: str) -> None:
    """Run the subcommand that `args` begin with, a module of `package` (`efface.cli.sae`), or print help.

    Raises:
        UsageError: there is no such subcommand.
        SystemExit: help was printed, because it was asked for (0) or nothing was (2).
    """
    if not args or args[0] in ("-h", "--help"):
        folder = Path(__file__).parent / package.rpartition(".")[2]
        print("\n".join([title, "", f"usage: {usage}", "", *summaries(folder, names)]))
        raise SystemExit(0 if args else 2)
    if args[0] not in names:
        command = " ".join(usage.split()[:2])
        raise UsageError(f"{command} has no command {args[0]!r}; expected one of: {', '.join(names)}.")
    importlib.import_module(f"{package}.{args[0]}").main(args[1:])
