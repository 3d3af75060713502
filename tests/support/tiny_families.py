"""A tiny pipeline of every family beyond Stable Diffusion 1 and 2: real diffusers classes, random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    HunyuanDiT2DModel,
    HunyuanDiTPipeline,
    Lumina2Pipeline,
    Lumina2Transformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionXLImg2ImgPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

import tiny
from efface.families.acdit_network import ACDiTTransformer2DModel
from efface.families.acdit_pipeline import ACDiTPipeline
from efface.families.acdit_schedule import BlockwiseFlowMatchEulerScheduler
from tiny_text import (
    bert,
    bert_tokenizer,
    gemma,
    gemma_tokenizer,
    mistral3,
    qwen3,
    qwen_tokenizer,
    qwen_vl,
    shaken,
    t5,
    t5_tokenizer,
)


@dataclass(frozen=True)
class Case:
    """A family: how its tiny pipeline is built and called."""

    build: Callable[[], Any]
    side: int = 16
    """Pixels of a side."""
    call: dict[str, Any] = field(default_factory=dict)
    """Arguments of the pipeline's own call beside prompt, steps, size, guidance and generator."""
    guidance: str = "guidance_scale"
    """Its argument for guidance."""
    site: str = "transformer.transformer_blocks.0"
    """A module whose output a sparse autoencoder can edit."""
    negative: bool = True
    """Whether its call takes a negative prompt."""
    whole: bool = True
    """Whether it draws whole pictures, of any size; else block by block, of one size."""
    checkpoint: str = ""
    """What the entry stands for, in the table of docs/families.md."""


def vae(blocks: int = 2, shift: float | None = 0.1) -> AutoencoderKL:
    """An autoencoder that halves the side blocks − 1 times."""
    widths = (4,) * (blocks - 1) + (8,)
    return shaken(AutoencoderKL(
        block_out_channels=widths, down_block_types=("DownEncoderBlock2D",) * blocks, layers_per_block=1,
        up_block_types=("UpDecoderBlock2D",) * blocks, latent_channels=4, norm_num_groups=4,
        scaling_factor=1.5, shift_factor=shift,
    ))  # fmt: skip


def flow(**options: Any) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler of flow-matching pipelines."""
    return FlowMatchEulerDiscreteScheduler(**options)


def quiet(pipeline: Any) -> Any:
    """The same pipeline without a progress bar, drawing latents of 8 x 8 cells where its class says how large they are."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.default_sample_size = 8
    return pipeline


def refiner() -> Any:
    """SDXL's refiner with its aesthetic score."""
    tok = tiny.tokenizer(pad="!")
    unet = tiny.unet(
        24, addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=5 * 4 + 24,
        use_linear_projection=True,
    )  # fmt: skip
    return quiet(StableDiffusionXLImg2ImgPipeline(
        vae=tiny.vae(), text_encoder=None, text_encoder_2=tiny.text_encoder(24, tok, projection=True), tokenizer=None,
        tokenizer_2=tok, unet=unet, scheduler=tiny.scheduler("epsilon"), requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False, add_watermarker=False,
    ))  # fmt: skip


def sd3(dynamic: bool = False, with_t5: bool = True) -> Any:
    """Stable Diffusion 3.5 (dual attention in the first block) or 3 with a dynamic shift, with T5 or without."""
    tok = tiny.tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=48, caption_projection_dim=16, pooled_projection_dim=40,
        pos_embed_max_size=16, dual_attention_layers=() if dynamic else (0,), qk_norm=None if dynamic else "rms_norm",
    )  # fmt: skip
    return quiet(StableDiffusion3Pipeline(
        transformer=shaken(transformer), scheduler=flow(use_dynamic_shifting=dynamic, shift=1.0 if dynamic else 3.0),
        vae=vae(), text_encoder=tiny.text_encoder(16, tok, projection=True), tokenizer=tok,
        text_encoder_2=tiny.text_encoder(24, tok, projection=True), tokenizer_2=tok,
        text_encoder_3=t5(48) if with_t5 else None, tokenizer_3=t5_tokenizer() if with_t5 else None,
    ))  # fmt: skip


def flux(dev: bool = True) -> Any:
    """FLUX.1 dev (guidance as an input, dynamic shift) or schnell (neither)."""
    tok = tiny.tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=48, pooled_projection_dim=16, guidance_embeds=dev, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    return quiet(FluxPipeline(
        transformer=shaken(transformer), scheduler=flow(use_dynamic_shifting=dev, shift=3.0 if dev else 1.0), vae=vae(),
        text_encoder=tiny.text_encoder(16, tok), tokenizer=tok, text_encoder_2=t5(48), tokenizer_2=t5_tokenizer(),
    ))  # fmt: skip


