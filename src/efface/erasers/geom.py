"""Geom-Erasing: what a model shows without being asked to is put into words, a concept's word and a new token for each place where
a detector finds it, and these become the negative prompt (Liu et al., 2023, arXiv 2310.05873)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.errors import UsageError
from efface.training.config import Training, Work

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.judges.base import Detection, Detector
    from efface.models.model import Model
    from efface.training.loop import Step


@dataclass(frozen=True)
class Config(Training):
    """Options of Geom-Erasing; where the paper gives no number, they are ours."""

    grid: int = 4
    """Bins of a side; each has a token of its own for every concept."""
    alpha: float = 2.0
    """α, how much heavier places without the concept weigh (paper: above 1)."""
    captions: tuple[str, ...] | None = None
    """Prompts of the pictures on which it trains; by default the concepts' own."""
    labels: tuple[str, ...] | None = None
    """Labels of the detector's boxes that show a concept; all by default."""
    confidence: float = 0.5
    """Least confidence of a box that counts."""
    iterations: int = 1000
    """Training steps."""
    lr: float = 5e-3
    """Learning rate of Adam for the new embeddings."""
    batch: int = 4
    """Pictures a step."""
    images: int = 200
    """Pictures that the model draws first, for the detector to look at."""
    draw_steps: int = 50
    """Sampler steps of those pictures."""
    guidance: float = 7.5
    """Guidance scale of those pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank is not None or self.retain:
            raise UsageError(
                "rank and retain are of methods that change weights, and this one changes none: leave them out."
            )
        if min(self.grid, self.batch, self.images, self.draw_steps) < 1 or not 0 < self.alpha < float("inf"):
            raise UsageError(
                f"grid, batch, images, draw_steps and alpha are {self.grid}, {self.batch}, {self.images}, {self.draw_steps} and "
                f"{self.alpha}; expected at least 1 of each, and a number above 0."
            )

    def work(self, concepts: Sequence[Concept]) -> Work:
        """An output of each picture."""
        return self.each_step(forward=0, back=self.batch, together=self.batch)


PUBLISHED: Mapping[str, Any] = {}
"""The paper's page gives neither grid nor α nor learning rate, and no code was found: these are ours."""


def pictures(concepts: Sequence[Concept], config: Config, *, judged: bool) -> int:
    """Pictures at which the detector looks."""
    return config.images


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """L = w ⊙ |ξ − ε(z, y ⊕ word ⊕ tokens)|², w = T / (K + α (T − K)) at the K of T bins that a box covers and α times that elsewhere;
    new embeddings alone are trained, in the paper's words *model removal*.

    Args:
        model: the model; it stays as it is.
        concepts: what is erased, each by a word of its own.
        config: options.
        judge: a detector (`efface.judges.base.Detector`), such as "nudenet".

    Raises:
        UsageError: there is no detector, or it finds nothing.
        EffaceError: the model has no negative prompt that new tokens can stand in.
    """
    import torch

    from efface.erasures.negative import NegativeText, require_negative
    from efface.judges.base import Detector
    from efface.training.boxes import covered, over_cells, place_weights
    from efface.training.images import draw_concept_images, noised
    from efface.training.new_tokens import NewTokens
    from efface.training.result import trained_erasure
    from efface.training.targets import apart

    require_negative(model)
    if not isinstance(judge, Detector):
        raise UsageError("geom is told by boxes where a concept is: give a detector, such as --judge nudenet.")
    captions = list(config.captions or [prompt for concept in concepts for prompt in concept.prompts()])
    settings: Any = {"steps": config.draw_steps, "guidance": config.guidance, "side": config.side}
    album = draw_concept_images(model, captions, config.images, settings)
    found = torch.stack([
        torch.stack([covered(boxes, image.size, config.grid) for boxes in boxes_of(detections, concepts, config)])
        for image, detections in zip(*_looked_at(model, album.latents, judge), strict=True)
    ])  # fmt: skip
    if not found.any():
        raise UsageError(
            f"the detector found nothing that counts in {config.images} pictures: nothing is there to erase."
        )
    weights = torch.stack([place_weights(bins.any(0), config.alpha) for bins in found])
    held = NewTokens(model, [concept.name for concept in concepts], config.grid**2, config.seed)

    def loss(step: Step) -> Tensor:
        x = album.batch(config.batch, config.seed, step.number)
        z, xi = noised(model, x)
        text = held.text(model, [album.prompts[i] for i in x.members], [found[i].flatten(1) for i in x.members])
        w = over_cells(weights[x.members], *xi.shape[-2:]).to(xi.device)
        return apart(model, step.predict(z, text), xi, z.timestep, config.loss_in, w)

    trained = trained_erasure(model, "geom", concepts, config, held, loss)
    seen = found.flatten(2).any(0)  # places where it was never found have learnt nothing
    return NegativeText(
        provenance=trained.provenance,
        embeddings=trained.deltas["embeddings"][seen.flatten()],
        owner=torch.arange(len(concepts))[:, None].expand_as(seen)[seen],
    )


def boxes_of(detections: Sequence[Detection], concepts: Sequence[Concept], config: Config) -> list[list[Any]]:
    """The boxes of each concept: those of the named labels, else all of a single concept, else those labelled with its name."""
    sure = [found for found in detections if found.score >= config.confidence]
    if config.labels is not None:
        sure = [found for found in sure if found.label in config.labels]
    if len(concepts) == 1:
        return [[found.box for found in sure]]
    return [[found.box for found in sure if found.label.lower() == concept.name.lower()] for concept in concepts]


def _looked_at(model: Model, latents: Tensor, detector: Detector) -> tuple[list[Any], list[list[Detection]]]:
    """Pictures of latents, and what a detector finds in each."""
    images = model.decode(latents)
    return images, detector.detect(images)
