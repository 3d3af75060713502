"""Image classifiers from a user's folder: any checkpoint for image classification in transformers' form.

`imagenet_judge` expects one of ImageNet (`microsoft/resnet-50`, say) and calls Imagenette's ten classes what the
benchmark calls them; the label is the top one of all thousand (RECE, arXiv 2407.12383).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from efface.concepts.presets import IMAGENETTE
from efface.errors import EffaceError
from efface.io.device import best_device
from efface.io.digest import digest_of_folder
from efface.io.images import chunks
from efface.io.weights import describe
from efface.judges.base import Verdicts
from efface.judges.checkpoint import LOCAL, checkpoint_folder, pretrained, resize_of, unusable

_BATCH = 32


class ClassifierJudge:
    """Names the top class of a picture.

    A class that a checkpoint calls by several names ("gas pump, gasoline pump") goes by the first that no other has.

    Args:
        path: of the checkpoint's folder.
        required: classes that the checkpoint must know; each goes by the name given here.
        device: the best one present by default.

    Raises:
        EffaceError: there is no such checkpoint in the folder, or it does not know a required class.
    """

    detects: bool = False

    def __init__(self, path: str | Path, *, required: Sequence[str] = (), device: str | None = None):
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        folder = checkpoint_folder(path, "an image classifier")
        self.device = best_device(device)
        try:
            self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil", **LOCAL)
            self.model = pretrained(AutoModelForImageClassification, folder, self.device)
        except Exception as error:
            raise unusable(folder, "image classifier", error) from error
        labels = [self.model.config.id2label[i] for i in range(self.model.config.num_labels)]
        self.classes = class_names(labels, required)
        if missing := [name for name in required if name not in self.classes]:
            raise EffaceError(
                f"{folder} knows {len(labels)} classes but not {missing[0]!r}: expected a classifier of ImageNet's 1,000."
            )
        self.name = describe(
            f"classifier-{self.model.config.model_type}",
            weights=digest_of_folder(folder),
            classes=len(labels),
            resize=resize_of(self.processor),
        )

    @torch.no_grad()
    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """Judge pictures of any size."""
        seen = []
        for batch in chunks(images, _BATCH):
            pixels = self.processor([i.convert("RGB") for i in batch], return_tensors="pt")["pixel_values"]
            seen.append(self.model(pixels.to(self.device)).logits.softmax(1).cpu())
        scores = torch.cat(seen)
        labels = tuple(self.classes[i] for i in scores.argmax(1).tolist())
        return Verdicts(labels, scores, torch.ones(len(images), dtype=torch.bool))


def imagenet_judge(path: str | Path, *, device: str | None = None) -> ClassifierJudge:
    """A classifier of ImageNet that knows Imagenette's ten classes by their names in the benchmark."""
    return ClassifierJudge(path, required=IMAGENETTE, device=device)


def class_names(labels: Sequence[str], required: Sequence[str]) -> tuple[str, ...]:
    """One name a label: the required one among its synonyms, else the first that no other label has.

    ImageNet has two cranes and two maillots; the later ones keep all their names.
    """
    wanted = {name.casefold(): name for name in required}
    names: list[str] = []
    for label in labels:
        synonyms = [part.strip() for part in label.split(",")]
        known = [wanted[s.casefold()] for s in synonyms if s.casefold() in wanted]
        names.append(next((name for name in [*known, *synonyms] if name not in names), label))
    return tuple(names)
