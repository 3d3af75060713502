"""All stages after the corpus, side by side where they can be, within a time; made for a machine with a GPU.

python -m recipes.scenes.everything --seconds 560
python -m recipes.scenes.everything --steps 20          # a look at whether everything runs
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from recipes.scenes.training import stage


def start(work: Path, name: str, *options: object) -> subprocess.Popen:
    """Begin a stage; what it prints goes to `NAME.log`."""
    log = (work / f"{name}.log").open("a")
    command = [sys.executable, "-u", "-m", f"recipes.scenes.{name}", "--work", str(work), *map(str, options)]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def wait(work: Path, **stages: subprocess.Popen) -> None:
    """Wait for stages; print the ends of their logs; stop everything if one fails."""
    for name, process in stages.items():
        code = process.wait()
        lines = [line for line in (work / f"{name}.log").read_text().splitlines() if "Warning" not in line]
        print(f"--- {name} ({code})", *lines[-8:], sep="\n", flush=True)
        if code:
            raise SystemExit(f"{name} failed; its log is {work / f'{name}.log'}.")


def main() -> None:
    """Autoencoder, text encoder and scenes; latents; denoiser and judges; check."""
    options = stage(
        __doc__ or "", part="all", seconds=0.0, steps=0, small=0, processes=2, variants=300, count=400_000, ground=100.0,
        tail=60.0, checked=4096,
    )  # fmt: skip
    began, work = time.monotonic(), options.work
    few = ("--steps", options.steps) if options.steps else ()
    few += ("--batch", 16) if options.small else ()
    workers, places = ("--processes", options.processes), ("--variants", options.variants)

    def within(seconds: float) -> tuple[object, ...]:
        return ("--seconds", seconds) if options.seconds else ()

    if options.part != "rest":
        wait(
            work,
            bank=start(work, "bank", "--part", "scenes", "--count", options.count, *workers, *places),
            text=start(work, "text", *few, *workers, *within(options.ground)),
            autoencoder=start(work, "autoencoder", *few, *workers, *places, *within(options.ground)),
        )
        print(f"{time.monotonic() - began:.0f} s", flush=True)
        wait(work, bank=start(work, "bank", "--part", "latents", *workers, *places))
    if options.part != "ground":
        left = options.seconds - options.tail - (time.monotonic() - began)
        print(f"{time.monotonic() - began:.0f} s, {left:.0f} s for the denoiser", flush=True)
        checked = ("--checked", options.checked)
        judges = start(work, "judges", *few, *workers, *places, *checked, *within(min(0.5 * left, 160)))
        wait(work, denoiser=start(work, "denoiser", *few, *within(left)), judges=judges)
        wait(work, check=start(work, "check", "--quick", int(bool(options.steps))))
    print(f"{time.monotonic() - began:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
