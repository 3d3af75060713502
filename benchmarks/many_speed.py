"""Speed of erasing a hundred and a thousand concepts at the text widths of SD 1.4, SDXL and FLUX, and of the prior.

    python benchmarks/many_speed.py            # a few minutes on two cores
    python benchmarks/many_speed.py --quick    # a tenth of the concepts, no true-size text encoder

States are random: rows of ten sentences for each concept, led to three anchors' mean; each concept retains sixteen prompts of
eight rows. Timed is everything after the prior: rows reduced to blocks, moments, the weight's search, the map, gates of a
hundred concepts. The prior is timed on CLIP-L at its true size, with random weights and a vocabulary of as many words. The
gate's share is of a guided call of SD 1.4's denoiser: its operations are counted from its layers.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from torch import Tensor

from efface.closed_form.blocks import compress
from efface.closed_form.chunks import Chunk, Naming
from efface.closed_form.gates import calibrate
from efface.closed_form.many import Many
from efface.closed_form.pooled import map_rows
from efface.closed_form.retention import Near, Retained, unit_gram
from efface.closed_form.system import Retention, Rows, joint_map
from efface.closed_form.weight import weight_for
from efface.concepts.concept import Concept
from efface.erasures import GatedMap, Provenance
from efface.models.fingerprint import Fingerprint


class Size(NamedTuple):
    """A model's text."""

    width: int
    rows: int
    """Rows of a sentence from its last subject token on."""


SD14, SDXL, FLUX = Size(768, 72), Size(2048, 72), Size(4096, 24)
LISTS = {"sd_100_s": (SD14, 100), "sdxl_100_s": (SDXL, 100), "flux_100_s": (FLUX, 100), "sd_1000_s": (SD14, 1000)}
"""Figure -> the model's text, and how many concepts."""
SENTENCES = 10
NEAR = 16 * 8
"""Retained rows of each concept."""
GUIDED_CALL = 2 * 2 * 401.6e9
"""Operations of a guided call of SD 1.4's UNet at 512 x 512: two halves of 401.6 G multiply-adds."""


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sentences(size: Size, number: int) -> tuple[list[Chunk], Tensor]:
    """Chunks of one concept, and rows that it retains."""
    own = randn(1, size.width, seed=3 * number)
    shared = randn(SENTENCES * size.rows, size.width, seed=3 * number + 1)
    c = 3 * own + shared
    t = 3 * randn(1, size.width, seed=3 * number + 2) + shared
    chunks = [Chunk(c=a, t=b, span=0) for a, b in zip(c.split(size.rows), t.split(size.rows), strict=True)]
    return chunks, 3 * randn(NEAR, size.width, seed=-number - 1) + randn(NEAR, size.width, seed=-3)


def prior_gram(width: int) -> Tensor:
    """A second moment with a falling spectrum, of trace 1."""
    rows = randn(4 * width, width, seed=1) * torch.logspace(0, -2, width)
    return unit_gram([rows], width)


def key_value_gram(width: int) -> Tensor:
    """S of random matrices."""
    w = randn(2 * width, width, seed=2).double() / width**0.5
    return w.T @ w


class Timed(NamedTuple):
    """Seconds of one list."""

    linear: float
    gates: float
    rank: int


def erased(size: Size, count: int, prior: Tensor, s: Tensor) -> tuple[Timed, GatedMap | None]:
    """Seconds of an erasure of `count` concepts after the prior, and the gated map of up to a hundred."""
    concepts = [Concept(f"concept {i}") for i in range(count)]
    blocks, namings, near = [], [], []
    seconds = 0.0
    for number in range(count):
        chunks, retained = sentences(size, number)  # in their place the text encoder works
        started = time.perf_counter()
        c = torch.cat([chunk.c for chunk in chunks]).double()
        t = torch.cat([chunk.t for chunk in chunks]).double()
        scale = c.norm(dim=1, keepdim=True) * len(c) ** 0.5
        blocks.append(compress(c / scale, t / scale))
        seconds += time.perf_counter() - started
        namings.append([Naming(name=concepts[number].name, second=False, chunks=chunks if count <= 100 else [])])
        near.append(retained)
    started = time.perf_counter()
    rows = Rows.stack([(block.c, block.t) for block in blocks])
    states = torch.cat(near).half()
    gram = (prior + unit_gram(states.split(8192), size.width)) / 2
    hard = torch.linalg.qr(randn(size.width, 3, seed=8).double())[0]
    retention = Retention(gram=gram, ridge=1e-3 / size.width, hard=hard)
    found = weight_for(rows, retention, s, erase=1 / count)
    joint_map(rows, retention, erase=1 / count, weight=found.weight)
    linear = seconds + time.perf_counter() - started
    if count > 100:
        return Timed(linear, float("nan"), len(rows.c)), None
    started = time.perf_counter()
    kept = Retained(
        retention=retention, near=Near(states, torch.zeros(0), pooled=torch.zeros(0, 1)), prior=None, earlier=()
    )
    many = Many(rows=rows, namings=namings, kept=kept, s=s, found=found, pooled=None)
    gates = calibrate(many, concepts, [states], least=-2.0).gates
    rows_of_maps = map_rows(rows, retention, found.weight)
    origin = Provenance("gated", {}, tuple(concepts), Fingerprint("", size.width, "", (0.0,)))
    made = GatedMap.of(origin, gates, rows_of_maps)
    return Timed(linear, time.perf_counter() - started, len(rows.c)), made


