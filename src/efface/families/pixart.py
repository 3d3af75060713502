"""PixArt-α and PixArt-Σ: T5 states through a caption projection, then cross-attention (arXiv 2310.00426, 2403.04692)."""

from __future__ import annotations

from typing import Any

from diffusers.utils.import_utils import is_bs4_available, is_ftfy_available
from torch import Tensor

from efface.families.base import Projection
from efface.families.layers import apply_without_hooks
from efface.families.networks import TextInput
from efface.families.projections import cross_attentions
from efface.families.text import Text, TokenSpan
from efface.families.transformer import Transformer


class PixArt(Transformer):
    """Keys and values read what the caption projection gives, and there the map acts."""

    name = "pixart"
    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    denoisers = ("PixArtTransformer2DModel",)
    reads_padding = False
    timestep_argument = ("timestep", 2)

    def token_spans(self) -> list[TokenSpan]:
        return [TokenSpan(*self.tokenizer_and_encoder("text_encoder"), self._length, begin=0, clean=self._clean)]

    @property
    def _length(self) -> int:
        return self.default("max_sequence_length") or 120

    def _clean(self, prompt: str) -> str:
        return tidy_caption(self.pipeline, prompt, bool(self.default("clean_caption")))

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        states, mask, _, _ = self.pipeline.encode_prompt(
            prompts, do_classifier_free_guidance=False, device=self.device, max_sequence_length=self._length,
            clean_caption=bool(self.default("clean_caption")) and can_clean(),
        )  # fmt: skip
        return states, None, mask.bool()

    def text_inputs(self) -> tuple[TextInput, ...]:
        caption = self.network.caption_projection
        return super().text_inputs() if caption is None else (TextInput(caption),)

    def projection_inputs(self, text: Text) -> Tensor:
        caption = self.network.caption_projection
        return text.states if caption is None else apply_without_hooks(caption, text.states)

    def projections(self) -> list[Projection]:
        return cross_attentions("transformer", self.network)

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        sizes: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.network.config.sample_size == 128:
            height, width = (cells * self.pipeline.vae_scale_factor for cells in latents.shape[-2:])
            sizes["resolution"] = latents.new_tensor([[height, width]]).expand(len(latents), 2)
            sizes["aspect_ratio"] = latents.new_tensor([[height / width]]).expand(len(latents), 1)
        output = self.pipeline.transformer(
            latents, encoder_hidden_states=text.states, encoder_attention_mask=text.mask.to(latents.device).long(),
            timestep=self.batch_timestep(timestep, latents), added_cond_kwargs=sizes, return_dict=False,
        )[0]  # fmt: skip
        return without_variance(output, latents)


def without_variance(output: Tensor, latents: Tensor) -> Tensor:
    """The first half of the channels of a model that predicts its variance too."""
    return output if output.shape[1] == latents.shape[1] else output.chunk(2, dim=1)[0]


def tidy_caption(pipeline: Any, prompt: str, thoroughly: bool) -> str:
    """A prompt as a pipeline tidies it: small letters, and with two libraries at hand no web addresses and such."""
    return pipeline._text_preprocessing(prompt, clean_caption=thoroughly and can_clean())[0]


def can_clean() -> bool:
    """Whether the libraries are there with which pipelines clean captions; without them they complain at every call."""
    return is_bs4_available() and is_ftfy_available()
