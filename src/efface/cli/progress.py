"""How far a long job has come, on a terminal or in a log."""

from __future__ import annotations

import sys
import time

from rich.progress import Progress

from efface.cli.output import notices, say


class ProgressBar:
    """A progress bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, what: str):
        self.bar = Progress(console=notices) if sys.stderr.isatty() else None
        self.what = what
        self.last_line_at = float("-inf")

    def __enter__(self) -> ProgressBar:
        if self.bar is None:
            say(self.what)
        else:
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=1.0)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, done: float, line: str) -> None:
        """The share that is done, and a line about it."""
        if self.bar is not None:
            self.bar.update(self.task, completed=done, description=line)
        elif time.monotonic() - self.last_line_at > 10:
            self.last_line_at = time.monotonic()
            say(f"{done:.0%}: {line}")