def flux2(dev: bool = True) -> Any:
    """FLUX.2 dev (Mistral 3, guidance as an input) or klein (Qwen 3, both halves)."""
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=16, axes_dims_rope=(2, 2, 2, 2), guidance_embeds=dev,
    )  # fmt: skip
    autoencoder = AutoencoderKLFlux2(
        block_out_channels=(4, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1, latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    parts = {
        "scheduler": flow(use_dynamic_shifting=True),
        "vae": shaken(autoencoder),
        "transformer": shaken(transformer),
    }
    if dev:
        return quiet(Flux2Pipeline(text_encoder=mistral3(16, 30), tokenizer=qwen_tokenizer("left"), **parts))
    return quiet(Flux2KleinPipeline(text_encoder=qwen3(16, 27), tokenizer=qwen_tokenizer(), **parts))


def pixart(sigma: bool = False, cells: int = 8) -> Any:
    """PixArt-α or Σ; with 128 cells α takes the resolution as an input, as its largest checkpoint does."""
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=8, num_layers=2, cross_attention_dim=24,
        caption_channels=32, sample_size=cells, norm_num_groups=4, use_additional_conditions=cells == 128,
    )  # fmt: skip
    kind = PixArtSigmaPipeline if sigma else PixArtAlphaPipeline
    return quiet(kind(
        tokenizer=t5_tokenizer(), text_encoder=t5(32), vae=vae(shift=None), transformer=shaken(transformer),
        scheduler=DPMSolverMultistepScheduler(),
    ))  # fmt: skip


def sana() -> Any:
    """Sana with its own kind of autoencoder."""
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=8, cross_attention_dim=16, caption_channels=32,
        sample_size=16, timestep_scale=0.5,
    )  # fmt: skip
    autoencoder = AutoencoderDC(
        latent_channels=4, attention_head_dim=4, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()), scaling_factor=0.7,
    )  # fmt: skip
    return quiet(SanaPipeline(
        tokenizer=gemma_tokenizer(), text_encoder=gemma(32), vae=shaken(autoencoder), transformer=shaken(transformer),
        scheduler=DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    ))  # fmt: skip


def lumina2() -> Any:
    """Lumina-Image 2.0."""
    transformer = Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=2, num_refiner_layers=1,
        num_attention_heads=3, num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 2, 2), axes_lens=(300, 32, 32),
        cap_feat_dim=32,
    )  # fmt: skip
    return quiet(Lumina2Pipeline(
        transformer=shaken(transformer), scheduler=flow(use_dynamic_shifting=True), vae=vae(blocks=4),
        text_encoder=gemma(32), tokenizer=gemma_tokenizer(),
    ))  # fmt: skip


def hunyuandit() -> Any:
    """HunyuanDiT."""
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, patch_size=2, sample_size=8, hidden_size=16,
        num_layers=4, mlp_ratio=2.0, cross_attention_dim=24, cross_attention_dim_t5=32, pooled_projection_dim=16,
        text_len=77, text_len_t5=256,
    )  # fmt: skip
    return quiet(HunyuanDiTPipeline(
        vae=vae(blocks=4, shift=None), text_encoder=bert(24), tokenizer=bert_tokenizer(), text_encoder_2=t5(32),
        tokenizer_2=t5_tokenizer(), transformer=shaken(transformer), safety_checker=None, feature_extractor=None,
        scheduler=DDPMScheduler(prediction_type="v_prediction", clip_sample=False), requires_safety_checker=False,
    ))  # fmt: skip


def qwenimage() -> Any:
    """Qwen-Image."""
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(2, 2, 4),
    )  # fmt: skip
    autoencoder = AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 2.0, 0.5, 1.0],
    )  # fmt: skip
    return quiet(QwenImagePipeline(
        scheduler=flow(use_dynamic_shifting=True), vae=shaken(autoencoder), text_encoder=qwen_vl(32),
        tokenizer=qwen_tokenizer(), transformer=shaken(transformer),
    ))  # fmt: skip


def zimage() -> Any:
    """Z-Image."""
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=16, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=32,
        axes_dims=[4, 2, 2], axes_lens=[512, 64, 64],
    )  # fmt: skip
    return quiet(ZImagePipeline(
        scheduler=flow(use_dynamic_shifting=False, shift=3.0), vae=vae(), text_encoder=qwen3(32),
        tokenizer=qwen_tokenizer(), transformer=shaken(transformer),
    ))  # fmt: skip


