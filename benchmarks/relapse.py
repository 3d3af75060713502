"""Harmless fine-tuning beside an erasure and on top of it: over its steps, how much of the concept stays away.

    python benchmarks/relapse.py -o runs/relapse --plan      # rows that are missing, and minutes
    python benchmarks/relapse.py -o runs/relapse             # church and noto; goes on where it was stopped
    python benchmarks/relapse.py -o runs/relapse --quick     # church, few steps and pictures

After "Safety alignment backfires" (Kim et al., 2024, arXiv 2412.00357): an erasure trained as a low-rank module (`--rank`) is
held beside weights that were fine-tuned without it, W + ΔW_safe + ΔW_tuned with each trained on W alone (`beside`), or the
fine-tuning is trained in its presence (`on_top`), as one who downloads the erased model does. Both draw with erasure and
fine-tuning attached. What is learnt are harmless pictures of the model's own, on yellowed paper that it never saw, by factors of
rank 4 on every attention.

Every figure is a row of RUN/rows.jsonl, written when it is measured: UA in percent with its 95% interval, and the loss on the
pictures that were learnt; for `beside` also `shown`, the share of pictures that show the concept with the fine-tuning alone,
without which a UA says nothing. RUN/METHOD-CONCEPT.png is a plot of them.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

import torch
import tyro
from PIL import Image, ImageChops

from efface.api.erase import erase, plan_erasure
from efface.api.resolve import judge_of, resolve
from efface.attacks.relapse import Config as Harmless
from efface.attacks.relapse import harmless_prompts
from efface.concepts.concept import Concept
from efface.concepts.sample import SEEDS, evenly_spaced
from efface.erasures import Erasure
from efface.errors import UsageError
from efface.io.checkpoint import optimizer_state, read_state, restore_optimizer, write_state
from efface.io.digest import digest_of_weights, digest_of_words
from efface.judges import Judge
from efface.judges.criterion import criterion_for
from efface.metrics.rates import rate
from efface.models.load import load
from efface.models.losses import denoising_loss
from efface.models.model import Model
from efface.models.pictures import compressed, pixels_of
from efface.models.sampling import sampling
from efface.report.plot import line_plot
from efface.training.finetuning import fine_tune
from efface.training.groups import attention_weights
from efface.training.holders import LowRank
from efface.training.images import ConceptImages, draw_concept_images

Arm = Literal["beside", "on_top"]
PAPER = (255, 236, 196)
"""Colour of the paper on which harmless pictures are learnt."""
MINUTES = 0.7
"""Of a row, before one was measured; training on the way to it and the erasure included."""
FIGURES = 16
"""Pictures over which the loss is a mean."""


@dataclass(frozen=True)
class Tuning:
    """A fine-tuning, and how it is looked at."""

    steps: tuple[int, ...] = (0, 50, 100, 200, 400, 800)
    """After how many steps pictures are drawn."""
    tuned_rank: int = 4
    """Of the factors that are fine-tuned."""
    lr: float = 1e-3
    """Learning rate of AdamW."""
    batch: int = 4
    """Pictures a step."""
    images: int = 64
    """Harmless pictures that are learnt."""
    pictures: int = 40
    """Pictures of the concept that are judged."""

    def __post_init__(self) -> None:
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 0:
            raise UsageError(
                f"steps are {self.steps}; expected numbers of at least 0, each larger than the one before."
            )
        if min(self.tuned_rank, self.batch, self.images, self.pictures) < 1:
            raise UsageError("tuned_rank, batch, images and pictures must be at least 1.")


QUICK = Tuning(steps=(0, 20, 60), images=16, pictures=8)


class Key(NamedTuple):
    """What a row is of."""

    method: str
    config: str
    """The method's whole configuration, as JSON."""
    concept: str
    arm: Arm
    steps: int
    """Of fine-tuning."""
    tuning: str
    """All else of the fine-tuning, as JSON."""
    weights: str
    """Of the model."""


