"""Model: a diffusers pipeline seen through one small interface; the rest of efface asks nothing else of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypedDict, Unpack

import torch
from PIL import Image
from torch import Tensor, nn

from efface.errors import UsageError
from efface.families import Family, Network, Projection, family_of
from efface.families.base import Side, execution_device
from efface.families.drawing import require_settings
from efface.families.embedding import token_table
from efface.families.projections import in_their_groups
from efface.families.schedule import Mixture, mixture, step_options
from efface.families.sites import Site, sites_in
from efface.families.text import Text, TokenSpan, concatenate, said
from efface.io.progress import Step, tell
from efface.models.batches import MOST, in_batches, limits_of, pictures_at_a_time
from efface.models.caller import at_work, in_halves, negative_text
from efface.models.course import FROM_NOISE, Course, Moment, standard_noise
from efface.models.decoding import pictures_of
from efface.models.explained import explained, with_values
from efface.models.precision import in_float32_where_it_fits
from efface.models.tokens import encode_tokens

__all__ = ["Model", "Settings", "Text"]


class Settings(TypedDict, total=False):
    """How pictures are drawn; `Model.denoise` says what each means and takes where it is missing."""

    steps: int
    guidance: float
    negative: str | None
    side: Side


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
    def max_tokens(self) -> int:
        """Most content tokens of a prompt: begin, end and padding left out."""
        return min(span.max_tokens for span in self.family.token_spans())

    @property
    def num_train_timesteps(self) -> int:
        """Timesteps of the noise schedule that the model was trained with."""
        return int(self.pipeline.scheduler.config.num_train_timesteps)

    def text_projections(self) -> list[Projection]:
        """Every matrix that reads text states as they come; raises EffaceError for fused ones."""
        return in_their_groups(self.family.projections(), self.networks())

    def networks(self) -> list[Network]:
        """The networks that text states enter."""
        return self.family.networks()

    def sites(self, pattern: str) -> list[Site]:
        """Modules that an fnmatch pattern names (`families.sites.sites_in`); raises UsageError where it names none."""
        return sites_in(self.networks()[0], pattern, self.family.part_of, self.family.text_encoders())

    def components(self) -> dict[str, nn.Module]:
        """The networks an erasure may edit: denoiser, ControlNets, text encoders."""
        return self.family.components()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str], *, batch: int = 64) -> Text:
        """Encode prompts, `batch` at a time, in the encoder's dtype on its device; what is cut of one is said in a warning."""
        with at_work(self.pipeline), explained(self.family.text_encoders):
            parts = [self.family.text(list(prompts[i : i + batch])) for i in range(0, len(prompts), batch)]
            return with_values(said(concatenate(parts), prompts), self.family.text_encoders)

    @torch.no_grad()
    def encode_in_float32(self, prompts: Sequence[str], *, batch: int = 64) -> Text:
        """Encode prompts as `encode` does, in float32 whatever the precision of the text encoders: what erasures are computed
        from. A half-precision encoder's rounding changes the map that a concept and its anchor give by a tenth and more."""
        return in_float32_where_it_fits(self.family.text_encoders().values(), lambda: self.encode(prompts, batch=batch))

    def token_spans(self) -> list[TokenSpan]:
        """The parts of the token axis, each filled by one tokenizer."""
        return self.family.token_spans()

    def attended_positions(self, text: Text, span: TokenSpan, prompt: int) -> int:
        """Number of positions, from the start of a span, that the denoiser attends to for one prompt of `text`."""
        inside = text.mask[prompt, span.start : span.start + span.length]
        return len(inside) if self.family.reads_padding else int(inside.sum())

    def projection_inputs(self, text: Text) -> Tensor:
        """Text states as the projections read them (batch tokens width)."""
        with torch.no_grad():
            return self.family.projection_inputs(text)

    def token_table(self) -> Tensor:
        """Embedding of every token (vocabulary width), those of several text encoders side by side."""
        return token_table(list(self.family.text_encoders().values()))

    def encode_tokens(
        self, content: Sequence[Sequence[int]], embeddings: Tensor | None = None, *, padded: bool = True
    ) -> Text:
        """Encode prompts given as content tokens, with gradients to their embeddings.

        Args:
            content: ids of each prompt's tokens, without begin, end and padding; several tokenizers share them.
            embeddings: what takes the place of the tokens' own embeddings (batch tokens width), in `token_table`'s width;
                rows of shorter prompts are filled up with anything.
            padded: to the length that the model reads; else to that of the longest prompt, which costs a tenth for short ones.

        Raises:
            EffaceError: a prompt has more tokens than the model reads.
        """
        with at_work(self.pipeline), explained(self.family.text_encoders):
            return encode_tokens(self.family, content, embeddings, padded=padded)

    def truncated(self, prompt: str) -> str:
        """The end of `prompt` that the tokenizer of fewest tokens cuts, "" where it cuts nothing."""
        return min(self.family.token_spans(), key=lambda span: span.max_tokens).truncated(prompt)

    def token_count(self, text: str) -> int:
        """Content tokens of `text` for the first tokenizer."""
        return len(self.family.token_spans()[0].ids(text))

    def predict(self, latents: Tensor, timestep: Tensor, text: Text, *, guidance: float | None = None) -> Tensor:
        """The denoiser's raw output (batch channels height width) at a timestep (0 to 1000); `guidance` matters to
        guidance-distilled models only, which take it as an input."""
        with at_work(self.pipeline), in_halves(False, unless_said=True), explained(self.components):
            return self.family.predict(latents, timestep, text, guidance)

    def guides(self, guidance: float) -> bool:
        """Whether pictures at this guidance are drawn with an unconditional half beside the conditional one."""
        return self.family.guides(guidance)

    def to_noise(self, output: Tensor, latents: Tensor, timestep: Tensor) -> Tensor:
        """The noise ε (batch channels height width) that a raw output implies for noisy latents."""
        return self._mixture(timestep, latents).noise(output, latents)

    def to_clean(self, output: Tensor, latents: Tensor, timestep: Tensor) -> Tensor:
        """The clean latents x₀ (batch channels height width) that a raw output implies for noisy latents."""
        return self._mixture(timestep, latents).clean(output, latents)

    def to_noisy(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """Clean latents with noise added up to a timestep (batch channels height width)."""
        return self._mixture(timestep, clean).noisy(clean, noise)

    def to_output(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """The raw output that is right for clean latents with this noise (batch channels height width)."""
        return self._mixture(timestep, clean).output(clean, noise)

    def _mixture(self, timestep: Tensor, like: Tensor) -> Mixture:
        return mixture(self.pipeline.scheduler, timestep, like)

    def sample(
        self, text: Text, *, seeds: Sequence[int], checked: bool = False, **settings: Unpack[Settings]
    ) -> list[Image.Image]:
        """Draw one picture for each text with the pipeline's own scheduler; arguments as of `denoise` and `decode`."""
        return self.decode(self.latents(text, seeds=seeds, **settings), checked=checked)

    def latents(self, text: Text, *, seeds: Sequence[int], **settings: Unpack[Settings]) -> Tensor:
        """Clean latents of one picture for each text (batch channels h w); arguments as of `denoise`.

        As many pictures are drawn at a time as memory holds.
        """

        def draw(chosen: slice) -> Tensor:
            clean: Tensor | None = None
            for _, latents in self.denoise(text.part(chosen), seeds=seeds[chosen], **settings):
                clean = latents
            if clean is None:
                raise UsageError("the sampler took no steps; expected at least 1.")
            return clean

        shape = self.family.latent_shape(settings.get("side"))
        size = self.pictures_at_a_time(len(seeds), shape, settings.get("guidance", 7.5))
        return torch.cat(in_batches(self.networks()[0].module, "drawing", len(seeds), shape, size, draw))

    def pictures_at_a_time(self, count: int, shape: tuple[int, int, int], guidance: float) -> int:
        """How many of `count` pictures, with latents (channels height width), are drawn together."""
        if count == 1:
            return 1
        halves = 1 + self.guides(guidance)
        device = torch.device(execution_device(self.pipeline))
        return min(count, pictures_at_a_time(self.networks()[0].module, shape, halves, device))

    @torch.no_grad()
    def denoise(
        self,
        text: Text,
        *,
        seeds: Sequence[int],
        steps: int = 50,
        guidance: float = 7.5,
        negative: str | None = None,
        side: Side = None,
        watch: Callable[[Tensor, float], None] | None = None,
        course: Course = FROM_NOISE,
    ) -> Iterator[tuple[float, Tensor]]:
        """The denoising steps of one picture for each text: the timestep that the denoiser saw, and the latents after it
        (batch channels h w).

        Args:
            text: what to draw (batch tokens width).
            seeds: one a picture; the same seed in the pipeline's own call gives the same picture.
            steps: denoising steps.
            guidance: classifier-free guidance scale; 1 or less leaves the unconditional half out.
            negative: prompt of the unconditional half; None is what the pipeline takes for none (SDXL: zeros).
            side: pixels of each side, or width and height; the model's own by default.
            watch: called before each step with the noisy latents as the denoiser reads them and the timestep.
            course: where it begins and how steps are taken; from noise and by the scheduler by default.

        Raises:
            EffaceError: the pipeline's own call takes more than text, or is not known to draw the same.
        """
        self.family.require_drawable()
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        guided = self.guides(guidance)
        # Each picture has its own generator, on the CPU, so that it depends neither on its neighbours nor on the device.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        latents = standard_noise(self.family.latent_shape(side), generators)
        latents = latents.to(text.states.device, self.family.latent_dtype(text.states))
        if guided:
            text = concatenate([self.encode_negative(negative).repeat(len(seeds)), text])
        else:
            self.family.check_unguided(negative)
        self.family.set_timesteps(scheduler, steps, latents)
        timesteps = course.timesteps(scheduler)
        latents = course.begin(scheduler, latents)
        options = step_options(scheduler, generators, self.family.default("eta"))
        for number, timestep in enumerate(timesteps, len(scheduler.timesteps) - len(timesteps)):
            read = course.read(scheduler, latents, timestep)
            if watch:
                watch(read, float(timestep))
            with in_halves(guided, guidance=guidance, negative=negative, picture=generators, last=float(timesteps[-1])):
                output = self.predict(torch.cat([read, read]) if guided else read, timestep, text, guidance=guidance)
            if guided:
                output = self.family.guide(*output.chunk(2), guidance)
            latents = course.step(scheduler, output, Moment(number, timestep, read, latents, options))
            tell(Step(number=number + 1, steps=len(scheduler.timesteps), pictures=len(latents)))
            yield float(timestep), latents

    @torch.no_grad()
    def encode_negative(self, prompt: str | None) -> Text:
        """The unconditional half (one prompt); None is what the pipeline takes where no negative prompt is given."""
        with at_work(self.pipeline), negative_text():
            return said(self.family.negative(prompt), [prompt or ""])

    @torch.no_grad()
    def decode(self, latents: Tensor, *, checked: bool = False) -> list[Image.Image]:
        """Pictures of scaled latents (batch channels height width), decoded few at a time.

        `checked` has the pipeline's safety checker, where it has one, blacken what it finds, as in its own call; otherwise
        pictures are as the model draws them. Both are said in a warning.
        """
        return pictures_of(self.family, latents, checked=checked)

    def draw(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        batch: int | None = None,
        checked: bool = True,
        **settings: Unpack[Settings],
    ) -> list[Image.Image]:
        """Pictures as the pipeline's own call draws them (one seed a prompt).

        Args:
            prompts: what to draw.
            seeds: one a picture.
            batch: most pictures drawn together; by default as memory allows.
            checked: whether the pipeline's safety checker looks at them, as of `decode`.
            **settings: as of `denoise`.

        Raises:
            UsageError: the call's option is none of efface's.
            EffaceError: as `denoise`.
        """
        require_settings(settings, (*Settings.__annotations__, "watch"))
        pictures = []
        batch = batch or limits_of(self.networks()[0].module).named or MOST
        for i in range(0, len(prompts), batch):
            text = self.encode(prompts[i : i + batch])
            pictures += self.sample(text, seeds=seeds[i : i + batch], checked=checked, **settings)
        return pictures
