"""The main job at the size of real models: erasing from Stable Diffusion 1.5 and SDXL, random weights, true vocabulary.

    python benchmarks/real_size.py                       # about 9 GB in the cache folder, some minutes to write them
    python benchmarks/real_size.py --models sd15         # 2.2 GB
    python benchmarks/real_size.py --phases              # also where the time goes

Every command runs in a process of its own with an empty cache of efface (`again`: with the one that the first run filled), its
wall time, processor time and peak resident memory are measured from outside. `--phases` runs the erasures once more inside
this script with a clock around each part, since the parts of a command cannot be seen from outside.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro
from real_models import build

CONCEPTS = ("nudity", "church", "Van Gogh")
"""A preset with neutral prompts, an object and a style, which look for siblings."""
COUNTED = 2
"""Of them, in the figures; the style, which chooses among 1,734 names, is printed beside."""


class Run(NamedTuple):
    """What a command took."""

    seconds: float
    """From start to end."""
    processor: float
    """Seconds of all processors."""
    mb: float
    """Peak resident memory."""
    answer: dict[str, Any]
    """What it printed under --json."""


def measured(words: list[str], cache: Path) -> Run:
    """Run a command of efface; raises SystemExit where it fails."""
    command = [sys.executable, "-m", "efface", *words, "--json"]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | {"EFFACE_CACHE": str(cache)})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        if status:
            raise SystemExit(f"{' '.join(words)} failed: {err.read().strip()}")
        answer = json.loads(out.read().strip().splitlines()[-1])
    run = Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, answer)
    print(
        f"{' '.join(words[:2] + words[3:4]):24} {seconds:6.2f} s, {run.processor:6.2f} s of processor, {run.mb:6.0f} MB",
        flush=True,
    )
    return run


def erasing(model: Path, scratch: Path) -> dict[str, Run]:
    """Erasures of every concept with an empty cache each, and what was retained."""
    runs = {}
    for concept in CONCEPTS:
        file = scratch / f"{model.name}-{concept}.safetensors"
        runs[concept] = measured(
            ["erase", "rece", str(model), concept, "-o", str(file)], scratch / f"{file.stem}-cache"
        )
        shown = measured(["show", str(file)], scratch / "none").answer
        print(f"  retained: {', '.join(shown['keep'])}", flush=True)
    return runs


def phases(words: list[str], cache: Path) -> None:
    """Where the time of an erasure goes, in a process of its own."""
    command = [sys.executable, __file__, "--inside", json.dumps(words)]
    subprocess.run(command, check=True, env=os.environ | {"EFFACE_CACHE": str(cache)})


@contextmanager
def clocked(found: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds of a part to what is known of it."""
    started = time.perf_counter()
    try:
        yield
    finally:
        found[name] = found.get(name, 0.0) + time.perf_counter() - started


def inside(words: list[str]) -> None:
    """Run an erasure in this process and print the seconds of its parts."""
    found: dict[str, float] = {}
    with clocked(found, "imports"):
        import transformers

        import efface.cli.erase
        import efface.closed_form.gram as gram
        import efface.erasers.rece as rece
        import efface.erasures.erasure as erasure
        import efface.models.load as load
        import efface.models.neighbours as neighbours
        import efface.models.unchanged as unchanged
        from efface.models.model import Model

        _ = transformers.CLIPTokenizer, transformers.CLIPTextConfig
        efface.cli.erase.ERASERS.load("rece")

    def clock(home: Any, attribute: str, name: str) -> None:
        function: Callable[..., Any] = getattr(home, attribute)

        def timed(*args: Any, **options: Any) -> Any:
            with clocked(found, name):
                return function(*args, **options)

        setattr(home, attribute, timed)

    clock(load, "load", "loading")
    clock(neighbours, "retained_prompts", "what to retain, its encoding included")
    clock(Model, "encode_in_float32", "encoding")
    clock(gram, "key_value_gram_of", "S")
    clock(rece, "erase", "edit, encoding, S and footprint included")
    clock(unchanged, "footprint", "footprint")
    clock(erasure.Erasure, "save", "saving")
    from efface.cli import main

    started = time.perf_counter()
    if main(words):
        raise SystemExit(1)
    print(f"  imports {found.pop('imports'):.2f} s, then {time.perf_counter() - started:.2f} s:")
    print("  " + "; ".join(f"{name} {seconds:.2f} s" for name, seconds in found.items()), flush=True)


def exported(model: Path, file: Path, scratch: Path) -> tuple[float | None, float | None]:
    """Seconds of the export to peft and megabytes of its file; None for both where this efface has no such target."""
    from efface.export.config import EXPORTS

    if "peft" not in EXPORTS:
        return None, None
    folder = scratch / "peft"
    run = measured(["export", str(file), str(model), "--to", "peft", "-o", str(folder)], scratch / "none")
    return round(run.seconds, 2), round((folder / "adapter_model.safetensors").stat().st_size / 1e6, 2)


def main(
    folder: Path | None = None,
    models: tuple[Literal["sd15", "sdxl"], ...] = ("sd15", "sdxl"),
    phases_too: Annotated[bool, tyro.conf.arg(name="phases")] = False,
    inside_words: Annotated[str | None, tyro.conf.arg(name="inside")] = None,
) -> None:
    """Build the models and measure.

    Args:
        folder: where the models lie; by default `efface-benchmarks` in the user's cache folder.
        models: which of them.
        phases_too: also measure the parts of an erasure.
        inside_words: an erasure to run in this process, as JSON (used by this script itself).
    """
    if inside_words is not None:
        inside(json.loads(inside_words))
        return
    folder = folder or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "efface-benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, float | None] = dict.fromkeys(
        ("sd15_erase_s", "sd15_erase_mb", "sd15_again_s", "sd15_keep_none_s", "sdxl_erase_s", "sdxl_erase_mb", "show_s",
         "peft_s", "peft_mb")
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        for name in models:
            model = build(name, folder)
            runs = erasing(model, scratch)
            counted = [runs[concept] for concept in CONCEPTS[:COUNTED]]
            figures[f"{name}_erase_s"] = round(max(run.seconds for run in counted), 2)
            figures[f"{name}_erase_mb"] = round(max(run.mb for run in counted))
            words = ["erase", "rece", str(model), "church", "-o", str(scratch / "again.safetensors")]
            if phases_too:
                phases(words, scratch / "phases-cache")
            if name != "sd15":
                continue
            filled = scratch / "sd15-church-cache"
            again = [measured([*words[:3], concept, *words[4:]], filled) for concept in ("church", "nudity")]
            figures["sd15_again_s"] = round(max(run.seconds for run in again), 2)
            bare = measured([*words, "--keep", "none"], scratch / "bare-cache")
            figures["sd15_keep_none_s"] = round(bare.seconds, 2)
            file = scratch / "sd15-nudity.safetensors"
            figures["show_s"] = round(measured(["show", str(file)], scratch / "none").seconds, 2)
            figures["peft_s"], figures["peft_mb"] = exported(model, file, scratch)
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
