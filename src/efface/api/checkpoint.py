"""efface.audit_checkpoint: did a fine-tuned checkpoint forget, or does it only fool the judge?

Base and candidate draw the same prompts from the same seeds. What a harmless change does (another precision, one more step, a
little training on the base's own pictures) says how far apart two pictures may be that look the same; of those pairs the judge
must not lose more than an independent one ("Embedding hidden adversarial capabilities in pre-trained diffusion models", Beerens
and Higham, 2025).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from efface.api.pictures import PictureStore
from efface.api.smoothing import unerased_denoiser
from efface.concepts.sample import Sample
from efface.erasures import attached_to
from efface.errors import UsageError
from efface.io.atomic import write_atomically
from efface.io.digest import sha256_of_tensors
from efface.io.progress import Progress, part, silent
from efface.judges import Judge
from efface.judges.criterion import verdicts_on
from efface.judges.likeness import NearestPictureJudge
from efface.judges.smoothed import SmoothedJudge
from efface.metrics.base import Comparison
from efface.metrics.fooling import Fooling, Pairs, fooling, look_the_same, lost
from efface.metrics.pixels import Pixels
from efface.models.losses import denoising_loss
from efface.models.model import Model, Settings
from efface.models.sampling import Sampling
from efface.training.groups import attention_weights
from efface.training.holders import holder
from efface.training.images import draw_concept_images

if TYPE_CHECKING:
    from PIL import Image

HARMLESS = ("bfloat16", "one more step", "fine-tuned")
"""Changes of the base under which its pictures may differ."""
SMOOTHED = 32
"""Lost pictures that the smoothed judge is asked about at most."""


@dataclass(frozen=True)
class CheckpointAudit:
    """What an audit of a checkpoint found."""

    candidate: Fooling
    harmless: dict[str, Fooling]
    """The same statistics of each harmless change of the base, none of which should be flagged."""
    judge: str
    second: str
    """Name of the independent judge."""
    sigma: float
    samples: int
    seconds: float

    @property
    def verdict(self) -> str:
        """A sentence."""
        false = [name for name, found in self.harmless.items() if found.flagged]
        broken = f"; the audit is broken: it flags {', '.join(false)} of the base itself, too" if false else ""
        who = "the candidate " if self.candidate.flagged else ""
        return f"{who}{self.candidate}{broken}"

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary."""
        return asdict(self) | {
            "candidate": self.candidate.to_json(),
            "harmless": {name: found.to_json() for name, found in self.harmless.items()},
            "verdict": self.verdict,
            "suspect": self.candidate.suspect,
            "flagged": self.candidate.flagged,
        }

    def save(self, folder: str | Path) -> None:
        """Write `checkpoint.json` into a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(folder) / "checkpoint.json", json.dumps(self.to_json(), indent=1).encode())


def audit_checkpoint(
    base: Any,
    candidate: Any,
    samples: Sequence[Sample],
    *,
    judge: Judge,
    second: Judge | None = None,
    sigma: float = 0.12,
    sampling: Sampling = Sampling(),
    comparison: Comparison | None = None,
    fine_tune: int = 20,
    folder: str | Path | None = None,
    progress: Progress = silent,
) -> CheckpointAudit:
    """Compare a candidate checkpoint with its base, picture by picture.

    Args:
        base: the pipeline before it was changed.
        candidate: the changed one.
        samples: prompts, seeds and, first of what each shows, a class of the judge.
        judge: whose verdicts may have been fooled.
        second: an independent judge; by default the class of the nearest of the base's own pictures in small pixels.
        sigma: noise of the smoothed judge, which denoises by the base.
        sampling: how every picture is drawn.
        comparison: distance of two pictures; by default the mean difference of colours.
        fine_tune: iterations of the harmless training; 0 leaves it out.
        folder: pictures are kept there; an audit that was stopped goes on.
        progress: told the share that is done and a line about it.

    Raises:
        UsageError: no samples, a sample without a class, or a judge that does not know a class.
    """
    began = time.perf_counter()
    comparison = comparison or Pixels()
    shown = _require_samples(judge, second, samples)
    pictures = None if folder is None else Path(folder) / "pictures"
    model, settings = Model(base), sampling.settings(base)
    plain = PictureStore(model, settings, pictures).draw(samples, progress=part(progress, 0.0, 0.2, "base"))
    other = PictureStore(Model(candidate), settings, pictures and pictures / weights_digest(candidate))
    changed = other.draw(samples, progress=part(progress, 0.2, 0.4, "candidate"))
    versions = harmless_versions(model, samples, settings, fine_tune, pictures, part(progress, 0.4, 0.85))
    distances = {name: [float(d) for d in comparison(plain, version)] for name, version in versions.items()}
    denoise = unerased_denoiser(base, sigma, [sample.prompt for sample in samples])
    panel = _Panel(
        plain=plain,
        shown=shown,
        null=[distance for some in distances.values() for distance in some],
        judge=judge,
        second=second,
        smoothed=SmoothedJudge(judge, denoise, sigma, guesses=20, count=60),
    )
    audit = CheckpointAudit(
        candidate=panel.judged(changed, [float(d) for d in comparison(plain, changed)]),
        harmless={name: panel.judged(images, distances[name]) for name, images in versions.items()},
        judge=judge.name,
        second=panel.nearest.name if second is None else second.name,
        sigma=sigma,
        samples=len(samples),
        seconds=round(time.perf_counter() - began, 1),
    )
    progress(1.0, "judged")
    if folder is not None:
        audit.save(folder)
    return audit


class _Panel:
    """Three judges of pictures that are compared with the base's.

    Args:
        plain: the base's pictures.
        shown: what each should show.
        null: distances of harmless versions from them.
        judge: whose verdicts may have been fooled.
        second: an independent one; the nearest of the base's pictures where there is none.
        smoothed: the first one behind noise and denoiser.
    """

    def __init__(
        self,
        plain: list[Image.Image],
        shown: list[str],
        null: Sequence[float],
        *,
        judge: Judge,
        second: Judge | None,
        smoothed: SmoothedJudge,
    ):
        self.shown, self.null = shown, null
        self.judge, self.second, self.smoothed = judge, second, smoothed
        self.nearest = NearestPictureJudge(plain, shown)
        self.base = self.by_first(plain)
        self.second_base = self.by_second(plain)

    def by_first(self, images: Sequence[Image.Image]) -> list[bool]:
        """Whether the judge knows what each should show."""
        return [verdict.shown for verdict in verdicts_on(self.judge, images, self.shown)]

    def by_second(self, images: Sequence[Image.Image]) -> list[bool]:
        """Whether the independent one does."""
        if self.second is not None:
            return [verdict.shown for verdict in verdicts_on(self.second, images, self.shown)]
        found = self.nearest.judge_others(images, range(len(images)))
        return [label == name for label, name in zip(found.labels, self.shown, strict=True)]

    def judged(self, images: list[Image.Image], distances: Sequence[float]) -> Fooling:
        """Some version's pictures, at their distances from the base's."""
        pairs = Pairs(
            distances=distances,
            base=self.base,
            candidate=self.by_first(images),
            second_base=self.second_base,
            second_candidate=self.by_second(images),
        )
        same, _ = look_the_same(distances, self.null)
        some = lost(pairs, same)[:SMOOTHED]
        again = verdicts_on(self.smoothed, [images[i] for i in some], [self.shown[i] for i in some])
        return fooling(pairs, self.null, [verdict.shown for verdict in again])


def harmless_versions(
    model: Model, samples: Sequence[Sample], settings: Settings, fine_tune: int, folder: Path | None, progress: Progress
) -> dict[str, list[Image.Image]]:
    """Pictures of the base under every harmless change, by its name; arguments as of `audit_checkpoint`."""
    steps = settings.get("steps", 50)
    longer = PictureStore(model, {**settings, "steps": steps + 1}, folder)
    versions = {HARMLESS[1]: longer.draw(samples, progress=part(progress, 0.0, 0.3, HARMLESS[1]))}
    with in_bfloat16(model.pipeline):
        rounded = PictureStore(model, settings, folder and folder / HARMLESS[0])
        versions[HARMLESS[0]] = rounded.draw(samples, progress=part(progress, 0.3, 0.6, HARMLESS[0]))
    if fine_tune:
        with fine_tuned(model, samples, settings, fine_tune) as trained:
            tuned = PictureStore(model, settings, folder and folder / trained)
            versions[HARMLESS[2]] = tuned.draw(samples, progress=part(progress, 0.6, 1.0, HARMLESS[2]))
    return versions


def weights_digest(pipeline: Any) -> str:
    """Of every weight, the autoencoder's too, and every attached erasure: a fingerprint does not tell a small change."""
    attached = [sha256_of_tensors(one.erasure.tensors()) for one in attached_to(pipeline)]
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}
    weights = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.state_dict().items()}
    return hashlib.sha256("".join([sha256_of_tensors(weights), *attached]).encode()).hexdigest()[:16]


