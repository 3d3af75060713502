"""Names inside files of autoencoders, which must not change with names in the code."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from efface.io import embedded
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.config import SAETrainConfig
from efface.sae.files import sae_hash, save_sae
from efface.sae.lookup import open_sae
from efface.sae.site_trainer import SiteTrainer
from efface.sae.statistics import Statistics, select
from efface.steering.statistics_source import selection_notes

PUBLISHED_KEYS = {
    "d_in", "num_latents", "expansion_factor", "k", "normalize_decoder", "batch_topk", "sample_topk", "multi_topk",
    "input_unit_norm",
}  # fmt: skip
"""Keys of `cfg.json` in SAeUron's published autoencoders."""
HASHES = {
    "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2": (
        "0eb196092eedf23caca3846851e28f5a037ad2fc43a0a6600d4f00b332dcc833"
    ),
    "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2": (
        "a8a566421d314c5297b7ea8e79e1f1c2e88f5098d6d18ef0151bb2663c1a1eed"
    ),
    "unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2": (
        "0ac50acce91222babbc3f0807aa17dfe12b2b5e88cd13da876cdd942d5149196"
    ),
}
"""By which erasure files name the emoji canvas's autoencoders."""


def small_sae() -> SparseAutoencoder:
    sae = SparseAutoencoder(SAEConfig(width=4, latents=8, k=2, rule="threshold"))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 8)
        sae.threshold.fill_(0.25)
    return sae


def test_the_hash_of_an_autoencoder_is_that_of_earlier_erasure_files():
    assert sae_hash(small_sae()) == "8d4087f8c44269950dde6d517e92139caf08e47364ef31b7fafe339df69d3e9f"


@pytest.mark.parametrize("site", HASHES)
def test_the_embedded_autoencoders_have_the_hashes_of_earlier_erasure_files(site):
    assert open_sae("emoji", site)[1] == HASHES[site]


def test_a_folder_has_the_published_names(tmp_path):
    save_sae(small_sae(), tmp_path / "site")
    assert {path.name for path in (tmp_path / "site").iterdir()} == {"cfg.json", "sae.safetensors"}
    cfg = json.loads((tmp_path / "site" / "cfg.json").read_text())
    assert set(cfg) == PUBLISHED_KEYS | {"rule", "threshold"}
    assert set(load_file(tmp_path / "site" / "sae.safetensors")) == {
        "encoder.weight", "encoder.bias", "W_dec", "b_dec",
    }  # fmt: skip


def statistics_of_two() -> Statistics:
    return Statistics(
        concepts=("church", "dog"),
        kinds=("object", "object"),
        timesteps=torch.tensor([900.0, 100.0]),
        means=torch.rand(2, 2, 8, generator=torch.Generator().manual_seed(0)),
        cutoff=torch.zeros(2),
        pictures=4,
    )


def test_statistics_have_the_names_of_earlier_files(tmp_path):
    statistics_of_two().save(tmp_path / "statistics.safetensors")
    assert set(load_file(tmp_path / "statistics.safetensors")) == {"levels", "cutoff", "counts", "latents", "values"}


def test_the_embedded_statistics_are_read():
    for site in HASHES:
        stats = Statistics.load(embedded.folder("emoji") / "sae" / site / "statistics.safetensors")
        assert len(stats.timesteps) == stats.means.shape[1]


def test_an_erasure_notes_its_latents_by_the_names_of_earlier_files():
    stats = statistics_of_two()
    notes = selection_notes({"site": stats}, "church", {"site": select(stats.scores("church"), 1)})
    assert all(list(note) == ["site", "latent", "levels", "score", "own", "others"] for note in notes)


def test_a_checkpoint_of_training_has_the_names_of_earlier_ones():
    trainer = SiteTrainer(4, SAETrainConfig(latents=8, k=2, steps=2, batch=16))
    trainer.step(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), 0)
    names = set(trainer.state())
    assert {"silent", "coder.W_dec", "coder.b_dec", "coder.encoder.weight", "coder.encoder.bias"} <= names
    assert {"adam.0.step", "adam.0.exp_avg", "adam.0.exp_avg_sq"} <= names
