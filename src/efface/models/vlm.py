"""VisionLanguageModel: a LLaVA of transformers seen through one small interface: its image features, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from efface.errors import EffaceError, UsageError
from efface.io.device import best_device
from efface.models.footprint import Footprint, Touched, sketch_of_network, touched_in
from efface.models.image_sites import ImageSite
from efface.models.likeness import Difference, values_difference
from efface.models.vlm_folder import is_vlm_folder

PROJECTOR = "projector"
"""Name of the site that every LLaVA has: what its language model is given of a picture, before it is projected."""
LAYERS = "vision_tower.layers"
"""What the names of the other sites begin with; the number of the layer follows."""
BATCH = 32
"""Pictures at a time."""
LONGEST = 24
"""Most tokens of an answer."""


class VisionLanguageModel:
    """A LLaVA: a vision tower, a projector, and a language model that answers questions about pictures.

    Args:
        network: transformers' `LlavaForConditionalGeneration`; it stays the caller's, and is not changed.
        processor: its processor; questions are put by its chat template, or as LLaVA-1.5's where it has none.
        name: what it is called in decisions.

    Raises:
        EffaceError: the network is no LLaVA.
    """

    def __init__(self, network: Any, processor: Any, name: str = ""):
        from transformers import LlavaForConditionalGeneration  # slow

        if not isinstance(network, LlavaForConditionalGeneration):
            raise EffaceError(
                f"{type(network).__name__} is no vision-language model that efface knows: expected a LlavaForConditionalGeneration."
            )
        self.network: Any = network
        self.processor = processor
        self.name = name or str(network.config.name_or_path or type(network).__name__)

    @property
    def components(self) -> dict[str, nn.Module]:
        """The networks that a picture passes before the language model."""
        inner = self.network.model
        return {"vision_tower": inner.vision_tower, "multi_modal_projector": inner.multi_modal_projector}

    @property
    def layers(self) -> nn.ModuleList:
        """The layers of the vision tower."""
        tower, count = self.network.model.vision_tower, self.network.config.vision_config.num_hidden_layers
        found = [part for part in tower.modules() if isinstance(part, nn.ModuleList) and len(part) == count]
        if not found:
            raise EffaceError(f"{type(tower).__name__} has no list of {count} layers: name the site {PROJECTOR!r}.")
        return found[0]

    @property
    def last_read(self) -> int:
        """The last layer of the vision tower whose output is read: LLaVA reads hidden state −2, and a state of several layers up to
        the highest; −1 where only embeddings are read."""
        layer = self.network.config.vision_feature_layer
        count = self.network.config.vision_config.num_hidden_layers
        chosen = [layer] if isinstance(layer, int) else list(layer)
        return max(number % (count + 1) for number in chosen) - 1

    @property
    def leading(self) -> int:
        """Tokens of the vision tower in front of the picture's own that the projector is not given: a class token or none."""
        return 1 if self.network.config.vision_feature_select_strategy == "default" else 0

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.network.device

    def sites(self) -> list[ImageSite]:
        """Where image features can be read and edited: the projector's input, and every layer that is read, the last first."""
        layers = [self.site(f"{LAYERS}.{number}") for number in range(self.last_read, -1, -1)]
        return [self.site(PROJECTOR), *layers]

    def site(self, name: str) -> ImageSite:
        """The site of a name.

        Raises:
            UsageError: there is none, or it is a layer whose output no answer depends on.
        """
        if name == PROJECTOR:
            return ImageSite(name, self.network.model.multi_modal_projector, before=True, leading=0)
        start, _, number = name.rpartition(".")
        read = f"expected {PROJECTOR}" + (f" or {LAYERS}.0 to {LAYERS}.{self.last_read}" if self.last_read >= 0 else "")
        if start != LAYERS or not number.isdecimal() or int(number) >= len(self.layers):
            raise UsageError(f"the model has no site {name!r}: {read}.")
        if int(number) > self.last_read:
            layer = self.network.config.vision_feature_layer
            raise UsageError(
                f"{name} changes nothing: of {len(self.layers)} layers the model reads hidden state {layer}, which is what layer "
                f"{self.last_read} gives: {read}."
            )
        return ImageSite(name, self.layers[int(number)], before=False, leading=self.leading)

    @torch.no_grad()
    def features(self, pictures: Sequence[Image.Image], site: ImageSite, *, batch: int = BATCH) -> Tensor:
        """A site's activations of pictures (pictures tokens width) in float32 on the CPU; the language model is not run.

        Raises:
            EffaceError: they are not finite.
            UsageError: there is no picture.
        """
        if not pictures:
            raise UsageError("no picture was given: expected at least one.")
        parts: list[Tensor] = []
        with reading(site, parts):
            for start in range(0, len(pictures), batch):
                images = [picture.convert("RGB") for picture in pictures[start : start + batch]]
                pixels = self.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
                self.network.get_image_features(
                    pixels.to(self.device, self.network.dtype),
                    vision_feature_layer=self.network.config.vision_feature_layer,
                    vision_feature_select_strategy=self.network.config.vision_feature_select_strategy,
                )
        found = torch.cat(parts)
        if not torch.isfinite(found).all():
            raise EffaceError(f"{site.name} gave values that are not finite: check the model's weights and dtype.")
        return found

    def prompt(self, question: str) -> str:
        """A question about one picture as the language model is given it."""
        if self.processor.chat_template:
            content = [{"type": "image"}, {"type": "text", "text": question}]
            turns = [{"role": "user", "content": content}]
            return self.processor.apply_chat_template(turns, add_generation_prompt=True)
        return f"USER: {self.processor.image_token}\n{question} ASSISTANT:"

    @torch.no_grad()
    def answers(
        self, pictures: Sequence[Image.Image], questions: Sequence[str], *, batch: int = BATCH, longest: int = LONGEST
    ) -> list[str]:
        """One answer a question, each about its own picture, by the likeliest token at every step.

        Args:
            pictures: one a question.
            questions: in plain words.
            batch: questions answered together.
            longest: most tokens of an answer.

        Raises:
            UsageError: there are not as many pictures as questions.
        """
        if len(pictures) != len(questions):
            raise UsageError(
                f"{len(questions)} questions were asked of {len(pictures)} pictures: give one picture each."
            )
        found: list[str] = []
        tokenizer = self.processor.tokenizer
        for start in range(0, len(questions), batch):
            images = [picture.convert("RGB") for picture in pictures[start : start + batch]]
            texts = [self.prompt(question) for question in questions[start : start + batch]]
            given = self.processor(images=images, text=texts, padding=True, padding_side="left", return_tensors="pt")
            given = given.to(self.device, self.network.dtype)
            ids = self.network.generate(
                **given, max_new_tokens=longest, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
            said = tokenizer.batch_decode(ids[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
            found += [text.strip() for text in said]
        return found

    def footprint(self) -> Footprint:
        """What an erasure of image features touches: the vision tower, and the projector that reads it."""
        tower, projector = self.components["vision_tower"], self.components["multi_modal_projector"]
        return Footprint(
            family=str(self.network.config.model_type),
            width=int(self.network.config.text_config.hidden_size),
            tensors=touched_in({"multi_modal_projector": projector}),
            encoders={"vision_tower": Touched(sketch_of_network("vision_tower", tower))},
        )

    def difference(self, known: Footprint) -> Difference:
        """In what it differs from the model of which a footprint was taken."""
        own = self.footprint()
        if known.family != own.family:
            return Difference(f"a {own.family} model where a {known.family} model was expected", structural=True)
        shapes = {name: touched.shape for name, touched in own.tensors.items()}
        if shapes != {name: touched.shape for name, touched in known.tensors.items()}:
            return Difference("a projector of other names or shapes", structural=True)
        before = [*known.tensors.values(), *known.encoders.values()]
        after = [*own.tensors.values(), *own.encoders.values()]
        if len(before) != len(after):
            return Difference("other vision towers", structural=True)
        return values_difference([t.sketch for t in before], [t.sketch for t in after])


@contextmanager
def reading(site: ImageSite, parts: list[Tensor]) -> Any:
    """Context in which every picture's features at a site are appended to `parts`, in float32 on the CPU."""

    def keep(states: Tensor) -> None:
        parts.append(states.float().cpu())

    handle = site.hook(keep)._replace(first=False).register()  # behind what edits them
    try:
        yield
    finally:
        handle.remove()


def load_vlm(folder: str | Path, *, dtype: Any = None, device: str | None = None) -> VisionLanguageModel:
    """The vision-language model in a folder that transformers wrote, with its processor.

    Args:
        folder: of the model.
        dtype: of the weights; float32 on the CPU and float16 elsewhere by default.
        device: the best one present by default.

    Raises:
        EffaceError: the folder holds no LLaVA, or no processor.
    """
    from transformers import LlavaForConditionalGeneration, LlavaProcessor  # slow

    chosen = best_device(device)
    named = dtype or (torch.float32 if chosen.type == "cpu" else torch.float16)
    if not is_vlm_folder(Path(folder)):
        raise EffaceError(f"{folder} holds no vision-language model: expected a folder with a LLaVA's config.json.")
    try:
        network: Any = LlavaForConditionalGeneration.from_pretrained(
            str(folder), dtype=named, local_files_only=True, use_safetensors=True
        )
        processor = LlavaProcessor.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise EffaceError(f"the vision-language model in {folder} could not be loaded ({reason}).") from error
    return VisionLanguageModel(network.to(chosen).eval(), processor, str(folder))
