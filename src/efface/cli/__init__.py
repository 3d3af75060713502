"""The command line: one small file a command, named in COMMANDS; nothing heavy is imported before it is needed."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path

from efface.cli.dispatch import summaries
from efface.errors import EffaceError

COMMANDS = ("demo", "erase", "generate", "show", "export", "push", "audit", "attack", "harden", "sae", "bench", "env")
"""In the order in which help lists them."""


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns 0 when done, 1 when it failed, 2 for bad usage."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0 if args else 2
    if args[0] not in COMMANDS:
        return _fail(f"the command {args[0]!r} is unknown; expected one of: {', '.join(COMMANDS)}.", 2, args)
    _quiet()
    try:
        importlib.import_module(f"efface.cli.{args[0]}").main(args[1:])
    except EffaceError as error:
        return _fail(str(error), error.exit_code, args)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing half-written was left behind.", 1, args)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2 if stop.code else 0
    return 0


def _help() -> str:
    """What `efface --help` prints: every command with the first line of its file."""
    lines = summaries(Path(__file__).parent, COMMANDS)
    return "\n".join(
        ["efface: remove concepts from text-to-image diffusion models, and prove that they are gone.", "",
         "usage: efface COMMAND [options]   (efface COMMAND --help for its options)", "", *lines]
    )  # fmt: skip


def _fail(sentence: str, code: int, args: list[str]) -> int:
    if "--json" in args:
        print(json.dumps({"error": sentence}))
    print(f"efface: {sentence}", file=sys.stderr)
    return code


def _quiet() -> None:
    """Keep the libraries' notices and progress bars out of the way; efface says what it does itself."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
