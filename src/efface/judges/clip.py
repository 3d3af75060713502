"""CLIP from a user's folder: a zero-shot judge of any classes, and the CLIP score of pictures and their prompts.

Sources: CLIP, arXiv 2103.00020; CLIP score, arXiv 2104.08718. The folder is a checkpoint in transformers' form
(`openai/clip-vit-large-patch14`, say), with tokenizer and image processor; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from efface.errors import UsageError
from efface.io.device import best_device
from efface.io.digest import digest_of_folder, digest_of_words
from efface.io.images import chunks
from efface.io.weights import describe
from efface.judges.base import Verdicts
from efface.judges.checkpoint import LOCAL, checkpoint_folder, pretrained, resize_of, unusable

_BATCH = 32


class Clip:
    """The two encoders of a CLIP checkpoint, in float32.

    Args:
        path: of the checkpoint's folder.
        device: the best one present by default.

    Raises:
        EffaceError: there is no such checkpoint in the folder.
    """

    def __init__(self, path: str | Path, device: str | None = None):
        from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

        folder = checkpoint_folder(path, "a CLIP")
        self.device = best_device(device)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
            # The processor by its name: transformers' own choice may be one that needs torchvision.
            self.processor = CLIPImageProcessorPil.from_pretrained(folder, **LOCAL)
            self.model = pretrained(CLIPModel, folder, self.device)
        except Exception as error:
            raise unusable(folder, "CLIP", error) from error
        self.facts = {"weights": digest_of_folder(folder), "resize": resize_of(self.processor)}

    @torch.no_grad()
    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """Unit vectors of pictures, on the CPU (batch width)."""
        seen = []
        for batch in chunks(images, _BATCH):
            pixels = self.processor([i.convert("RGB") for i in batch], return_tensors="pt")["pixel_values"]
            pooled = self.model.vision_model(pixel_values=pixels.to(self.device)).pooler_output
            seen.append(F.normalize(self.model.visual_projection(pooled), dim=1).cpu())
        return torch.cat(seen)

    @torch.no_grad()
    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Unit vectors of prompts, on the CPU (batch width); words beyond CLIP's length (77 tokens) are cut off."""
        length = self.model.config.text_config.max_position_embeddings
        seen = []
        for start in range(0, len(prompts), _BATCH):
            batch = list(prompts[start : start + _BATCH])
            tokens = self.tokenizer(batch, padding=True, truncation=True, max_length=length, return_tensors="pt")
            pooled = self.model.text_model(**tokens.to(self.device)).pooler_output
            seen.append(F.normalize(self.model.text_projection(pooled), dim=1).cpu())
        return torch.cat(seen)


class ClipJudge:
    """Names the class whose prompt is nearest to a picture: softmax of CLIP's scaled cosines.

    Args:
        clip: a loaded CLIP, or the path of its folder.
        classes: at least two.
        template: the prompt of a class, with one "{}".

    Raises:
        EffaceError: there is no such checkpoint in the folder.
        UsageError: fewer than two classes, one of them twice, or a template without "{}".
    """

    detects: bool = False

    def __init__(self, clip: Clip | str | Path, classes: Sequence[str], *, template: str = "a photo of a {}"):
        if len(classes) < 2 or len(set(classes)) < len(classes) or not all(name.strip() for name in classes):
            raise UsageError(f"CLIP was given the classes {', '.join(classes)!r}: expected two or more different ones.")
        if template.count("{}") != 1:
            raise UsageError(f"the template {template!r} must contain '{{}}' once, where the class's name goes.")
        self.clip = clip if isinstance(clip, Clip) else Clip(clip)
        self.classes = tuple(classes)
        prompts = [template.replace("{}", name) for name in classes]
        self.prompts = self.clip.texts(prompts)
        self.scale = float(self.clip.model.logit_scale.exp())
        self.name = describe(
            "clip-zero-shot", **self.clip.facts, prompts=f"{len(prompts)}-{digest_of_words(prompts)}", scores="softmax"
        )

    def __call__(self, images: Sequence[Image.Image]) -> Verdicts:
        """Judge pictures of any size."""
        scores = (self.scale * self.clip.images(images) @ self.prompts.T).softmax(1)
        labels = tuple(self.classes[i] for i in scores.argmax(1).tolist())
        return Verdicts(labels, scores, torch.ones(len(images), dtype=torch.bool))

    def features(self, images: Sequence[Image.Image]) -> Tensor:
        """CLIP's unit vectors of pictures (batch width)."""
        return self.clip.images(images)