def _require_samples(judge: Judge, second: Judge | None, samples: Sequence[Sample]) -> list[str]:
    """What each sample shows; raises UsageError where that or a judge does not serve."""
    if not samples:
        raise UsageError("there is nothing to draw: give prompts that name classes of the judge.")
    shown = [sample.concept for sample in samples]
    named = [name for name in shown if name is not None]
    if len(named) < len(samples):
        raise UsageError(
            f"the sample {samples[shown.index(None)].prompt!r} does not say what it shows: name a class of the judge."
        )
    for one in (judge, second):
        unknown = [name for name in named if one is not None and name not in one.classes]
        if one is not None and unknown:
            raise UsageError(
                f"the judge {one.name} has no class {unknown[0]!r}: its right and wrong cannot be counted, give one that has."
            )
    return named


def named_samples(prompts: Sequence[str], judge: Judge, seeds: range) -> list[Sample]:
    """Samples of prompts, each with the longest class of the judge that stands in it.

    Raises:
        UsageError: a prompt names no class.
    """
    samples = []
    for prompt in prompts:
        classes = sorted((name for name in judge.classes if name.lower() in prompt.lower()), key=len)
        if not classes:
            raise UsageError(f"the prompt {prompt!r} names no class of the judge {judge.name}: expected one that does.")
        samples += [Sample(prompt, seed, shows=(classes[-1],)) for seed in seeds]
    return samples


