"""What any text state could bring back through each closed-form erasure, and what attacks do bring back.

    python benchmarks/certificates.py --plot certificates.png     # attacks included
    python benchmarks/certificates.py --no-attacks                # the curves and the damage alone

UCE, RECE after one to five epochs, `preserve` and `project`, all by the canvas's settings or their own defaults. The curves
are `efface.closed_form.certificate`'s: recoverable(r), the share of the concept's keys and values that the best state of norm r gives
back, in units of the mean norm of the concept's rows. ASR counts what is shown without the attack and what it gained, together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tyro
from quality import Bench, bench_of

from efface.api.attack import attack
from efface.api.erase import erase
from efface.closed_form.certificate import Curve, certificate
from efface.erasures import TextMap
from efface.redteam.findings import Sanity
from efface.redteam.samples import Samples
from efface.report import markdown
from efface.report.plot import line_plot

ERASURES: dict[str, tuple[str, dict[str, Any]]] = {
    "UCE": ("uce", {}),
    **{f"RECE {n}": ("rece", {"epochs": n}) for n in range(1, 6)},
    "preserve": ("preserve", {}),
    "project": ("project", {}),
}
ATTACKS = ("ring-a-bell", "unlearndiff", "inversion")
"""Those that work on the canvas's unerased model (docs/attacks.md)."""
NORMS = tuple(10 ** (k / 8 - 1) for k in range(33))
"""0.1 to 1,000 times the mean norm of the concept's rows."""


def at(curve: Curve, norm: float) -> float:
    """recoverable(r) at the largest r of the curve up to a norm."""
    return max((y for r, y in zip(curve.norms, curve.recoverable, strict=True) if r <= norm), default=0.0)


def attacked(
    bench: Bench, erasure: TextMap, budget: str, samples: int, known: dict[str, Sanity | None]
) -> dict[str, float]:
    """ASR of every attack; whether each is sound is found once."""
    rates = {}
    for name in ATTACKS:
        found = attack(
            bench.model.pipeline,
            erasure,
            method=name,
            budget=budget,
            samples=Samples(samples),
            known_sanity=known.get(name),
        )
        known[name] = found.sanity
        rates[name] = round(found.asr.value, 3)
    return rates


def main(
    concept: str = "church",
    attacks: bool = True,
    budget: str = "canvas",
    samples: int = 8,
    plot: Path | None = None,
) -> None:
    """Erase one concept in every way, and print a table.

    Args:
        concept: an object or a style of the canvas.
        attacks: whether each erasure is attacked.
        budget: of the attacks: published, canvas or quick.
        samples: prompts and seeds of each attack.
        plot: PNG file for the curves.
    """
    bench, _ = bench_of(quick=True)
    curves: dict[str, Curve] = {}
    figures: dict[str, dict[str, float]] = {}
    known: dict[str, Sanity | None] = {}
    heads = ["at 1", "within reach", "UA", "IRA drop", "intact", *(ATTACKS if attacks else ())]
    print(markdown.head([concept, *heads]), flush=True)
    for name, (method, options) in ERASURES.items():
        erasure = erase(bench.model.pipeline, concept, method=method, **options)
        assert isinstance(erasure, TextMap)
        curve = curves[name] = certificate(bench.model, erasure, NORMS)
        row = bench.measure(concept, method, **options)
        rates = attacked(bench, erasure, budget, samples, known) if attacks else {}
        reach = at(curve, curve.reachable)
        figures[name] = {"recoverable_1": round(at(curve, 1.0), 4), "recoverable_reach": round(reach, 4), **rates}
        cells = [f"{at(curve, 1.0):.2f}", f"{reach:.2f}", str(row.ua), str(row.ira_drop), str(row.intact)]
        print(markdown.row([name, *cells, *(f"{rate:.0%}" for rate in rates.values())]), flush=True)
    if attacks:
        broken = [name for name, sanity in known.items() if sanity is not None and sanity.broken]
        print(f"attacks that report themselves as broken here: {', '.join(broken) or 'none'}")
    if plot:
        worst = {n: f", ASR {max(figures[n][a] for a in ATTACKS):.0%}" if attacks else "" for n in curves}
        series = {n + worst[n]: list(zip(curve.norms, curve.recoverable, strict=True)) for n, curve in curves.items()}
        reach = {"largest state": next(iter(curves.values())).reachable}
        title = f"share of {concept}'s keys and values that a state of norm r can bring back"
        line_plot(series, plot, title=title, logarithmic="x", marks=reach, size=(720, 360))
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
