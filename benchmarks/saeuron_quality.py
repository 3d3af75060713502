"""What SAeUron and the anchored edit remove from the emoji canvas, and what they damage, beside UCE and RECE.

    python benchmarks/saeuron_quality.py              # 2 seeds
    python benchmarks/saeuron_quality.py --seeds 5    # the full row
    python benchmarks/saeuron_quality.py --quick      # a few minutes: 7 erasures, a third of the prompts, one seed

29 erasures x 180 prompts. `anchored` (latents write what the anchor would) has one setting for all styles and one for all
objects (`src/efface/profiles/emoji/settings.py`); `saeuron`, which turns latents down as published, is shown beside it. All
pictures are judged.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import tyro
from quality import Bench, Row, bench_of, mean, rounded

from efface.api.erase import erase
from efface.erasures.activation import ActivationEdit, members
from efface.judges import embedded_judge
from efface.profiles.emoji.concepts import emoji_concepts
from efface.profiles.emoji.sae_data import SITES
from efface.profiles.emoji.score import share
from efface.profiles.emoji.words import BENCHMARK, STYLES
from efface.sae.harvest import record_sites

TARGETS = {"styles": Row(96, 2, 2, 90), "objects": Row(90, 3, 3, 90)}
"""Least UA, largest drops, least share of intact pictures."""
PUBLISHED = {"mode": "published", "gain": "published", "count": 1, "gamma": -1.0}
"""The paper's setting for styles, with its public code's error term."""
SEQUENCE = ("noto", "blob", "firefox", "twemoji", "stencil", "outline")
"""Six concepts erased one after the other."""


def table(bench: Bench, kind: str, names: Sequence[str], method: str = "anchored", **options: Any) -> Row:
    """Print the rows of one kind, and return their mean."""
    rows = []
    for name in names:
        row, falls = bench.measure(name, method, **options)
        rows.append(row)
        print(f"{name:15} {row}  {falls}", flush=True)
    print(f"{kind:15} {mean(rows)}   {method} { {k: v for k, v in options.items() if k != 'judge'} or '' }", flush=True)
    print(f"{'target':15} {TARGETS[kind]}", flush=True)
    return mean(rows)


def differing(bench: Bench, concept: str, method: str, **options: Any) -> tuple[float, float]:
    """Share of positions at which fast and exact mode disagree about any chosen latent, and of the latents that either
    counts as active those about which they disagree; over one picture of each style."""
    fast, exact = (erase(bench.model.pipeline, concept, method=method, mode=m, **options) for m in ("fast", "exact"))
    assert isinstance(fast, ActivationEdit)
    assert isinstance(exact, ActivationEdit)
    places, differ, count, either = 0, 0, 0, 0
    with record_sites([bench.model.sites(site)[0] for site in SITES]) as seen:
        text = bench.model.encode([f"a {BENCHMARK[0]} in {style} style" for style in STYLES])
        for level, _ in bench.model.denoise(text, seeds=range(len(STYLES)), steps=12, guidance=3.0):
            for site in SITES:
                states, at, edits = seen[site], torch.tensor([level]), (fast.edits[site], exact.edits[site])
                active = []
                for edit, member in zip(
                    edits, (None, members(exact.saes[site], states, edits[1].latents)), strict=True
                ):
                    z = torch.relu((states - edit.centre) @ edit.encoder.T + edit.bias)
                    on = z > edit.gate[edit.nearest(at)][:, None]
                    active.append(on if member is None else on & member)
                apart = active[0] != active[1]
                places, count = places + int(apart.any(-1).sum()), count + apart[..., 0].numel()
                differ, either = differ + int(apart.sum()), either + int((active[0] | active[1]).sum())
    return places / count, differ / either


def together(bench: Bench) -> None:
    """Eight of nine styles at once, and six one after the other, with what is retained after each."""
    kept = STYLES[-1]
    found = bench.after(erase(bench.model.pipeline, STYLES[:-1], method="anchored"))
    styles = [(sample.shows[1], verdict.shown) for sample, verdict in zip(found.samples, found.styles, strict=True)]
    gone = share(not shown for style, shown in styles if style != kept)
    left = share(shown for style, shown in styles if style == kept)
    objects = share(verdict.shown for verdict in found.objects)
    print(
        f"8 of 9 styles at once: UA {gone:.1%}, {kept} still right {left:.1%}, objects right {objects:.1%}", flush=True
    )
    attached = []
    for number, name in enumerate(SEQUENCE):
        attached.append(erase(bench.model.pipeline, emoji_concepts(name, SEQUENCE[: number + 1]), method="anchored"))
        found = bench.after(*attached)
        erased, others = SEQUENCE[: number + 1], [s for s in STYLES if s not in SEQUENCE[: number + 1]]
        styles = [(sample.shows[1], verdict.shown) for sample, verdict in zip(found.samples, found.styles, strict=True)]
        ua = share(not shown for style, shown in styles if style in erased)
        retained = share(shown for style, shown in styles if style in others)
        print(f"after {name:9}: UA of all so far {ua:.1%}, retained styles right {retained:.1%}", flush=True)


def main(seeds: int = 2, quick: bool = False, output: Path | None = None) -> None:
    """Measure every benchmark style and object.

    Args:
        seeds: pictures of every prompt.
        quick: four objects and three styles, a third of the prompts, one seed.
        output: JSON Lines file of every erasure's row; what it holds is not measured again.
    """
    started = time.monotonic()
    bench, concepts = bench_of(seeds, quick, output)
    figures = {"style": rounded(table(bench, "styles", concepts["styles"]))}
    figures["object"] = rounded(table(bench, "objects", concepts["objects"]))
    figures["as_published"] = rounded(table(bench, "styles", concepts["styles"], "saeuron", **PUBLISHED))
    table(
        bench, "styles", concepts["styles"], "saeuron", **PUBLISHED | {"mode": "exact"}
    )  # with the error term's right sign
    table(
        bench,
        "objects",
        concepts["objects"][:4],
        "saeuron",
        calibrate=True,
        judge=embedded_judge("emoji", "object"),
    )
    for method in ("uce", "rece"):
        for kind, names in concepts.items():
            print(f"{method:5} {kind:9} {mean([bench.measure(name, method)[0] for name in names])}", flush=True)
    for concept in (STYLES[0], BENCHMARK[0]):
        for method in ("anchored", "saeuron"):
            places, latents = differing(bench, concept, method)
            print(
                f"{concept}, {method}: fast and exact mode differ at {places:.2%} of positions, about {latents:.2%} of active "
                "latents",
                flush=True,
            )
    some = concepts["styles"][::3]
    for mode in ("fast", "exact"):
        row = mean([bench.measure(name, "anchored", **({} if mode == "fast" else {"mode": mode}))[0] for name in some])
        print(f"{mode} mode, {', '.join(some)}: {row}", flush=True)
    together(bench)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes, {bench.seeds} seeds, {len(bench.pairs)} prompts")
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
