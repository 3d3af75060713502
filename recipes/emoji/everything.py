"""All stages after the corpus, side by side where they can be, within a time; made for a machine with a GPU.

A stage whose product is there is not run again; the denoiser always is, from `--start PIPELINE` if one is given.

python -m recipes.emoji.everything --seconds 560
python -m recipes.emoji.everything --steps 20          # a look at whether everything runs
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from recipes.emoji.training import stage

PRODUCTS = {
    "scenes": "scenes.safetensors", "text": "text_encoder", "autoencoder": "autoencoder", "latents": "latents.safetensors",
    "judges": "judges",
}  # fmt: skip
"""What each stage leaves behind; one whose product is there is not run again."""


def start(work: Path, name: str, *options: object) -> subprocess.Popen:
    """Begin a stage; what it prints goes to `NAME.log`."""
    log = (work / f"{name}.log").open("a")
    command = [sys.executable, "-u", "-m", f"recipes.emoji.{name}", "--work", str(work), *map(str, options)]
    return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def wait(work: Path, name: str, process: subprocess.Popen, others: dict[str, subprocess.Popen]) -> None:
    """Wait for a stage and print the end of its log; stop the others if it fails."""
    code = process.wait()
    log = work / f"{'bank' if name in ('scenes', 'latents') else name}.log"
    lines = [line for line in log.read_text().splitlines() if "arning" not in line and "oading" not in line]
    print(f"--- {name} ({code})", *lines[-8:], sep="\n", flush=True)
    if code:
        for other in others.values():
            other.kill()
        raise SystemExit(f"{name} failed; its log is {log}.")


def main() -> None:
    """Autoencoder, text encoder and scenes; latents; denoiser and judges; check."""
    options = stage(
        __doc__ or "", seconds=0.0, steps=0, small=0, processes=2, variants=300, count=400_000, ground=150.0, judging=150.0,
        tail=45.0, checked=4096, start="",
    )  # fmt: skip
    began, work = time.time(), options.work
    few = ("--steps", options.steps) if options.steps else ()
    few += ("--batch", 16) if options.small else ()
    workers = ("--processes", options.processes)
    places = (*workers, "--variants", options.variants)
    timed, end = bool(options.seconds), began + options.seconds - options.tail
    ground = ("--seconds", options.ground) if timed else ()
    judging = ("--until", began + options.ground + 20 + options.judging) if timed else ()
    commands = {
        "scenes": ("bank", "--part", "scenes", "--count", options.count, *places),
        "text": ("text", *few, *workers, *ground),
        "autoencoder": ("autoencoder", *few, *places, *ground),
        "latents": ("bank", "--part", "latents", *places),
        "judges": ("judges", *few, *places, "--checked", options.checked, *judging),
        "denoiser": ("denoiser", *few, *(("--until", end) if timed else ()), "--start", options.start),
    }
    done = {name for name, product in PRODUCTS.items() if (work / product).exists()}
    stages = {name: start(work, *command) for name, command in commands.items() if name not in done}
    for name, process in stages.items():
        wait(work, name, process, stages)
        print(f"{time.time() - began:.0f} s", flush=True)
    wait(work, "check", start(work, "check", "--quick", int(bool(options.steps))), {})
    print(f"{time.time() - began:.0f} s in all", flush=True)


if __name__ == "__main__":
    main()
