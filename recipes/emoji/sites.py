"""Where text decides the picture: give each cross-attention the output that it has for another prompt, and judge what is drawn.

python -m recipes.emoji.sites            # a minute
python -m recipes.emoji.sites --pairs    # a quarter of an hour; the table of docs/canvas.md
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import combinations
from typing import Any

import tyro
from torch import Tensor

from efface.families.sites import Site
from efface.io import embedded
from efface.judges import embedded_judge
from efface.models.load import load
from efface.models.model import Model
from efface.profiles.base import profile_named
from efface.profiles.emoji.words import BENCHMARK, STYLES, caption
from efface.sae.harvest import HarvestConfig, capture

Pair = tuple[str, str]


def pictures(model: Model, pairs: Sequence[Pair], name: str) -> list[Any]:
    """One picture of each pair, from seeds 0, 1, …, as the embedded model of this name draws."""
    prompts = [caption(*pair) for pair in pairs]
    return model.draw(prompts, seeds=range(len(pairs)), batch=len(pairs), **embedded.sampling(name))


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


def shown(judges: str, drawn: Sequence[Any], own: Sequence[Pair], other: Sequence[Pair]) -> tuple[int, ...]:
    """How many pictures show the own object, the other's, the own style, the other's, and how many are whole, by the judges of an
    embedded model."""
    found, styles = embedded_judge(judges, "object")(drawn), embedded_judge(judges, "style")(drawn)

    def count(side: int, labels: Sequence[str], pairs: Sequence[Pair]) -> int:
        return sum(pair[side] == label for pair, label in zip(pairs, labels, strict=True))

    verdicts = ((0, found.labels), (1, styles.labels))
    return (
        *(count(side, labels, pairs) for side, labels in verdicts for pairs in (own, other)),
        int(found.intact.sum()),
    )


def choices(model: str, sites: Sequence[Site], pairs: bool) -> dict[str, list[Site]]:
    """Which sites of an embedded model are changed, by what a row is called."""
    short = {site.name: f"`{site.name.split('.transformer')[0][5:]}`" for site in sites}
    found = {"none": [], **{short[site.name]: [site] for site in sites}}
    if pairs:
        found |= {f"{short[a.name]} and {short[b.name]}": [a, b] for a, b in combinations(sites, 2)}
    blocks = dict.fromkeys(
        part for site in sites for part in (site.name.split(".attentions")[0], site.name.split(".")[1])
    )
    for block in (block.removeprefix("unet.") for block in blocks):
        inside = [site for site in sites if site.name.startswith(f"unet.{block}.")]
        if len(inside) > 1:
            found[f"all of `{block}`"] = inside
    chosen = [site for site in sites if site.name in profile_named(model).sae_sites()]
    return found | {
        "the profile's sites": chosen,
        "all others": [s for s in sites if s not in chosen],
        "all": list(sites),
    }


def main(model: str = "emoji", count: int = 32, seed: int = 0, pairs: bool = False) -> None:
    """Print the table.

    Args:
        model: an embedded one.
        count: pictures a row, each of two random pairs of the benchmark.
        seed: of the pairs.
        pairs: a row for every two sites too.
    """
    rng = random.Random(seed)
    own, other = ([(rng.choice(BENCHMARK), rng.choice(STYLES)) for _ in range(count)] for _ in range(2))
    loaded, sampling = Model(load(model)), embedded.sampling(model)
    sites = loaded.sites("unet.*.attn2")
    harvest = HarvestConfig(tuple(site.name for site in sites), sampling["steps"], sampling["guidance"])
    steps = [step.states for step in capture(loaded, [caption(*pair) for pair in other], range(count), harvest)]
    recordings = {site.name: [states[site.name] for states in steps] for site in sites}
    print(
        f"| of {count} pictures, with the other prompt's output at | own object | other's | own style | other's | intact |"
    )
    print("|---|---|---|---|---|---|")
    for name, changed in choices(model, sites, pairs).items():
        with ExitStack() as stack:
            for site in changed:
                stack.enter_context(patched(site, recordings[site.name]))
            cells = shown(model, pictures(loaded, own, model), own, other)
        print(f"| {name} | {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
