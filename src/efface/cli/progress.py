"""How far a long job has come, on a terminal or in a log."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack

from rich.progress import Progress

from efface.cli.output import notices, say
from efface.io.progress import Step, TrainingStep, duration, on_step

EVERY = 10.0
"""Seconds between two lines of a log."""


class ProgressBar:
    """A progress bar on a terminal, a line every ten seconds elsewhere; with the time that is left.

    What is told of denoising steps alone, where nobody knows how many pictures are to come, is shown beside the last line.
    """

    def __init__(self, what: str):
        self.bar = Progress(console=notices) if sys.stderr.isatty() else None
        self.what = what
        self.line = what
        self.done = 0.0
        self.first: tuple[float, float] | None = None
        self.last_line_at = time.monotonic()
        self.stack = ExitStack()

    def __enter__(self) -> ProgressBar:
        if self.bar is None:
            say(self.what)
        else:
            self.bar.start()
            self.task = self.bar.add_task(self.what, total=1.0)
        self.stack.enter_context(on_step(self.step))
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, done: float, line: str) -> None:
        """The share that is done, and a line about it; a share that falls begins other work, of which the time is counted anew."""
        if done < self.done:
            self.first = None
        self.done = done
        self.line = line
        self.first = self.first or (time.monotonic(), done)
        self._show(line)

    def step(self, step: Step | TrainingStep | str) -> None:
        """A step of a training, a denoising step that is no part of a known number, or a line about other work."""
        if isinstance(step, TrainingStep):
            self(step.number / step.steps, f"{self.what}, {step}")
        else:
            self._show(f"{self.line}, {step}")

    def left(self) -> str:
        """The time that is left, in words, at the rate since the first line; nothing before there is one."""
        if self.first is None or self.done <= self.first[1] or self.done >= 1:
            return ""
        began, share = self.first
        seconds = (time.monotonic() - began) / (self.done - share) * (1 - self.done)
        return f", {duration(seconds)} left"

    def _show(self, line: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, description=line)
        elif time.monotonic() - self.last_line_at >= EVERY:
            self.last_line_at = time.monotonic()
            say(f"{self.done:.0%}: {line}{self.left()}")
