"""What trainings on pictures and on prompts share: lines meanwhile, the curve, the figures at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from efface.cli.output import say

if TYPE_CHECKING:
    import torch


def trained_on(pipeline: Any) -> torch.device | None:
    """Where autoencoders are trained: where the model computes; None leaves it to the training."""
    from efface.families.layers import execution_device

    device = execution_device(pipeline)
    return device if device.type in ("cpu", "cuda") else None


def say_figures(line: dict[str, Any]) -> None:
    """Say the figures of a line of the log."""
    figures = "; ".join(
        f"{name.removeprefix('unet.')} FVU {f['fvu']:.3f}, dead {f['dead']:.1%}" for name, f in line["sites"].items()
    )
    say(f"step {line['step']}, {line['seconds']:.0f} s: {figures}")


def plot_curve(run: Path) -> None:
    """`curve.png`: the share of variance left, over steps, for every site."""
    from efface.report.plot import line_plot

    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    series = {name: [(line["step"], line["sites"][name]["fvu"]) for line in lines] for name in lines[-1]["sites"]}
    line_plot(series, run / "curve.png", title="share of variance left over training steps")


def quality_rows(data: dict[str, Any]) -> list[tuple[str, str]]:
    """The rows of a table of what a training ended with."""
    rows = [("folder", data["folder"])]
    for name, q in data["sites"].items():
        rows += [(f"{name} at k = {k}", f"FVU {v:.3f}, PCA {q['pca'][k]:.3f}") for k, v in q["fvu"].items()]
        rows.append(
            (f"{name} own rule", f"FVU {q['fvu_own']:.3f}, {q['l0']:.1f} active, {q['never_fired']:.1%} never fired")
        )
        if "rise" in q:
            rows.append((f"{name} in its place", f"the denoising loss rises by {q['rise']:.2%}"))
    return rows
