"""The command line: one small file a command, named in COMMANDS; nothing heavy is imported before it is needed."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

from efface.cli.dispatch import Command, dispatch
from efface.errors import EffaceError
from efface.registry import Registry

NAMES = (
    "demo", "erase", "prior", "generate", "show", "export", "push", "policies", "audit", "attack", "harden", "judge", "sae",
    "bench", "env",
)  # fmt: skip
COMMANDS: Registry[Command] = Registry(
    "command", "efface.commands", {name: f"efface.cli.{name}" for name in NAMES}, contract=Command
)
"""In the order in which help lists them."""
LEAN = "take a smaller --batch or --side, --dtype float16, or --offload"
TITLE = "efface: remove concepts from text-to-image diffusion models, and prove that they are gone."


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns 0 when done, 1 when it failed, 2 for bad usage."""
    args = sys.argv[1:] if argv is None else argv
    _quiet()
    try:
        dispatch(
            COMMANDS, args, title=TITLE, usage="efface COMMAND [options]   (efface COMMAND --help for its options)"
        )
    except EffaceError as error:
        return _fail(str(error), error.exit_code, args)
    except (MemoryError, RuntimeError) as error:
        from efface.io.memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return _fail(f"memory ran out ({str(error).splitlines()[0][:120]}): {LEAN}.", 1, args)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing half-written was left behind.", 1, args)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2 if stop.code else 0
    return 0


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
    warnings.formatwarning = _sentence


def _sentence(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning as the command line prints it: efface's own are a sentence, like its errors."""
    if category is UserWarning and Path(filename).is_relative_to(Path(__file__).parents[1]):
        return f"efface: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"
