"""Policies of single requests on the emoji canvas: 8 policies of 2 concepts in one batch of 16.

    python benchmarks/policies.py --quick   # a look: one style, two pairs, three steps in float64
    python benchmarks/policies.py           # everything

Each policy erases two objects, by an erasure each; they stand eight apart in the list, since neighbours there take each other's
place. The three drinks are left out: led to each other they still look like themselves (docs/closed_form.md), whoever asks. Two
rows of a batch follow each policy; they draw its own concepts (`ua`: the least share, over the policies, of pictures that no
longer show theirs), then those of the next policy (`neighbour_drop`: how many points fewer of them show it than in the same batch
of the unerased model). `max_difference` is the largest difference of a pixel (0 to 1) between a row of the mixed batch and the
same row of the same batch under its policy alone, both drawn in float64. `time_ratio` is the mixed batch over the same batch
under one policy, the median of alternating pairs. Printed beside: the memory of 100 registered policies, and the time of a batch
that asks for none of them over the same batch without any.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import tyro
from PIL import Image

import efface
from efface.judges import embedded_judge
from efface.judges.criterion import verdicts_on
from efface.profiles.emoji.settings import GUIDANCE, STEPS
from efface.profiles.emoji.words import BENCHMARK, STYLES, caption

COUNT = 8
"""Policies."""
DRINKS = ("beer mug", "wine glass", "cocktail glass")
REGISTERED = 100
"""Policies of which the memory is measured."""


def draw(call: Any, prompts: Sequence[str], seed: int = 0, steps: int = STEPS, **more: Any) -> np.ndarray:
    """Pictures (batch height width 3), 0 to 1."""
    generators = [torch.Generator().manual_seed(1000 * seed + row) for row in range(len(prompts))]
    options = {"num_inference_steps": steps, "guidance_scale": GUIDANCE, "generator": generators, "output_type": "np"}
    return call(prompt=[*prompts], **options, **more).images


def shown(pictures: np.ndarray, names: Sequence[str]) -> list[bool]:
    """Whether each picture shows its object."""
    images = [Image.fromarray((picture * 255).round().astype("uint8")) for picture in pictures]
    return [verdict.shown for verdict in verdicts_on(embedded_judge("emoji", "object"), images, names)]


def quality(
    pipe: Any, held: dict[str, list[Any]], names: Sequence[str], styles: Sequence[str], seeds: int
) -> tuple[float, float]:
    """Least UA of a policy, and the drop of its neighbours' concepts, in percent."""
    rows = [policy for policy in held for _ in range(2)]
    next_names = [*names[2:], *names[:2]]
    gone: dict[str, list[bool]] = {policy: [] for policy in held}
    before: list[bool] = []
    after: list[bool] = []
    for number, style in enumerate(style for style in styles for _ in range(seeds)):
        own, other = ([caption(name, style) for name in chosen] for chosen in (names, next_names))
        before += shown(draw(pipe, other, number), next_names)
        with efface.Policies(pipe, held) as policies:
            for policy, still in zip(rows, shown(draw(policies, own, number, policy=rows), names), strict=True):
                gone[policy].append(not still)
            after += shown(draw(policies, other, number, policy=rows), next_names)
    shares = {policy: 100 * sum(found) / len(found) for policy, found in gone.items()}
    print("UA " + ", ".join(f"{policy} {share:.1f}" for policy, share in shares.items()))
    print(f"neighbours shown {100 * sum(before) / len(before):.1f}% before, {100 * sum(after) / len(after):.1f}% after")
    return min(shares.values()), 100 * (sum(before) - sum(after)) / len(before)