def acdit() -> Any:
    """ACDiT with text: four blocks of 2 x 2 tokens."""
    tok = tiny.tokenizer()
    transformer = ACDiTTransformer2DModel(
        sample_size=8, in_channels=4, block_size=2, width=16, num_layers=2, num_attention_heads=2, cross_attention_dim=16,
        inner=32,
    )  # fmt: skip
    return quiet(ACDiTPipeline(
        vae=vae(shift=None), text_encoder=tiny.text_encoder(16, tok), tokenizer=tok, transformer=shaken(transformer),
        scheduler=BlockwiseFlowMatchEulerScheduler(shift=2.0),
    ))  # fmt: skip


def _noise(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


UNBINNED = {"use_resolution_binning": False}
AS_GIVEN = UNBINNED | {"clean_caption": False}
CASES: dict[str, Case] = {
    "sd1": Case(lambda: tiny.stable_diffusion(1), site=tiny.SITE, checkpoint="Stable Diffusion 1.x"),
    "sd2": Case(lambda: tiny.stable_diffusion(2), site=tiny.SITE, checkpoint="Stable Diffusion 2.x"),
    "sdxl": Case(tiny.stable_diffusion_xl, site=tiny.SITE, checkpoint="SDXL"),
    "sdxl-refiner": Case(refiner, site=tiny.SITE, checkpoint="SDXL refiner"),
    "sd3": Case(lambda: sd3(dynamic=True), checkpoint="Stable Diffusion 3"),
    "sd35": Case(sd3, checkpoint="Stable Diffusion 3.5"),
    "flux-dev": Case(flux, negative=False, checkpoint="FLUX.1 dev"),
    "flux-schnell": Case(lambda: flux(dev=False), negative=False, checkpoint="FLUX.1 schnell"),
    "pixart-alpha": Case(pixart, call=AS_GIVEN, checkpoint="PixArt-α"),
    "pixart-sigma": Case(lambda: pixart(sigma=True), call=AS_GIVEN, checkpoint="PixArt-Σ"),
    "sana": Case(sana, side=32, call=UNBINNED, checkpoint="Sana"),
    "lumina2": Case(lumina2, side=64, site="transformer.layers.0", checkpoint="Lumina-Image 2.0"),
    "hunyuandit": Case(hunyuandit, side=64, call=UNBINNED, site="transformer.blocks.1", checkpoint="HunyuanDiT"),
    "flux2-dev": Case(flux2, negative=False, checkpoint="FLUX.2 dev"),
    "flux2-klein": Case(lambda: flux2(dev=False), negative=False, checkpoint="FLUX.2 klein"),
    "qwen-image": Case(qwenimage, guidance="true_cfg_scale", checkpoint="Qwen-Image"),
    "z-image": Case(zimage, site="transformer.layers.0", checkpoint="Z-Image"),
    "acdit": Case(acdit, whole=False, checkpoint="ACDiT with text"),
}
"""Every family that is tested, by a short name."""
WHOLE = tuple(name for name, case in CASES.items() if case.whole)
"""Those that take every kind of erasure."""
_BUILT: dict[str, Any] = {}


def pipeline(name: str) -> Any:
    """The tiny pipeline of a family, built once; tests leave it as they found it."""
    if name not in _BUILT:
        torch.manual_seed(0)
        _BUILT[name] = CASES[name].build()
    return _BUILT[name]


def own_picture(
    name: str, prompt: str, *, seed: int, steps: int, guidance: float, negative: str | None = None, output: str = "pil"
) -> Any:
    """What the pipeline itself draws, as a picture, or as levels of 0 to 1 (height width 3) with `output` "np"."""
    case, pipe = CASES[name], pipeline(name)
    call = dict(case.call) | {case.guidance: guidance, "num_inference_steps": steps}
    call |= {"generator": torch.Generator().manual_seed(seed), "output_type": output}
    if case.negative and (negative is not None or name == "qwen-image"):
        call["negative_prompt"] = " " if negative is None else negative
    if name == "sdxl-refiner":
        # The refiner starts from a picture; noise taken for one starts it where the others start.
        call |= {"image": _noise(seed) * pipe.scheduler.init_noise_sigma, "denoising_start": 1e-4}
    else:
        call |= {"height": case.side, "width": case.side}
    return pipe(prompt=prompt, **call).images[0]
