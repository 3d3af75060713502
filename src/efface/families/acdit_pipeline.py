"""The pipeline of a block-wise autoregressive diffusion transformer: text in, pictures drawn block by block."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from efface.errors import UsageError
from efface.families.acdit_network import ACDiTTransformer2DModel, Context
from efface.families.acdit_schedule import LEVELS, BlockwiseFlowMatchEulerScheduler, noise_shares


class ACDiTPipeline(DiffusionPipeline):
    """Draws every block with all steps, remembering the clean blocks before it.

    Args:
        vae: autoencoder of the pictures.
        text_encoder: its last states are what the transformer reads.
        tokenizer: of the text encoder.
        transformer: the denoiser.
        scheduler: of its number of blocks.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        transformer: ACDiTTransformer2DModel,
        scheduler: BlockwiseFlowMatchEulerScheduler,
    ):
        super().__init__()
        self.register_modules(
            vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, transformer=transformer, scheduler=scheduler
        )
        halvings = 0 if vae is None else len(vae.config["block_out_channels"]) - 1
        self.vae_scale_factor = 2**halvings
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)

    @classmethod
    def with_parts_of(cls, model: Path, transformer: Path, *, shift: float = 2.0) -> ACDiTPipeline:
        """A pipeline that reads and decodes as another does, in float32.

        Args:
            model: folder of a pipeline with a CLIP text encoder and an autoencoder.
            transformer: folder of the denoiser's configuration and weights.
            shift: of the scheduler.
        """
        options: Any = {"dtype": torch.float32, "use_safetensors": True}
        network = ACDiTTransformer2DModel.from_pretrained(transformer, low_cpu_mem_usage=False, **options)
        blocks = network.blocks_a_side
        return cls(
            vae=AutoencoderKL.from_pretrained(model / "vae", **options),
            text_encoder=CLIPTextModel.from_pretrained(model / "text_encoder", **options),
            tokenizer=CLIPTokenizer.from_pretrained(model / "tokenizer"),
            transformer=network,
            scheduler=BlockwiseFlowMatchEulerScheduler(blocks, shift, LEVELS * blocks**2),
        )

    def encode_prompt(self, prompts: Sequence[str]) -> Tensor:
        """Text states (batch tokens width)."""
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        return self.text_encoder(ids.input_ids.to(self._execution_device))[0]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 12,
        guidance_scale: float = 4.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        clean_latents: Tensor | None = None,
        clean_blocks: int = 0,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Pictures of prompts.

        Args:
            prompt: one a picture.
            negative_prompt: of the unconditional half; nothing by default.
            height: pixels; the model draws one size.
            width: pixels.
            num_inference_steps: steps of every block.
            guidance_scale: 1 or less leaves the unconditional half out.
            generator: of the noise.
            clean_latents: scaled latents (batch channels height width) whose first blocks are given.
            clean_blocks: how many are.
            output_type: "pil", "np", "pt" or "latent".
            return_dict: whether an output class is returned or a tuple.

        Raises:
            UsageError: no prompt, another size, or as many clean blocks as a picture has.
        """
        if prompt is None:
            raise UsageError("there is no prompt: give one, or several.")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        shape = self._shape(len(prompts), height, width)
        self._guidance_scale = guidance_scale
        text = self.encode_prompt(prompts)
        if self.do_classifier_free_guidance:
            negatives = [negative_prompt or ""] if isinstance(negative_prompt, str | None) else list(negative_prompt)
            negative = self.encode_prompt(negatives)
            text = torch.cat([negative.expand(len(prompts), -1, -1), text])
        device: Any = self._execution_device
        latents = randn_tensor(shape, generator=generator, device=device, dtype=text.dtype)
        latents = self._begun(latents, clean_latents, clean_blocks)
        latents = self._drawn(latents, text, num_inference_steps, clean_blocks)
        if output_type == "latent":
            images: Any = latents
        else:
            decoded = self.vae.decode(latents / self.vae.config["scaling_factor"], return_dict=False)[0]
            images = self.image_processor.postprocess(decoded, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the picture that is drawn has an unconditional half."""
        return self._guidance_scale > 1

    def _shape(self, count: int, height: int | None, width: int | None) -> tuple[int, int, int, int]:
        """Of the latents of so many pictures; raises UsageError for another size than the model draws."""
        config = self.transformer.config
        side = config["sample_size"] * self.vae_scale_factor
        for name, pixels in (("height", height), ("width", width)):
            if pixels not in (None, side):
                raise UsageError(f"the {name} is {pixels} pixels; this model draws {side} x {side}: leave it out.")
        return count, config["in_channels"], config["sample_size"], config["sample_size"]

    def _begun(self, noise: Tensor, clean: Tensor | None, blocks: int) -> Tensor:
        """Noise with the first blocks of a picture in the place of its own."""
        if not blocks:
            return noise
        own = self.transformer.blocks
        if clean is None or not 0 < blocks < own:
            raise UsageError(f"clean_blocks is {blocks}; expected 1 to {own - 1}, and clean_latents that hold them.")
        start = torch.tensor(float(LEVELS * (own - blocks)), device=noise.device)
        share = noise_shares(start, self.transformer.blocks_a_side, noise.shape[-1])
        return torch.lerp(clean.to(noise), noise, share.to(noise))

    def _drawn(self, latents: Tensor, text: Tensor, steps: int, first: int) -> Tensor:
        """Clean latents, the blocks from `first` on drawn."""
        self.scheduler.set_timesteps(steps, device=latents.device)
        context = Context()
        progress: Any = self.progress_bar
        for timestep in progress(self.scheduler.timesteps[first * steps :]):
            given = torch.cat([latents, latents]) if self.do_classifier_free_guidance else latents
            output = self.transformer(given, text, timestep.expand(len(given)), context=context, return_dict=False)[0]
            if self.do_classifier_free_guidance:
                unconditional, conditional = output.chunk(2)
                output = unconditional + self._guidance_scale * (conditional - unconditional)
            latents = self.scheduler.step(output, timestep, latents, return_dict=False)[0]
        return latents
