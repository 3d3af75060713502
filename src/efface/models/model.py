"""Model: a diffusers pipeline seen through one small interface, the only door to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families import Entry, Family, Projection, family_of
from efface.families.embedding import given_embeddings, token_table
from efface.families.schedule import Mixture, mixture, scaled_input, step_options
from efface.families.sites import Site, sites_matching
from efface.families.text import Stream, Text, joined

__all__ = ["Model", "Settings", "Text", "require_fit"]


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
        return min(stream.room for stream in self.family.streams()) + 2

    def text_projections(self) -> list[Projection]:
        """Every matrix that reads text states as they come; raises EffaceError for quantised or fused ones."""
        return self.family.projections()

    def entries(self) -> list[Entry]:
        """The networks that text states enter."""
        return self.family.entries()

    def sites(self, pattern: str) -> list[Site]:
        """Modules of the denoiser whose path matches an fnmatch pattern; raises UsageError where none does."""
        entry = self.entries()[0]
        return sites_matching(entry.name, entry.module, pattern, self.family.part_of)

    def components(self) -> dict[str, nn.Module]:
        """The networks an erasure may edit: denoiser, ControlNets, text encoders."""
        return self.family.components()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], *, batch: int = 64) -> Text:
        """Encode prompts, `batch` at a time; text states come back in the encoder's dtype on its device."""
        chunks = [list(prompts[i : i + batch]) for i in range(0, len(prompts), batch)]
        return joined([self.family.text(chunk) for chunk in chunks])

    def streams(self) -> list[Stream]:
        """The stretches of the token axis, each filled by one tokenizer."""
        return self.family.streams()

    def read_positions(self, text: Text, stream: Stream, prompt: int) -> int:
        """How many positions of a stream, from its start, the denoiser attends to for one prompt of `text`."""
        inside = text.mask[prompt, stream.start : stream.start + stream.length]
        return len(inside) if self.family.reads_padding else int(inside.sum())

    def entering(self, text: Text) -> Tensor:
        """Text states as the projections read them (batch tokens width)."""
        with torch.no_grad():
            return self.family.entering(text)

    def token_table(self) -> Tensor:
        """Embedding of every token (vocabulary width), those of several text encoders side by side."""
        return token_table(list(self.family.text_encoders().values()))

    def frame(self, content: Sequence[Sequence[int]]) -> list[Tensor]:
        """Token ids for each tokenizer (batch tokens): begin, the content tokens of a prompt, end, padding.

        Raises:
            EffaceError: a prompt has more tokens than the model reads.
        """
        longest = max(map(len, content), default=0)
        if longest > self.length - 2:
            raise EffaceError(
                f"a prompt of {longest} tokens was given; expected at most the {self.length - 2} the model reads."
            )
        framed = []
        for tokenizer in self.family.tokenizers():
            rows = [[tokenizer.bos_token_id, *row, tokenizer.eos_token_id] for row in content]
            padding = tokenizer.pad_token_id
            framed.append(torch.tensor([row + [padding] * (self.length - len(row)) for row in rows]))
        return framed

    def encode_tokens(self, content: Sequence[Sequence[int]], embeddings: Tensor | None = None) -> Text:
        """Encode prompts given as content tokens, with gradients to their embeddings.

        Args:
            content: ids of each prompt's tokens, without begin, end and padding; several tokenizers share them.
            embeddings: what takes the place of the tokens' own embeddings (batch tokens width), in `token_table`'s width;
                rows of shorter prompts are filled up with anything.

        Raises:
            EffaceError: a prompt has more tokens than the model reads.
        """
        ids = self.frame(content)
        lengths = torch.tensor([len(row) for row in content])
        mask = torch.arange(self.length) <= lengths[:, None] + 1
        encoders = list(self.family.text_encoders().values())
        with nullcontext() if embeddings is None else given_embeddings(encoders, embeddings, lengths):
            states, pooled = self.family.encode(ids, [mask.long()] * len(ids))
        return Text(states, pooled, mask, lengths, ("",) * len(content))

    def cut_off(self, prompt: str) -> str:
        """The end of `prompt` that no longer fits the tokenizer of least room, "" when it all fits."""
        return min(self.family.streams(), key=lambda stream: stream.room).cut_off(prompt)

    def token_count(self, text: str) -> int:
        """How many content tokens `text` has for the first tokenizer."""
        return len(self.family.streams()[0].ids(text))

    def predict(self, latents: Tensor, level: Tensor, text: Text, *, guidance: float | None = None) -> Tensor:
        """The denoiser's raw output (batch channels height width) at timestep `level` (0 to 1000).

        `guidance` matters to guidance-distilled models only, which take it as an input.
        """
        return self.family.predict(latents, level, text, guidance)

    def guides(self, guidance: float) -> bool:
        """Whether pictures at this guidance are drawn with an unconditional half beside the conditional one."""
        return self.family.guides(guidance)

    def to_noise(self, output: Tensor, latents: Tensor, level: Tensor) -> Tensor:
        """The noise ε in `latents` that a raw output says (batch channels height width)."""
        return self._mixture(level, latents).noise(output, latents)

    def to_clean(self, output: Tensor, latents: Tensor, level: Tensor) -> Tensor:
        """The clean latents x₀ that a raw output says (batch channels height width)."""
        return self._mixture(level, latents).clean(output, latents)

    def to_noisy(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Clean latents with noise added up to timesteps `level` (batch channels height width)."""
        return self._mixture(level, clean).noisy(clean, noise)

    def to_output(self, clean: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The raw output that is right for clean latents with this noise (batch channels height width)."""
        return self._mixture(level, clean).output(clean, noise)

    def _mixture(self, level: Tensor, like: Tensor) -> Mixture:
        return mixture(self.pipeline.scheduler, level, like)

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
        watch: Callable[[Tensor, float], None] | None = None,
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
            watch: called before each step with the noisy latents as the denoiser reads them and the timestep.
        """
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        guided = self.guides(guidance)
        # Each picture has its own generator, on the CPU, so that it depends neither on its neighbours nor on the device.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = self._noise(generators, side).to(text.states.device, self.family.latent_dtype(text.states))
        if guided:
            text = joined([self.encode_negative(negative).repeated(len(seeds)), text])
        else:
            self.family.check_unguided(negative)
        self.family.set_timesteps(scheduler, steps, latents)
        latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
        options = step_options(scheduler, generators)
        for level in scheduler.timesteps:
            given = scaled_input(scheduler, torch.cat([latents, latents]) if guided else latents, level)
            if watch:
                watch(given[-len(latents) :], float(level))
            output = self.predict(given, level, text, guidance=guidance)
            if guided:
                output = self.family.guided(*output.chunk(2), guidance)
            latents = scheduler.step(output, level, latents, return_dict=False, **options)[0]
            yield float(level), latents

    @torch.no_grad()
    def encode_negative(self, prompt: str | None) -> Text:
        """The unconditional half (one prompt); None is what the pipeline takes where no negative prompt is given."""
        return self.family.negative(prompt)

    def _noise(self, generators: Sequence[torch.Generator], side: int | None) -> Tensor:
        shape = self.family.latent_shape(side)
        return torch.stack([torch.randn(shape, generator=generator) for generator in generators])

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of scaled latents (batch channels height width)."""
        pixels = self.family.decode(latents)
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
