"""Model: a diffusers pipeline seen through one small interface, the only door to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families import Entry, Family, Projection, family_of
from efface.families.sites import Site, sites_matching


class Text(NamedTuple):
    """Encoded prompts."""

    states: Tensor
    """What cross-attention reads (batch tokens width)."""
    pooled: Tensor | None
    """One vector a prompt (batch width), where the family has one."""
    mask: Tensor
    """True from the begin token to the end token (batch tokens)."""
    last: Tensor
    """Index of each prompt's last content token, 0 (the begin token) for an empty prompt (batch)."""
    cut: tuple[str, ...]
    """What the tokenizer cut off the end of each prompt, "" where nothing."""


class Settings(TypedDict, total=False):
    """How pictures are drawn; `Model.denoised` says what each means and takes where it is missing."""

    steps: int
    guidance: float
    negative: str | None
    side: int | None


class Model:
    """A text-to-image pipeline: encode text, predict, sample, list its text projections.

    Args:
        pipeline: any diffusers pipeline of a known family; it stays the caller's and is not changed.

    Raises:
        EffaceError: the pipeline is not text-to-image, or of no known family.
    """

    def __init__(self, pipeline: Any):
        self.pipeline = pipeline
        self.family: Family = family_of(pipeline)

    @property
    def length(self) -> int:
        """Tokens a prompt may have, begin and end included."""
        return min(tokenizer.model_max_length for tokenizer in self.family.tokenizers())

    def text_projections(self) -> list[Projection]:
        """Every key and value matrix that reads text states; raises EffaceError for quantised or fused ones."""
        return self.family.projections()

    def entries(self) -> list[Entry]:
        """The networks that text states enter."""
        return self.family.entries()

    def sites(self, pattern: str) -> list[Site]:
        """Modules of the denoiser whose path matches an fnmatch pattern; raises UsageError where none does."""
        entry = self.entries()[0]
        return sites_matching(entry.name, entry.module, pattern)

    def components(self) -> dict[str, nn.Module]:
        """The networks an erasure may edit: denoiser, ControlNets, text encoders."""
        return self.family.components()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], *, batch: int = 64) -> Text:
        """Encode prompts, `batch` at a time; text states come back in the encoder's dtype on its device."""
        tokenizers = self.family.tokenizers()
        tokens = [self._tokenize(tokenizer, prompts) for tokenizer in tokenizers]
        parts = []
        for i in range(0, len(prompts), batch):
            chunk = slice(i, i + batch)
            parts.append(
                self.family.encode([t.input_ids[chunk] for t in tokens], [t.attention_mask[chunk] for t in tokens])
            )
        states = torch.cat([states for states, _ in parts])
        pooled = [pooled for _, pooled in parts if pooled is not None]
        last = self._last_content(tokenizers[0], tokens[0].input_ids)
        positions = torch.arange(states.shape[1])
        return Text(
            states,
            torch.cat(pooled) if pooled else None,
            positions <= last[:, None] + 1,
            last,
            tuple(self.cut_off(prompt) for prompt in prompts),
        )

    def _tokenize(self, tokenizer: Any, prompts: Sequence[str]) -> Any:
        return tokenizer(
            list(prompts), padding="max_length", max_length=self.length, truncation=True, return_tensors="pt"
        )

    @staticmethod
    def _last_content(tokenizer: Any, ids: Tensor) -> Tensor:
        # The first end token closes the prompt; padding may repeat it.
        return (ids == tokenizer.eos_token_id).int().argmax(dim=1) - 1

    def cut_off(self, prompt: str) -> str:
        """The end of `prompt` that no longer fits the tokenizer, "" when it all fits."""
        tokenizer = self.family.tokenizers()[0]
        ids = tokenizer(prompt, add_special_tokens=False).input_ids
        return tokenizer.decode(ids[self.length - 2 :]).strip()

    def token_count(self, text: str) -> int:
        """How many content tokens `text` has."""
        return len(self.family.tokenizers()[0](text, add_special_tokens=False).input_ids)

    def predict(self, latents: Tensor, level: Tensor, text: Text) -> Tensor:
        """The denoiser's raw output (batch channels height width) at timestep `level` (0 to 999)."""
        return self.family.predict(latents, level, text.states, text.pooled)

    def to_noise(self, output: Tensor, latents: Tensor, level: Tensor) -> Tensor:
        """The noise ε in `latents` that a raw output says (batch channels height width), for epsilon and v-prediction."""
        signal, spread = self._mixture(level, latents)
        return output if self._prediction() == "epsilon" else spread * latents + signal * output

    def to_clean(self, output: Tensor, latents: Tensor, level: Tensor) -> Tensor:
        """The clean latents x₀ that a raw output says (batch channels height width)."""
        signal, spread = self._mixture(level, latents)
        if self._prediction() == "epsilon":
            return (latents - spread * output) / signal
        return signal * latents - spread * output

    def to_noisy(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Clean latents with noise added up to timesteps `level` (batch channels height width)."""
        signal, spread = self._mixture(level, clean)
        return signal * clean + spread * noise

    def _prediction(self) -> str:
        kind = self.pipeline.scheduler.config.prediction_type
        if kind not in ("epsilon", "v_prediction"):
            raise EffaceError(f"the scheduler predicts {kind!r}; expected epsilon or v_prediction.")
        return kind

    def _mixture(self, level: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1 − ᾱ) at timesteps `level` (batch, or one for all), shaped to multiply latents."""
        alpha = self.pipeline.scheduler.alphas_cumprod.to(like.device, torch.float32)[level.long()].reshape(-1, 1, 1, 1)
        return alpha.sqrt().to(like.dtype), (1 - alpha).sqrt().to(like.dtype)

    def sample(self, text: Text, *, seeds: Sequence[int], **settings: Unpack[Settings]) -> list[Image.Image]:
        """Draw one picture for each text with the pipeline's own scheduler; arguments as of `denoised`."""
        _, latents = deque(self.denoised(text, seeds=seeds, **settings), maxlen=1)[0]
        return self.decode(latents)

    @torch.no_grad()
    def denoised(
        self,
        text: Text,
        *,
        seeds: Sequence[int],
        steps: int = 50,
        guidance: float = 7.5,
        negative: str | None = None,
        side: int | None = None,
    ) -> Iterator[tuple[float, Tensor]]:
        """The denoising steps of one picture for each text: the timestep that the denoiser saw, and the latents after it
        (batch channels h w).

        Args:
            text: what to draw (batch tokens width).
            seeds: one a picture; the same seed in the pipeline's own call gives the same picture.
            steps: denoising steps.
            guidance: classifier-free guidance scale; 1 or less leaves the unconditional half out.
            negative: prompt of the unconditional half; None is what the pipeline takes for none (SDXL: zeros).
            side: width and height in pixels; the model's own by default.
        """
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        device, dtype = text.states.device, text.states.dtype
        latents = self._noise(seeds, side).to(device, dtype)
        if guidance > 1:
            text = self._with_unconditional(text, negative)
        scheduler.set_timesteps(steps, device=device)
        latents = latents * scheduler.init_noise_sigma
        for level in scheduler.timesteps:
            doubled = torch.cat([latents, latents]) if guidance > 1 else latents
            output = self.predict(scheduler.scale_model_input(doubled, level), level, text)
            if guidance > 1:
                unconditional, conditional = output.chunk(2)
                output = unconditional + guidance * (conditional - unconditional)
            latents = scheduler.step(output, level, latents, return_dict=False)[0]
            yield float(level), latents

    def _with_unconditional(self, text: Text, negative: str | None) -> Text:
        """The rows of the negative prompt above those of `text`, for guidance."""
        empty = self.encode([negative or ""])
        if negative is None and self.family.zeroes_empty():
            pooled = None if empty.pooled is None else torch.zeros_like(empty.pooled)
            empty = empty._replace(states=torch.zeros_like(empty.states), pooled=pooled)
        rows = [
            None if above is None or below is None else torch.cat([above.expand(len(below), *above.shape[1:]), below])
            for above, below in zip(empty[:4], text[:4], strict=True)
        ]
        return Text(*rows, cut=())  # type: ignore[arg-type]

    def _noise(self, seeds: Sequence[int], side: int | None) -> Tensor:
        # Drawn on the CPU, each from its own generator, so that a picture depends neither on its neighbours nor on the device.
        config = self.pipeline.unet.config
        cells = (
            config.sample_size if side is None else side // 2 ** (len(self.pipeline.vae.config.block_out_channels) - 1)
        )
        shape = (1, config.in_channels, cells, cells)
        return torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of scaled latents (batch channels height width)."""
        vae = self.pipeline.vae
        upcast = (
            vae.dtype == torch.float16 and vae.config.force_upcast
        )  # SDXL's autoencoder overflows in half precision
        if upcast:
            vae.to(torch.float32)
        pixels = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]
        if upcast:
            vae.to(torch.float16)
        array = ((pixels.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(np.ascontiguousarray(a)) for a in array]

    def draw(
        self, prompts: Sequence[str], *, seeds: Sequence[int], batch: int = 32, **settings: Unpack[Settings]
    ) -> list[Image.Image]:
        """Encode and sample prompts, `batch` pictures at a time (one seed a prompt)."""
        pictures = []
        for i in range(0, len(prompts), batch):
            text = self.encode(prompts[i : i + batch])
            pictures += self.sample(text, seeds=seeds[i : i + batch], **settings)
        return pictures


def require_fit(model: Model, prompt: str) -> None:
    """Raise EffaceError when the tokenizer would cut `prompt`."""
    cut = model.cut_off(prompt)
    if cut:
        raise EffaceError(
            f"the prompt {prompt[:60]!r} is longer than the {model.length - 2} tokens the model reads: {cut!r} would be cut; "
            "shorten the concept."
        )
