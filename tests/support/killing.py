"""Running a script in a process of its own, and killing it at a moment of one's choice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def run_until(script: str, path: Path, seconds: float | None) -> float:
    """Run a script, which prints "ready" once its work begins; returns the seconds that it worked.

    Args:
        script: Python source; `path` is its only argument.
        path: where it writes.
        seconds: of work before SIGKILL; None lets it end.
    """
    env = os.environ | {"PYTHONPATH": "."}
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        began = time.monotonic()
        if seconds is not None:
            time.sleep(seconds)
            process.send_signal(signal.SIGKILL)
    assert process.returncode in ((0,) if seconds is None else (0, -signal.SIGKILL))
    return time.monotonic() - began