@contextmanager
def in_bfloat16(pipeline: Any) -> Iterator[None]:
    """Networks compute in bfloat16 where PyTorch has it, their weights stay as they are."""
    device = next(Model(pipeline).networks()[0].module.parameters()).device
    with torch.autocast(device.type, dtype=torch.bfloat16):
        yield


@contextmanager
def fine_tuned(model: Model, samples: Sequence[Sample], settings: Settings, iterations: int) -> Iterator[str]:
    """The base with a LoRA (rank 4, AdamW 1e-4) trained on some of its own pictures: harmless, and gone afterwards. Gives a digest of
    what was trained."""
    prompts = list(dict.fromkeys(sample.prompt for sample in samples))[:16]
    images = draw_concept_images(model, prompts, len(prompts), settings)
    tuned = holder(attention_weights(model), 4, 0)
    optimiser = torch.optim.AdamW(tuned.parameters, lr=1e-4)
    for step in range(iterations):
        batch = images.batch(4, 0, step)
        text = model.encode([images.prompts[i] for i in batch.members])
        with tuned.active():
            loss = denoising_loss(model, batch.clean, batch.noise, batch.timesteps, text).mean()
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
    with tuned.active():
        yield sha256_of_tensors({str(i): tensor for i, tensor in enumerate(tuned.parameters)})[:16]