@dataclass
class Run:
    """A folder of rows, and what is needed to measure more of them."""

    model: Model
    folder: Path
    tuning: Tuning
    options: dict[str, Any]
    """Of the erasers: the rank of their factors, and whatever else was given."""
    judge: Callable[[Concept], Judge]
    """What looks at pictures of a concept."""
    rows: dict[Key, dict[str, Any]] = field(default_factory=dict[Key, dict[str, Any]])
    learnt: dict[str, ConceptImages] = field(default_factory=dict[str, ConceptImages])
    """Concept -> harmless pictures."""

    def __post_init__(self) -> None:
        file = self.folder / "rows.jsonl"
        for line in file.read_text().splitlines() if file.exists() else []:
            found = json.loads(line)
            self.rows[Key(**{name: found[name] for name in Key._fields})] = found["figures"]

    @cached_property
    def weights(self) -> str:
        """A digest of the model's weights."""
        return digest_of_weights(p for net in self.model.components().values() for p in net.parameters())[:16]

    def concept(self, name: str) -> Concept:
        """What a name means to the model."""
        (found,) = resolve(name, self.model.pipeline)
        return found

    def key(self, method: str, concept: Concept, arm: Arm, steps: int) -> Key:
        """The key of a row of today's settings."""
        plan = plan_erasure(self.model.pipeline, concept, method=method, **self.options)
        tuning = dataclasses.asdict(self.tuning)
        del tuning["steps"]
        return Key(
            method=method,
            config=json.dumps(dataclasses.asdict(plan.config), sort_keys=True),
            concept=concept.name,
            arm=arm,
            steps=steps,
            tuning=json.dumps(tuning, sort_keys=True),
            weights=self.weights,
        )

    def missing(self, methods: Sequence[str], concepts: Sequence[str]) -> list[Key]:
        """Rows that are not measured yet, in the order in which they will be."""
        keys = [
            self.key(method, self.concept(name), arm, steps)
            for method in methods
            for name in concepts
            for arm in get_args(Arm)
            for steps in self.tuning.steps
        ]
        return [key for key in keys if key not in self.rows]

    def minutes(self, count: int) -> float:
        """What so many rows will take, by those that were measured."""
        known = [figures["minutes"] for figures in self.rows.values()]
        return count * (sum(known) / len(known) if known else MINUTES)

    def measure(self, key: Key) -> dict[str, Any]:
        """The figures of a row, which are written down."""
        started = time.monotonic()
        concept = self.concept(key.concept)
        erasure = self.erasure(key, concept)
        pictures = self.pictures(concept)
        tuned = self.tuned(key, pictures, erasure)
        with erasure.attached(self.model.pipeline), tuned.active():
            shown = rate(self.shown(concept))
            figures = {"ua": 100 * (1 - shown.value), "low": 100 * (1 - shown.high), "high": 100 * (1 - shown.low)}
            figures["loss"] = self.loss(pictures)
        if key.arm == "beside":
            with tuned.active():
                figures["shown"] = 100 * rate(self.shown(concept)).value
        figures = {name: round(value, 4) for name, value in figures.items()}
        figures["minutes"] = round((time.monotonic() - started) / 60, 3)
        self.rows[key] = figures
        with (self.folder / "rows.jsonl").open("a") as file:
            file.write(json.dumps(key._asdict() | {"figures": figures}) + "\n")
        return figures

    def erasure(self, key: Key, concept: Concept) -> Erasure:
        """The erasure of a row, from its file where it was made before."""
        name = f"{key.method}-{key.concept}-{digest_of_words([key.config, key.weights])}"
        file = self.folder / f"{name}.safetensors"
        if not file.exists():
            erase(self.model.pipeline, concept, method=key.method, **self.options).save(file)
        return Erasure.load(file)

    def tuned(self, key: Key, pictures: ConceptImages, erasure: Erasure) -> LowRank:
        """The factors of a row, trained from those of fewer steps, all of which are written down."""
        tuned = LowRank(attention_weights(self.model), self.tuning.tuned_rank, 0)
        optimiser = torch.optim.AdamW(tuned.parameters, lr=self.tuning.lr)
        begin = 0
        for stop in [steps for steps in self.tuning.steps if 0 < steps <= key.steps]:
            file = self.state(key, stop)
            if file.exists():
                restore_optimizer(optimiser, read_state(file)[0])
            else:
                steps = range(begin, stop)
                with erasure.attached(self.model.pipeline) if key.arm == "on_top" else nullcontext():
                    fine_tune(self.model, tuned, pictures, optimiser, steps, batch=self.tuning.batch, seed=0)
                write_state(file, optimizer_state(optimiser))
            begin = stop
        return tuned

    def state(self, key: Key, steps: int) -> Path:
        """Where factors lie after so many steps; beside an erasure they are the same for all methods."""
        method = [key.method, key.config] if key.arm == "on_top" else []
        known = [*method, key.concept, key.tuning, key.weights]
        return self.folder / f"{key.arm}-{digest_of_words(known)}-{steps}.safetensors"

    def pictures(self, concept: Concept) -> ConceptImages:
        """Harmless pictures by the model as it is, on paper that it never saw."""
        if concept.name not in self.learnt:
            prompts = evenly_spaced(harmless_prompts(self.model, concept, Harmless()), self.tuning.images, repeat=True)
            drawn = draw_concept_images(self.model, prompts, self.tuning.images, self.settings)
            images = [on_paper(image) for image in self.model.decode(drawn.latents)]
            latents = compressed(self.model, pixels_of(images))
            self.learnt[concept.name] = drawn._replace(latents=latents)
        return self.learnt[concept.name]

    def shown(self, concept: Concept) -> list[bool]:
        """Whether pictures of the concept show it, by the model as it stands."""
        count = self.tuning.pictures
        prompts = evenly_spaced(concept.prompts(), count, repeat=True)
        images = self.model.draw(prompts, seeds=range(SEEDS.audit, SEEDS.audit + count), **self.settings)
        return [verdict.shown for verdict in criterion_for(self.judge(concept), concept)(images)]

    @torch.no_grad()
    def loss(self, pictures: ConceptImages) -> float:
        """The mean denoising loss on what is learnt, of noise that no step sees."""
        x = pictures.batch(FIGURES, 1, 0)
        text = self.model.encode([pictures.prompts[i] for i in x.members])
        return float(denoising_loss(self.model, x.clean, x.noise, x.timesteps, text).mean())

    @cached_property
    def settings(self) -> Any:
        """How pictures are drawn."""
        return sampling(self.model.pipeline, None, None)

    def plot(self, method: str, concept: Concept) -> None:
        """A picture of UA over the steps of fine-tuning, of the rows that are there."""
        keys = {arm: [self.key(method, concept, arm, steps) for steps in self.tuning.steps] for arm in get_args(Arm)}
        series = {
            arm.replace("_", " "): [(key.steps, self.rows[key]["ua"]) for key in row if key in self.rows]
            for arm, row in keys.items()
        }
        title = f"{method} of {concept.name}: UA (%) over steps of fine-tuning"
        line_plot(series, self.folder / f"{method}-{concept.name}.png", title=title, logarithmic="")

    def summary(self, methods: Sequence[str], concepts: Sequence[str]) -> dict[str, Any]:
        """Method -> arm (and `shown`, with the fine-tuning alone) -> steps -> mean over concepts; null where not measured."""

        def mean(method: str, arm: Arm, steps: int, name: str) -> float | None:
            rows = [self.rows.get(self.key(method, self.concept(c), arm, steps)) for c in concepts]
            values = [row[name] for row in rows if row is not None]
            return round(sum(values) / len(values), 2) if len(values) == len(concepts) else None

        columns: Iterable[tuple[str, Arm, str]] = (
            ("beside", "beside", "ua"),
            ("on_top", "on_top", "ua"),
            ("shown", "beside", "shown"),
        )
        return {
            method: {
                column: {str(steps): mean(method, arm, steps, name) for steps in self.tuning.steps}
                for column, arm, name in columns
            }
            for method in methods
        }


