"""Help calls in processes of their own."""

from __future__ import annotations

import subprocess
import sys


def help_without_torch(*args: str) -> str:
    """What a help call prints, in a process where importing torch fails the test."""
    script = (
        "import sys; from efface.cli import main; "
        f"code = main({list(args)!r}); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
