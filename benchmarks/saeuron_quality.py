"""What SAeUron and the anchored edit remove from the emoji canvas, and what they damage.

    python benchmarks/saeuron_quality.py -o RUN.jsonl   # 60 prompts x 2 seeds and each concept's own; goes on where it was stopped
    python benchmarks/saeuron_quality.py --quick        # four objects and three styles, one seed
    python benchmarks/saeuron_quality.py --full         # all 180 prompts
    python benchmarks/saeuron_quality.py --more         # also fast against exact mode, and several concepts together

`saeuron` turns latents down with the right error term by the canvas's settings; `as-published` does with the public code's;
`anchored` lets latents write what the anchor would. One setting a kind (`src/efface/profiles/emoji/settings.py`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from quality import DTYPE, Bench, bench_of

from efface.api.erase import erase
from efface.erasers.saeuron import PUBLISHED
from efface.erasures.activation import ActivationEdit, members
from efface.profiles.emoji.concepts import emoji_concepts
from efface.profiles.emoji.sae_data import SITES
from efface.profiles.emoji.score import share
from efface.profiles.emoji.settings import GUIDANCE, STEPS
from efface.profiles.emoji.shares import Figures, added
from efface.profiles.emoji.words import BENCHMARK, STYLES, caption
from efface.sae.harvest import record_sites

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "saeuron": ("saeuron", {}),
    "anchored": ("anchored", {}),
    "as-published": ("saeuron", {**PUBLISHED, "count": 1, "gamma": -1.0}),
}
"""Row -> eraser and options beside the canvas's."""
TARGETS = "objects UA ≥ 80, IRA drop ≤ 8; styles UA ≥ 90, IRA drop ≤ 3"
SEQUENCE = ("noto", "blob", "firefox", "twemoji", "stencil", "outline")
"""Six concepts erased one after the other."""
MINUTES = 3.0
"""Of one erasure with everything drawn, on one of two idle cores."""


def table(bench: Bench, row: str, kind: str, names: Sequence[str]) -> Figures:
    """Print the rows of one method and kind; their sum."""
    method, options = METHODS[row]
    rows = []
    for name in names:
        rows.append(bench.measure(name, method, **options))
        print(f"{row:12} {name:15} {rows[-1]}", flush=True)
    print(f"{row:12} {kind:15} {added(rows)}", flush=True)
    return added(rows)


def differing(bench: Bench, concept: str, method: str) -> tuple[float, float]:
    """Share of positions at which fast and exact mode disagree about any chosen latent, and of the latents that either
    counts as active those about which they disagree; over one picture of each style."""
    fast, exact = (erase(bench.model.pipeline, concept, method=method, mode=m) for m in ("fast", "exact"))
    assert isinstance(fast, ActivationEdit)
    assert isinstance(exact, ActivationEdit)
    places, differ, count, either = 0, 0, 0, 0
    with record_sites([bench.model.sites(site)[0] for site in SITES]) as seen:
        text = bench.model.encode([caption(BENCHMARK[0], style) for style in STYLES])
        for level, _ in bench.model.denoise(text, seeds=range(len(STYLES)), steps=STEPS, guidance=GUIDANCE):
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
    found = bench.draw(erase(bench.model.pipeline, STYLES[:-1], method="anchored"))
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
        found = bench.draw(*attached)
        erased, others = SEQUENCE[: number + 1], [s for s in STYLES if s not in SEQUENCE[: number + 1]]
        styles = [(sample.shows[1], verdict.shown) for sample, verdict in zip(found.samples, found.styles, strict=True)]
        ua = share(not shown for style, shown in styles if style in erased)
        retained = share(shown for style, shown in styles if style in others)
        print(f"after {name:9}: UA of all so far {ua:.1%}, retained styles right {retained:.1%}", flush=True)


def main(
    seeds: int = 2,
    quick: bool = False,
    full: bool = False,
    methods: tuple[str, ...] = tuple(METHODS),
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    more: bool = False,
    plan: bool = False,
    dtype: str = DTYPE,
) -> None:
    """Measure every benchmark style and object.

    Args:
        seeds: pictures of every prompt.
        quick: four objects and three styles, one seed, ten two-object pictures of each.
        full: all 180 pairs rather than every third.
        methods: which rows.
        output: JSON Lines file of every erasure's row; what it holds is not measured again.
        more: also where fast and exact mode differ, and several styles together.
        plan: only say what is missing.
        dtype: in which the canvas is loaded and draws.
    """
    started = time.monotonic()
    bench, concepts = bench_of(seeds, quick, full, output, dtype)
    wanted = [
        bench.key(name, METHODS[row][0], **METHODS[row][1])
        for row in methods
        for names in concepts.values()
        for name in names
    ]
    missing = len([key for key in wanted if key not in bench.known])
    print(f"{missing} of {len(wanted)} erasures to measure, each up to {MINUTES:.0f} minutes; targets: {TARGETS}")
    if plan:
        return
    found = {
        row: {kind: table(bench, row, kind, names).to_json() for kind, names in concepts.items()} for row in methods
    }
    if more:
        for concept in (STYLES[0], BENCHMARK[0]):
            for method in ("anchored", "saeuron"):
                places, latents = differing(bench, concept, method)
                print(
                    f"{concept}, {method}: fast and exact mode differ at {places:.2%} of positions, about {latents:.2%} "
                    "of active latents",
                    flush=True,
                )
        together(bench)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes")
    print(json.dumps(found))


if __name__ == "__main__":
    tyro.cli(main)
