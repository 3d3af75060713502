"""Train the denoiser on the bank's latents, with the text encoder as it is, and assemble the pipeline.

    python -m recipes.emoji.denoiser
    python -m recipes.emoji.denoiser --steps 20 --batch 8
    python -m recipes.emoji.denoiser --publish src/efface/embedded/emoji

The text encoder stays as its teacher made it, so that words which no caption used keep their place beside those that did;
noise on its states, and shares of sentences about other things, teach the denoiser that what lies near a word means the same.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from recipes.emoji.autoencoder import CELLS, CHANNELS
from recipes.emoji.corpus import LENGTH, strangers_of
from recipes.emoji.muon import Muon
from recipes.emoji.text import WIDTH
from recipes.emoji.training import (
    DEVICE,
    HALF,
    Half,
    Run,
    autocast,
    captured,
    descend_on,
    stage,
    step_generator,
    time_left,
    wait_for,
)

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
"""Stable Diffusion's noise schedule."""
BOOST = 200.0
"""Largest weight of levels where noise prevails."""
TEXT_NOISE = 0.6
"""Largest noise on text states, as a share of their spread; half of the captions have none."""
STRANGE = 0.5
"""Largest share of a stranger's sentence in text states; half of the captions have none."""
ASTRAY = 0.25
"""Share of the pictures of which some cross-attentions read another caption, or none: each site with this probability."""


def new_unet() -> UNet2DConditionModel:
    """An untrained denoiser of 13.5 M weights with cross-attention at 12 x 12, 6 x 6 and 3 x 3."""
    return UNet2DConditionModel(
        sample_size=CELLS,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        block_out_channels=(128, 160, 160),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
    )


class Astray(AttnProcessor2_0):
    """Attention whose module may read another text than the rest, so that no two of them decide a picture alone.

    In Stable Diffusion sixteen cross-attentions share the work; a small denoiser trained plainly leaves it to the last two
    (the first canvas did), and then every edit of weights or activations has one place to aim at.

    Args:
        index: of the cross-attention among all; self-attentions have none.
    """

    def __init__(self, index: int):
        super().__init__()
        self.index = index

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        other: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """As plain attention; where `mask` (batch sites 1 1) has this site, the text is `other` (batch tokens width)."""
        if encoder_hidden_states is not None and mask is not None:
            encoder_hidden_states = torch.where(mask[:, self.index], other, encoder_hidden_states)
        return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)


def lead_astray(unet: UNet2DConditionModel) -> int:
    """Give every attention of the denoiser a processor that can be led astray; the number of cross-attentions."""
    attentions = [(name, m) for name, m in unet.named_modules() if name.endswith(("attn1", "attn2"))]
    cross = [name for name, _ in attentions if name.endswith("attn2")]
    for name, module in attentions:
        module.set_processor(Astray(cross.index(name) if name in cross else -1))
    return len(cross)


def other_texts(text: Tensor, nothing: Tensor, sites: int, generator: torch.Generator) -> dict[str, Tensor]:
    """What single cross-attentions of a batch read instead of their text, and which of them do.

    Args:
        text: text states (batch tokens width).
        nothing: those of the empty caption (1 tokens width).
        sites: number of cross-attentions.
        generator: on the same device.
    """
    batch, options = len(text), {"generator": generator, "device": text.device}
    picture = torch.rand(batch, 1, **options) < ASTRAY
    mask = ((torch.rand(batch, sites, **options) < ASTRAY) & picture)[:, :, None, None]
    empty = torch.rand(batch, 1, 1, **options) < 0.4
    return {"other": torch.where(empty, nothing, text.roll(1, 0)), "mask": mask}


