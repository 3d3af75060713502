"""Stable Diffusion 1.x and 2.x: one CLIP text encoder, a UNet with cross-attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families.base import Family, Network, Projection, Side, cells_of, execution_device, unwrap
from efface.families.drawing import WAY_OUT
from efface.families.layers import class_names
from efface.families.networks import TextInput
from efface.families.projections import cross_attentions
from efface.families.text import Text, TokenSpan, converted

CONDITIONS = {
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "addition_embed_type": "other things than text beside the timestep",
}
"""Entry of a UNet's configuration -> what it takes beside noise and text, where the entry is not None."""

CAUSAL = {"CLIPTextModel", "CLIPTextModelWithProjection", "ClipText"}
"""Text encoders of these pipelines in which a token reads nothing of those that follow it."""


class StableDiffusion(Family):
    """StableDiffusionPipeline and its relatives (img2img, inpaint, ControlNet, the emoji canvas)."""

    name = "stable-diffusion"
    takes_tokens = True
    pipelines = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """Components that read text; a `text_encoder_2` has a `tokenizer_2`."""
    conditions: ClassVar[dict[str, Any]] = {}
    """Entry of CONDITIONS -> the value with which the family draws."""

    @classmethod
    def serves(cls, pipeline: Any) -> bool:
        # Without a text encoder it draws from embeddings, and an erasure acts all the same.
        return hasattr(pipeline, "text_encoder") and reads_text(pipeline)

    def tokenizers(self) -> list[Any]:
        return [tokenizer for tokenizer, _ in self._readers()]

    def text_encoders(self) -> dict[str, nn.Module]:
        found = {name: unwrap(getattr(self.pipeline, name, None)) for name in self.encoders}
        return {name: encoder for name, encoder in found.items() if encoder is not None}

    def _readers(self) -> list[tuple[Any, nn.Module]]:
        """Every text encoder with its tokenizer; raises EffaceError where the pipeline has lost one."""
        names = {name: name.replace("text_encoder", "tokenizer") for name in self.encoders}
        for name in (*names, *names.values()):
            if getattr(self.pipeline, name, None) is None:
                raise EffaceError(f"the pipeline has no {name}, which reads prompts: load it with one.")
        return [(getattr(self.pipeline, names[name]), encoder) for name, encoder in self.text_encoders().items()]

    def token_spans(self) -> list[TokenSpan]:
        length = min(tokenizer.model_max_length for tokenizer in self.tokenizers())
        tokenizer, encoder = self._readers()[0]
        return [TokenSpan(tokenizer, encoder, length, clean=converted(self.pipeline, tokenizer))]

    def text(self, prompts: Sequence[str]) -> Text:
        span = self.token_spans()[0]
        options: dict[str, Any] = {"padding": "max_length", "max_length": span.length, "truncation": True}
        tokens = [
            tokenizer(list(map(converted(self.pipeline, tokenizer), prompts)), return_tensors="pt", **options)
            for tokenizer in self.tokenizers()
        ]
        states, pooled = self.encode([t.input_ids for t in tokens], [t.attention_mask for t in tokens])
        # The first end token closes the prompt; padding may repeat it.
        last = (tokens[0].input_ids == span.tokenizer.eos_token_id).int().argmax(dim=1) - 1
        mask = torch.arange(span.length) <= last[:, None] + 1
        truncated = tuple(span.truncated(prompt) for prompt in prompts)
        return Text(states=states, pooled=pooled, mask=mask, last=last, truncated=truncated)

    def states_at(self, prompts: Sequence[str], positions: Sequence[int]) -> Tensor:
        if not all(CAUSAL & class_names(encoder) for encoder in self.text_encoders().values()):
            return super().states_at(prompts, positions)
        # What follows a token changes nothing of its state; truncation puts the end token after the last that counts.
        length = max(positions) + 1
        options: dict[str, Any] = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        tokens = [
            tokenizer(list(map(converted(self.pipeline, tokenizer), prompts)), max_length=length + 1, **options)
            for tokenizer in self.tokenizers()
        ]
        states, _ = self.encode(
            [t.input_ids[:, :length] for t in tokens], [t.attention_mask[:, :length] for t in tokens]
        )
        return states[range(len(prompts)), list(positions)]

    def encode(self, ids: list[Tensor], masks: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        self._readers()
        encoder, device = self.pipeline.text_encoder, execution_device(self.pipeline)
        # Like the pipeline, pass the mask only to encoders whose config asks for it.
        uses_mask = getattr(unwrap(encoder).config, "use_attention_mask", False)
        return encoder(ids[0].to(device), attention_mask=masks[0].to(device) if uses_mask else None)[0], None

    def networks(self) -> list[Network]:
        networks = {"unet": unwrap(self.pipeline.unet)}
        controls = unwrap(getattr(self.pipeline, "controlnet", None))
        if controls is not None:
            nets = list(getattr(controls, "nets", [controls]))
            names = ["controlnet"] if len(nets) == 1 else [f"controlnet.nets.{i}" for i in range(len(nets))]
            networks |= {name: unwrap(net) for name, net in zip(names, nets, strict=True)}
        # Every UNet and ControlNet of diffusers takes (sample, timestep, encoder_hidden_states).
        return [Network(name, net, (TextInput(net, "encoder_hidden_states", 2),)) for name, net in networks.items()]

    def projections(self) -> list[Projection]:
        projections = []
        for network in self.networks():
            reprojection = getattr(network.module.config, "encoder_hid_dim_type", None)
            if reprojection not in (None, "ip_image_proj"):
                raise EffaceError(
                    f"{network.name} reprojects its text states ({reprojection}): "
                    "text maps need states that reach the key and value matrices unchanged; use a weight-level method."
                )
            projections += cross_attentions(network.name, network.module)
        return projections

    def unmapped_inputs(self) -> list[str]:
        names = []
        if getattr(unwrap(self.pipeline.unet).config, "encoder_hid_dim_type", None) == "ip_image_proj":
            names.append("IP-Adapter's image states")
        return names

    def require_drawable(self) -> None:
        super().require_drawable()
        config = unwrap(self.pipeline.unet).config
        takes = [what for entry, what in CONDITIONS.items() if config.get(entry) != self.conditions.get(entry)]
        reprojection = config.encoder_hid_dim_type  # IP-Adapters set the attribute, not the entry
        if reprojection is not None:
            takes.append("an IP-Adapter's image" if reprojection == "ip_image_proj" else "other text states")
        if config.in_channels != config.out_channels:
            takes.append(f"{config['in_channels'] - config['out_channels']} channels of a picture")
        if any(kind.__name__ == "ConsistencyDecoderVAE" for kind in type(unwrap(self.pipeline.vae)).__mro__):
            raise EffaceError(
                f"the autoencoder draws random numbers of its own, which efface's drawing does not: {WAY_OUT}."
            )
        if takes:
            raise EffaceError(
                f"the UNet takes {takes[0]} beside noise and text, which efface's drawing does not give: {WAY_OUT}."
            )

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, guidance: float | None) -> Tensor:
        return self.pipeline.unet(
            latents, timestep, encoder_hidden_states=text.states, timestep_cond=self.guidance_states(latents, guidance),
            return_dict=False,
        )[0]  # fmt: skip

    def guidance_states(self, latents: Tensor, guidance: float | None) -> Tensor | None:
        """What a UNet that is distilled with guidance (LCM, arXiv 2310.04378) takes for its scale (batch width)."""
        width = unwrap(self.pipeline.unet).config.time_cond_proj_dim
        if width is None:
            return None
        scale = self.standard().guidance if guidance is None else guidance
        scales = torch.full((len(latents),), scale - 1.0)
        return self.pipeline.get_guidance_scale_embedding(scales, embedding_dim=width).to(latents)

    def guides(self, guidance: float) -> bool:
        return super().guides(guidance) and unwrap(self.pipeline.unet).config.time_cond_proj_dim is None

    def latent_shape(self, side: Side) -> tuple[int, int, int]:
        config = self.pipeline.unet.config
        return config.in_channels, *cells_of(side, config.sample_size, self.vae_scale())

    def vae_scale(self) -> int:
        """Pixels of a side for each cell of the latents; the pipeline's own figure where its autoencoder was left out."""
        vae = getattr(self.pipeline, "vae", None)
        return self.pipeline.vae_scale_factor if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)

    def decode(self, latents: Tensor) -> Tensor:
        with self._upcast():
            return super().decode(latents)

    def compress(self, pixels: Tensor) -> Tensor:
        with self._upcast():
            return super().compress(pixels)

    @contextmanager
    def _upcast(self) -> Iterator[None]:
        """The autoencoder in float32 where it overflows in half precision, as SDXL's does."""
        vae = self.pipeline.vae
        upcast = vae.dtype == torch.float16 and vae.config.force_upcast
        if upcast:
            vae.to(torch.float32)
        yield
        if upcast:
            vae.to(torch.float16)


def reads_text(pipeline: Any) -> bool:
    """Whether a pipeline's denoiser is a UNet with cross-attention."""
    unet = unwrap(getattr(pipeline, "unet", None))
    return "UNet2DConditionModel" in class_names(unet) and bool(unet.config["cross_attention_dim"])