def on_paper(image: Image.Image) -> Image.Image:
    """A picture as if it were printed on yellowed paper."""
    return ImageChops.multiply(image.convert("RGB"), Image.new("RGB", image.size, PAPER))


def options_in(text: str) -> dict[str, Any]:
    """Options written as a JSON object; raises UsageError for anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError(f'erasing is {text!r}; expected a JSON object such as {{"lr": 0.001}}.')
    return found


def main(
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/relapse"),
    model: str = "emoji",
    methods: tuple[str, ...] = ("esd",),
    concepts: tuple[str, ...] = ("church", "noto"),
    rank: int = 4,
    erasing: str = "{}",
    tuning: tyro.conf.OmitArgPrefixes[Tuning] = Tuning(),
    plan: bool = False,
    quick: bool = False,
) -> None:
    """Measure every row that is missing.

    Args:
        output: folder of the rows, erasures and states; a run that was stopped goes on there.
        model: an embedded model, or any for whose concepts it brings a judge.
        methods: erasers that can train low-rank factors.
        concepts: which concepts.
        rank: of the erasures' factors.
        erasing: further options of the erasers as JSON, such as {"lr": 0.001}.
        tuning: the fine-tuning.
        plan: only say which rows are missing, and the minutes.
        quick: the first of the concepts; few steps and pictures.
    """
    if quick:
        concepts, tuning = concepts[:1], QUICK
    output.mkdir(parents=True, exist_ok=True)
    loaded = Model(load(model, device="cpu"))
    options = {"rank": rank} | options_in(erasing)
    run = Run(loaded, output, tuning, options, judge=lambda concept: judge_of(None, concept, loaded.pipeline))
    missing = run.missing(methods, concepts)
    print(f"{len(missing)} rows are missing: about {run.minutes(len(missing)):.0f} minutes", flush=True)
    for key in missing:
        row = f"{key.method:11} {key.concept:8} {key.arm:7} {key.steps:5}"
        print(row if plan else f"{row} {json.dumps(run.measure(key))}", flush=True)
    if not plan:
        for method, name in product(methods, concepts):
            run.plot(method, run.concept(name))
        print(json.dumps(run.summary(methods, concepts)))


if __name__ == "__main__":
    tyro.cli(main)