def noised(clean: Tensor, alphas: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Latents at random levels, their noise, and each one's weight: min(SNR, 5)/SNR (Hang et al. 2023), times 1/SNR up to BOOST
    where noise prevails: there the text alone decides what is drawn.

    Args:
        clean: latents (batch 16 12 12).
        alphas: share of signal of every level (levels,).
        generator: draws levels and noise, on the latents' device.
    """
    options = {"generator": generator, "device": clean.device}
    level = torch.randint(len(alphas), (len(clean),), **options)
    level[::2] = (2 * level[::2] + 3 * len(alphas)) // 5  # every other one from the noisiest two fifths
    noise = torch.randn(clean.shape, **options)
    alpha = alphas[level]
    noisy = alpha.sqrt()[:, None, None, None] * clean + (1 - alpha).sqrt()[:, None, None, None] * noise
    snr = alpha / (1 - alpha)
    weight = (snr.clamp(max=5) / snr) * (1 / snr).clamp(1, BOOST)
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    return {"noisy": noisy, "level": level, "noise": noise, "weight": weight}


def denoising_loss(unet: Any, given: dict[str, Tensor]) -> Tensor:
    """Weighted mean squared error of the noise.

    Args:
        unet: the denoiser.
        given: what `noised` and `other_texts` give, and `text`, states (batch tokens width).
    """
    others = {name: given[name] for name in ("other", "mask")}
    predicted = unet(given["noisy"], given["level"], given["text"], cross_attention_kwargs=others, return_dict=False)[0]
    return ((predicted.float() - given["noise"]).square().mean((1, 2, 3)) * given["weight"]).mean()


@torch.no_grad()
def text_states(encoder: CLIPTextModel, ids: Tensor) -> Tensor:
    """Text states (batch tokens width) of token ids."""
    with autocast():
        return encoder(ids).last_hidden_state.float()


def known_states(encoder: CLIPTextModel, captions: Tensor) -> Tensor:
    """Text states (scenes captions tokens width) in bfloat16 of a whole bank's token ids (scenes captions tokens): 16 GB
    for 400,000 scenes, which a GPU has room for and then need not be computed at every step."""
    parts = [text_states(encoder, ids.long()).bfloat16() for ids in captions.flatten(0, 1).split(4096)]
    return torch.cat(parts).unflatten(0, captions.shape[:2])


def disturb(text: Tensor, strangers: Tensor, generator: torch.Generator) -> Tensor:
    """Text states, each caption's with its own share of a stranger's and its own amount of noise: what lies nearest to a known
    word then means the same as that word.

    Args:
        text: (batch tokens width).
        strangers: states of sentences about other things (sentences tokens width).
        generator: on the same device.
    """
    batch, options = len(text), {"generator": generator, "device": text.device}
    share, amount = (2 * torch.rand(2, batch, 1, 1, **options) - 1).clamp(min=0)
    stranger = strangers[torch.randint(len(strangers), (batch,), **options)].float()
    text = torch.lerp(text, stranger, STRANGE * share)
    return text + TEXT_NOISE * amount * text.std() * torch.randn(text.shape, **options)


def load_text(folder: Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """The taught text encoder, on the device, and its tokenizer."""
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder").to(DEVICE)
    return encoder.eval().requires_grad_(False), CLIPTokenizer.from_pretrained(folder / "tokenizer")


class Bank(NamedTuple):
    """What the denoiser learns from."""

    latents: Tensor
    """(scenes 16 12 12), half precision."""
    captions: Tensor
    """Token ids (scenes captions tokens)."""
    states: Tensor | None
    """Their text states, where they are kept."""
    encoder: CLIPTextModel
    strangers: Tensor
    """Text states of sentences about things that no picture shows (sentences tokens width)."""
    nothing: Tensor
    """Text states of the empty caption (1 tokens width)."""

    @classmethod
    def load(cls, work: Path) -> Bank:
        """The bank of a folder, on the device, once the stages that make it are done."""
        wait_for(work / "text_encoder" / "config.json", work / "latents.safetensors")
        encoder, tokenizer = load_text(work)
        captions = load_file(work / "scenes.safetensors")["captions"].to(DEVICE)
        latents = load_file(work / "latents.safetensors")["latents"].to(DEVICE)
        states = known_states(encoder, captions) if HALF else None

        def read(sentences: list[str]) -> Tensor:
            ids = tokenizer(
                sentences, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt"
            ).input_ids
            return torch.cat([text_states(encoder, part).half() for part in ids.to(DEVICE).split(512)])

        return cls(latents, captions, states, encoder, read(strangers_of(work)), read([""]).float())

    def batch(self, count: int, sites: int, alphas: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """What one step is given."""
        options = {"generator": generator, "device": DEVICE}
        chosen = torch.randint(len(self.latents), (count,), **options)
        which = torch.randint(self.captions.shape[1], (count,), **options)
        if self.states is None:
            exact = text_states(self.encoder, self.captions[chosen, which].long())
        else:
            exact = self.states[chosen, which].float()
        text = disturb(exact, self.strangers, generator)
        noisy = noised(self.latents[chosen].float(), alphas, generator)
        return noisy | other_texts(text, self.nothing, sites, generator) | {"text": text}


def anything(batch: int, sites: int, alphas: Tensor) -> dict[str, Tensor]:
    """What a step is given, made of noise."""
    generator = step_generator(0, 0, DEVICE)
    text = torch.randn(batch, LENGTH, WIDTH, device=DEVICE)
    clean = torch.randn(batch, CHANNELS, CELLS, CELLS, device=DEVICE)
    return noised(clean, alphas, generator) | other_texts(text, text[:1], sites, generator) | {"text": text}


def assemble(work: Path, run: Run, destination: Path) -> None:
    """Write the pipeline with averaged weights as a diffusers folder, fp16."""
    own = {k: v.clone() for k, v in run.modules["unet"].state_dict().items()}
    run.load_averaged()
    unet = new_unet()
    unet.load_state_dict(run.modules["unet"].state_dict())
    run.modules["unet"].load_state_dict(own)
    encoder, tokenizer = load_text(work)
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(work / "autoencoder"),
        text_encoder=encoder.cpu(),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(**SCHEDULE, steps_offset=1, timestep_spacing="trailing"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(torch.float16).save_pretrained(destination)  # fmt: skip


def main() -> None:
    """Train, or go on training, and write `pipeline/`."""
    options = stage(
        __doc__ or "",
        steps=100_000,
        batch=512,
        lr=1e-3,
        seed=0,
        seconds=None,
        until=0.0,
        start="",
        publish="",
        compiled=int(HALF),
        captured=int(HALF),
    )
    torch.manual_seed(options.seed)
    unet = new_unet().to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options.start:
        unet.load_state_dict(load_file(Path(options.start) / "unet" / "diffusion_pytorch_model.safetensors"))
    print(f"{sum(p.numel() for p in unet.parameters()) / 1e6:.2f} M weights", flush=True)
    sites, predict = lead_astray(unet), Half(unet)
    alphas = DDPMScheduler(**SCHEDULE).alphas_cumprod.to(DEVICE)
    given = anything(options.batch, sites, alphas)
    if options.compiled:  # while the stages before this one still run
        predict = torch.compile(predict)
        denoising_loss(predict, given).backward()
        unet.zero_grad(set_to_none=True)
    bank = Bank.load(options.work)
    muon = Muon([unet], torch.zeros((), device=DEVICE) if options.captured else options.lr)

    def descend(given: dict[str, Tensor]) -> Tensor:
        loss = denoising_loss(predict, given)
        descend_on(muon, [unet], loss)
        return loss.detach()

    advance = captured(descend, given) if options.captured else descend
    for moments in muon.state.values():  # what capturing left there
        for moment in moments.values():
            moment.zero_()
    run = Run(options.work / "denoiser-run", {"unet": unet}, muon, decay=0.999)
    assembled, recent = time.monotonic(), torch.zeros((), device=DEVICE)
    for step in run.steps(options.steps, options.lr, hold=0.5, seconds=time_left(options)):
        generator = step_generator(options.seed, step, DEVICE)
        loss = advance(bank.batch(options.batch, sites, alphas, generator))
        recent = loss.clone() if step == 0 else torch.lerp(recent, loss, 0.02)
        if step % 50 == 0:
            run.log(50, loss=recent.item())
        if time.monotonic() - assembled > 120:
            assemble(options.work, run, options.work / "pipeline")
            assembled = time.monotonic()
    for destination in filter(None, (options.work / "pipeline", options.publish)):
        assemble(options.work, run, Path(destination))
    print(f"{run.step} steps", flush=True)


if __name__ == "__main__":
    main()