def difference(pipe: Any, held: dict[str, list[Any]], names: Sequence[str], steps: int) -> float:
    """Largest difference of a row from the same row under its policy alone, in float64."""
    pipe.to(torch.float64)
    prompts = [caption(name) for name in names]
    with efface.Policies(pipe, held) as policies:
        mixed = draw(policies, prompts, steps=steps, policy=[policy for policy in held for _ in range(2)])
    found = 0.0
    for number, erasures in enumerate(held.values()):
        with ExitStack() as stack:
            for erasure in erasures:
                stack.enter_context(erasure.attached(pipe))
            alone = draw(pipe, prompts, steps=steps)
        mine = slice(2 * number, 2 * number + 2)
        found = max(found, float(np.abs(mixed[mine] - alone[mine]).max()))
    pipe.to(torch.float32)
    return found


def seconds_of(work: Callable[[], Any]) -> float:
    """How long something takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratio(first: Callable[[], Any], second: Callable[[], Any], pairs: int) -> float:
    """Time of the first over the second, the median of alternating pairs."""
    found = []
    for number in range(pairs + 1):  # the first pair warms up
        taken = {}
        for work in (first, second) if number % 2 else (second, first):
            taken[work] = seconds_of(work)
        found.append(taken[first] / taken[second])
    return statistics.median(found[1:])


def registered(pipe: Any, erasures: Sequence[Any], prompts: Sequence[str], pairs: int) -> None:
    """Print what 100 policies cost that nobody asks for."""
    held = {
        f"p{number}": [
            replace(erasure, u=erasure.u * (1 + 1e-3 * (number + 1)), v=erasure.v.clone()) for erasure in erasures[:2]
        ]
        for number in range(REGISTERED)
    }
    tensors = sum(t.numel() * t.element_size() for each in held.values() for e in each for t in e.tensors().values())
    began = time.perf_counter()
    policies = efface.Policies(pipe, held)
    seconds = time.perf_counter() - began
    print(
        f"{REGISTERED} policies: {tensors / REGISTERED / 1e6:.3f} MB of tensors each, ready in {seconds:.1f} s",
        flush=True,
    )
    policies.remove()

    found = []
    for _ in range(pairs + 1):  # the first pair warms up
        plain = seconds_of(lambda: draw(pipe, prompts))
        policies = efface.Policies(pipe, held)
        asked = seconds_of(lambda: draw(policies, prompts, policy=None))  # noqa: B023
        found.append(asked / plain)
        policies.remove()
    print(
        f"a batch that asks for none of them takes {statistics.median(found[1:]):.3f} of the time without (median of {pairs} pairs)"
    )


def main(method: str = "rece", pairs: int = 9, seeds: int = 1, quick: bool = False) -> None:
    """Measure and print.

    Args:
        method: of the erasures.
        pairs: of timings.
        seeds: pictures of each concept in each style.
        quick: one style, two pairs, three steps in float64.
    """
    pairs, styles = (2, STYLES[:1]) if quick else (pairs, STYLES)
    pipe = efface.load("emoji")
    pipe.set_progress_bar_config(disable=True)
    objects = [name for name in BENCHMARK if name not in DRINKS]
    names = [name for number in range(COUNT) for name in (objects[number], objects[number + COUNT])]
    erasures = [efface.erase(pipe, name, method=method) for name in names]
    held = {f"policy {number}": erasures[2 * number : 2 * number + 2] for number in range(COUNT)}
    apart = difference(pipe, held, names, 3 if quick else STEPS)
    print(f"largest difference of a row from its policy alone {apart:.2e}", flush=True)
    ua, drop = quality(pipe, held, names, styles, seeds)
    prompts = [caption(name) for name in names]
    with efface.Policies(pipe, held) as policies:
        rows = [policy for policy in held for _ in range(2)]
        slower = ratio(
            lambda: draw(policies, prompts, policy=rows), lambda: draw(policies, prompts, policy="policy 0"), pairs
        )
    print(f"the mixed batch takes {slower:.3f} of the time of one policy (median of {pairs} pairs)", flush=True)
    registered(pipe, erasures, prompts, pairs)
    figures = {"max_difference": float(f"{apart:.3g}"), "ua": round(ua, 2), "neighbour_drop": round(drop, 2)}
    print(json.dumps(figures | {"time_ratio": round(slower, 4)}))


if __name__ == "__main__":
    tyro.cli(main)
