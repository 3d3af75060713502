"""Tiny pipelines with random weights, of every family: real diffusers classes, a few thousand weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

WORDS = ("garbage", "truck", "a", "church", "cat", "dog", "in", "noto", "style", "art")
LENGTH = 12


def tokenizer(pad: str = "<|endoftext|>") -> CLIPTokenizer:
    """A byte-level CLIP tokenizer that knows a few words as one token and spells out all others."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [
        "<|startoftext|>",
        "<|endoftext|>",
        "!",
        *(a for a in alphabet if a != "!"),
        *(a + "</w>" for a in alphabet),
    ]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
            tokens.append(pieces[0])
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=list(dict.fromkeys(merges)), pad_token=pad, model_max_length=LENGTH)


def text_encoder(width: int, tok: CLIPTokenizer, projection: bool = False, factor: float = 20.0) -> Any:
    """A CLIP text encoder of two layers, its weights `factor` times the default scale."""
    config = CLIPTextConfig(
        vocab_size=len(tok), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, projection_dim=width, bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id,
    )  # fmt: skip
    # Trained encoders tell words apart by more than the default initial scale of 0.02.
    config.initializer_factor = factor
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()


def unet(width: int, **extra: Any) -> UNet2DConditionModel:
    """A UNet of two blocks, one of them with cross-attention."""
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=width, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=2, **extra,
    ).eval()  # fmt: skip


def vae() -> AutoencoderKL:
    """An autoencoder that halves the side."""
    return AutoencoderKL(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4, norm_num_groups=4, sample_size=16,
    ).eval()  # fmt: skip


def scheduler(prediction: str) -> DDIMScheduler:
    """Stable Diffusion's schedule."""
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=prediction,
    )  # fmt: skip


def stable_diffusion(version: int = 1, seed: int = 0) -> StableDiffusionPipeline:
    """SD 1.x (epsilon, convolutional projections) or 2.x (v-prediction, linear projections)."""
    torch.manual_seed(seed)
    tok = tokenizer() if version == 1 else tokenizer(pad="!")
    width = 16 if version == 1 else 24
    pipeline = StableDiffusionPipeline(
        vae=vae(), text_encoder=text_encoder(width, tok), tokenizer=tok,
        unet=unet(width, use_linear_projection=version == 2),
        scheduler=scheduler("epsilon" if version == 1 else "v_prediction"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def stable_diffusion_xl(seed: int = 0) -> StableDiffusionXLPipeline:
    """SDXL: two tokenizers that pad differently, two text encoders, pooled text.

    Its states come from before the last normalisation: at a factor of 20 they reach 700, and pictures in float32 differ by
    2 of 255 levels from those in float64.
    """
    torch.manual_seed(seed)
    tok, tok_2 = tokenizer(), tokenizer(pad="!")
    pipeline = StableDiffusionXLPipeline(
        vae=vae(), text_encoder=text_encoder(16, tok, factor=5.0),
        text_encoder_2=text_encoder(24, tok_2, projection=True, factor=5.0),
        tokenizer=tok, tokenizer_2=tok_2, scheduler=scheduler("epsilon"),
        unet=unet(40, addition_embed_type="text_time", addition_time_embed_dim=4,
                  projection_class_embeddings_input_dim=6 * 4 + 24, use_linear_projection=True),
        add_watermarker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


PIPELINES = {"sd1": lambda: stable_diffusion(1), "sd2": lambda: stable_diffusion(2), "sdxl": stable_diffusion_xl}


SITE = "unet.mid_block.attentions.0"


def coder_options(pipe: Any, folder: Path) -> dict[str, Any]:
    """Options of the eraser saeuron on a tiny pipeline, with an untrained autoencoder that is written to a folder."""
    from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
    from efface.sae.files import save_sae

    save_sae(SparseAutoencoder(SAEConfig(pipe.unet.mid_block.attentions[0].in_channels, 64, 8)), folder)
    drawn = {"images": 2, "draw_steps": 3, "guidance": 5.0}
    return {"coder": str(folder), "site": SITE, "count": 4, "gamma": -20.0, "gain": "normalised"} | drawn


def anchored_options(pipe: Any, folder: Path) -> dict[str, Any]:
    """The same of the eraser anchored."""
    options = coder_options(pipe, folder)
    return {name: options[name] for name in ("coder", "site", "images", "draw_steps", "guidance")}


def text_options(pipe: Any, folder: Path, latents: int = 256) -> dict[str, Any]:
    """Options of the eraser itd on a tiny pipeline, with untrained autoencoders of all its text encoders."""
    from efface import Model
    from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
    from efface.sae.files import save_sae
    from efface.sae.text_states import TextSites

    model = Model(pipe)
    sites = model.sites("text_encoder*")
    for name, read in TextSites(model, sites).read(["a church", "a cat in noto style"]).items():
        own = read.states[read.own]
        sae = SparseAutoencoder(SAEConfig(own.shape[1], latents, latents // 32))
        with torch.no_grad():  # untrained, but about the states' own mean, so that latents tell prompts apart
            sae.b_dec.copy_(own.mean(0))
        save_sae(sae, folder / name)
    return {"coder": str(folder), "neutral": False, "gain": -8.0}