def gate_share(erasure: GatedMap) -> float:
    """Share of a guided call's operations that looking at the gates of both halves takes."""
    gates, width = erasure.gates.weights.shape
    return 2 * 77 * width * (2 * gates + 4) / GUIDED_CALL


def prior_seconds() -> float:
    """Seconds of the prior of CLIP-L at its true size, with random weights and a vocabulary of whole words."""
    import os

    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from efface.closed_form.prior import build_prior
    from efface.models.model import Model

    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [a + b + c for a in letters for b in letters for c in letters][:4000]
    tokens = ["<|startoftext|>", "<|endoftext|>", ",</w>", ",", *letters, *(a + "</w>" for a in letters)]
    pairs = [a + b for a in letters for b in letters]
    merges: Any = [(a, b) for a in letters for b in letters] + [(w[:2], w[2] + "</w>") for w in words]
    vocabulary = [*dict.fromkeys([*tokens, *pairs, *(w + "</w>" for w in words)])]
    tokenizer = CLIPTokenizer(vocab={t: i for i, t in enumerate(vocabulary)}, merges=merges, model_max_length=77)
    config = CLIPTextConfig(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12,
                            num_attention_heads=12, projection_dim=768, bos_token_id=0, eos_token_id=1)  # fmt: skip
    pipeline = tiny_pipeline(StableDiffusionPipeline, CLIPTextModel(config).eval(), tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["EFFACE_CACHE"] = folder
        started = time.perf_counter()
        prior = build_prior(Model(pipeline))
        seconds = time.perf_counter() - started
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
    print(
        f"prior of CLIP-L: {seconds:.1f} s, {len(prior.prompts)} prompts, {len(prior.rows)} rows, {size:,} bytes",
        flush=True,
    )
    return seconds


def tiny_pipeline(kind: Any, encoder: Any, tokenizer: Any) -> Any:
    """A pipeline with this text encoder and the smallest denoiser that reads it."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    unet = UNet2DConditionModel(sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
                                norm_num_groups=4, cross_attention_dim=768, attention_head_dim=2,
                                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"))  # fmt: skip
    return kind(vae=AutoencoderKL(), text_encoder=encoder, tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(),
                safety_checker=None, feature_extractor=None, requires_safety_checker=False)  # fmt: skip


def main(quick: bool = False, skip_prior: bool = False) -> None:
    """Measure.

    Args:
        quick: a tenth of the concepts and no prior at true size.
        skip_prior: leave out the prior at true size, which takes a minute or two.
    """
    figures: dict[str, float | None] = {}
    share = None
    for name, size, count in (
        ("sd_100_s", SD14, 100),
        ("sdxl_100_s", SDXL, 100),
        ("flux_100_s", FLUX, 100),
        ("sd_1000_s", SD14, 1000),
    ):
        count = count // 10 if quick else count
        timed, made = erased(size, count, prior_gram(size.width), key_value_gram(size.width))
        print(
            f"{name}: {count} concepts, {timed.rank} rows: linear {timed.linear:.2f} s, gates {timed.gates:.2f} s",
            flush=True,
        )
        figures[name] = round(timed.linear + (0 if made is None else timed.gates), 2)
        if made is not None and name == "sd_100_s":
            share = gate_share(made)
    figures["prior_s"] = None if quick or skip_prior else round(prior_seconds(), 1)
    figures["gate_share"] = share
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
