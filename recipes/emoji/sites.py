"""Where text decides the picture: give each cross-attention the output that it has for another prompt, and judge what is drawn.

python -m recipes.emoji.sites            # a minute; the table of docs/canvas.md
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import tyro
from torch import Tensor

from efface.families.sites import Site
from efface.judges import embedded_judge
from efface.models.load import load
from efface.models.model import Model
from efface.profiles.emoji.sae_data import SITES
from efface.profiles.emoji.settings import GUIDANCE, STEPS
from efface.profiles.emoji.words import BENCHMARK, STYLES, caption
from efface.sae.harvest import HarvestConfig, capture

Pair = tuple[str, str]


def pictures(model: Model, pairs: Sequence[Pair]) -> list[Any]:
    """One picture of each pair, from seeds 0, 1, …"""
    prompts = [caption(*pair) for pair in pairs]
    return model.draw(prompts, seeds=range(len(pairs)), steps=STEPS, guidance=GUIDANCE, batch=len(pairs))


@contextmanager
def patched(site: Site, recording: Sequence[Tensor]) -> Iterator[None]:
    """While active, the conditional half of a site's output is a recording's (batch tokens width), step by step."""
    steps = iter(recording)

    def hook(module: Any, args: Any, output: Any) -> Any:
        states, other = site.read(output).clone(), next(steps)
        states[len(states) // 2 :] = other
        return site.write(output, states)

    handle = site.module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def row(name: str, drawn: Sequence[Any], own: Sequence[Pair], other: Sequence[Pair]) -> str:
    """One line of the table: how many pictures show each prompt's object and style."""
    found, styles = embedded_judge("emoji", "object")(drawn), embedded_judge("emoji", "style")(drawn)
    cells = []
    for side, labels in ((0, found.labels), (1, styles.labels)):
        for pairs in (own, other):
            cells.append(sum(pair[side] == label for pair, label in zip(pairs, labels, strict=True)))
    return f"| {name} | {' | '.join(map(str, cells))} | {int(found.intact.sum())} |"


def main(count: int = 32, seed: int = 0) -> None:
    """Print the table.

    Args:
        count: pictures a row, each of two random pairs of the benchmark.
        seed: of the pairs.
    """
    rng = random.Random(seed)
    own, other = ([(rng.choice(BENCHMARK), rng.choice(STYLES)) for _ in range(count)] for _ in range(2))
    model = Model(load("emoji"))
    sites = model.sites("unet.*.attn2")
    harvest = HarvestConfig(tuple(site.name for site in sites), STEPS, GUIDANCE)
    steps = [step.states for step in capture(model, [caption(*pair) for pair in other], range(count), harvest)]
    recordings = {site.name: [states[site.name] for states in steps] for site in sites}
    print(
        f"| of {count} pictures, with the other prompt's output at | own object | other's | own style | other's | intact |"
    )
    print("|---|---|---|---|---|---|")
    choices = {"none": [], **{f"`{s.name.split('.transformer')[0][5:]}`": [s] for s in sites}}
    choices["both of `up_blocks.1`"] = [s for s in sites if s.name in SITES]
    choices["the five others"] = [s for s in sites if s.name not in SITES]
    choices["all"] = sites
    for name, changed in choices.items():
        with ExitStack() as stack:
            for site in changed:
                stack.enter_context(patched(site, recordings[site.name]))
            print(row(name, pictures(model, own), own, other), flush=True)


if __name__ == "__main__":
    tyro.cli(main)
