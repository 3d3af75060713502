"""Autoencoders as SAeUron's public code trains them, and its statistics: each difference a row, against naive code in float64."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from fractions import Fraction

import pytest
import torch

from efface.cli.arguments import parse_parts
from efface.cli.sae.train import RENAMED, Request
from efface.concepts.sample import Sample
from efface.errors import EffaceError
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.config import SAETrainConfig
from efface.sae.harvest import HarvestConfig
from efface.sae.loss import step
from efface.sae.site_trainer import SiteTrainer
from efface.sae.statistics import Statistics, percentile_count, statistics
from efface.sae.train import train

RULES = ("topk", "batchtopk")


def coder_of(rule, width=6, latents=20, k=3):
    coder = SparseAutoencoder(SAEConfig(width, latents, k, rule), seed=0).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in coder.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    coder.normalise()
    return coder


def vectors(rows=17, width=6, seed=3):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 1


def authors_best(values, k, rule):
    """The k largest of each row, or k times the rows largest of all (rows latents); every other entry 0."""
    if rule == "topk":
        found = values.topk(k, dim=1)
        return torch.zeros_like(values).scatter(1, found.indices, found.values)
    found = values.flatten().topk(k * len(values))
    return torch.zeros_like(values.flatten()).scatter(0, found.indices, found.values).reshape(values.shape)


def authors_losses(coder, x, dead):
    """FVU and AuxK of SAE/sae.py's forward."""
    k, rule, width = coder.config.k, coder.config.rule, x.shape[1]
    z = ((x - coder.b_dec) @ coder.encoder.weight.T + coder.encoder.bias).relu()
    e = authors_best(z, k, rule) @ coder.W_dec + coder.b_dec - x
    variance = (x - x.mean(0)).square().sum()
    count = int(dead.sum())
    if not count:
        return e.square().sum() / variance, torch.zeros((), dtype=x.dtype)
    living = torch.where(dead[None], z, -torch.inf)
    e_hat = authors_best(living, min(width // 2, count), rule)
    e_hat = e_hat.masked_fill(e_hat == -torch.inf, 0) @ coder.W_dec + coder.b_dec
    return e.square().sum() / variance, min(count / (width // 2), 1) * (e_hat - e).square().sum() / variance


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dead_count", [0, 1, 2, 7])
@pytest.mark.parametrize("sparse", [True, False], ids=["sparse products", "without"])
def test_auxk(rule, dead_count, sparse, monkeypatch):
    if not sparse:
        monkeypatch.setattr("torch.backends.mkl.is_available", lambda: False)
    coder, x, dead = coder_of(rule), vectors(), torch.arange(20) < dead_count
    found = step(coder, x, dead=dead, alpha=0.25, published_auxk=True)
    fvu, auxk = authors_losses(coder, x, dead)
    (fvu + 0.25 * auxk).backward()
    torch.testing.assert_close(found.fvu, fvu.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.auxk, auxk.detach(), rtol=1e-10, atol=1e-12)
    for name, parameter in coder.named_parameters():
        torch.testing.assert_close(found.gradients[name], parameter.grad, rtol=1e-8, atol=1e-10, msg=name)
    if dead_count:
        ours = step(coder, x, dead=dead, alpha=0.25)
        assert abs(float(ours.auxk - found.auxk)) > 1e-3


@pytest.mark.parametrize("as_published", [True, False])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("clip", [0.02, 1e6], ids=["clipped", "whole"])
def test_three_steps(rule, as_published, clip):
    """SAE/trainer.py: unit rows, clip, remove the decoder's parallel part, Adam with ε 6.25e-10; ours clips last, with ε 1e-8."""
    config = SAETrainConfig(
        latents=20, k=3, rule=rule, steps=10, batch=17, lr=1e-2, clip=clip, alpha=0.25, as_published=as_published
    )
    trainer = SiteTrainer(6, config)
    trainer.sae.double()
    trainer.sae.load_state_dict(coder_of(rule).state_dict())
    trainer.initialised = True
    coder = coder_of(rule)
    adam = torch.optim.Adam(coder.parameters(), lr=1e-2, eps=6.25e-10 if as_published else 1e-8)
    dead = torch.arange(20) < 4
    for number in range(3):
        x = vectors(seed=number)
        trainer.vectors_since_fired = torch.where(dead, 20_000_000, 0)
        trainer.step(x, number)

        if as_published:
            fvu, auxk = authors_losses(coder, x, dead)
            adam.zero_grad()
            (fvu + 0.25 * auxk).backward()
        else:
            for name, gradient in step(coder, x, dead=dead, alpha=0.25).gradients.items():
                coder.get_parameter(name).grad = gradient
        if as_published:
            torch.nn.utils.clip_grad_norm_(coder.parameters(), clip)
        along = (coder.W_dec.grad * coder.W_dec.data).sum(1, keepdim=True)
        coder.W_dec.grad -= along * coder.W_dec.data
        if not as_published:
            torch.nn.utils.clip_grad_norm_(coder.parameters(), clip)
        adam.param_groups[0]["lr"] = 1e-2 * (1 - number / 10)
        adam.step()
        coder.normalise()
    # The library divides by the norm plus 1e-6, which Adam's first moments over the root of its second hardly see.
    for name, parameter in coder.named_parameters():
        torch.testing.assert_close(trainer.sae.get_parameter(name), parameter, rtol=1e-6, atol=1e-7, msg=name)


def test_latents_are_dead_after_ten_million_vectors():
    trainer = SiteTrainer(6, SAETrainConfig(latents=20, k=3, steps=10, batch=16, as_published=True))
    assert trainer.optimiser.defaults["eps"] == 6.25e-10
    trainer.vectors_since_fired[:] = torch.arange(20) + 9_999_991
    assert trainer.step(vectors(16).float(), 0)["dead"] == pytest.approx(0.5)


class Rounds:
    """The same vectors every round."""

    names = ("unet.a",)
    reads = "output"

    def round(self, index):
        return {"unet.a": vectors(64).float()}


def test_a_run_of_an_older_efface_is_resumed(tmp_path):
    config = SAETrainConfig(latents=12, k=3, steps=4, batch=32)
    train(Rounds(), config, tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    del record["config"]["as_published"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    train(Rounds(), config, tmp_path)
    with pytest.raises(EffaceError, match="another config"):
        train(Rounds(), replace(config, as_published=True), tmp_path)


def test_the_command_has_the_option():
    parts = {"general": Request, "training": SAETrainConfig}
    _, config = parse_parts(parts, ["emoji", "--as-published"], prog="x", description="", renamed=RENAMED)
    assert asdict(config) == asdict(SAETrainConfig(as_published=True))


PERCENTILES = [
    (1000, 99.8, 2), (1000, 99.9, 1), (1001, 99.9, 1), (1001, 99.8, 2), (20480, 99.999, 1), (20480, 99.995, 2),
    (20480, 99.99, 3), (4096, 99.9, 5), (11, 90, 1), (11, 50.0, 5), (10, 50.0, 5), (3, 0.1, 2), (64, 29.0, 45),
]  # fmt: skip


@pytest.mark.parametrize(("latents", "percentile", "count"), PERCENTILES)
def test_percentiles(latents, percentile, count):
    """So many of different scores lie above their percentile by linear interpolation, computed exactly."""
    assert percentile_count(latents, percentile) == count
    place = Fraction(str(percentile)) * (latents - 1) / 100
    below = place.numerator // place.denominator
    threshold = below + (place - below)  # of the scores 0, 1, …
    assert sum(score > threshold for score in range(latents)) == count


def measured(counts):
    means = torch.rand(4, 2, 7, generator=torch.Generator().manual_seed(0))
    kinds = ("object", "object", "style", "object")
    return Statistics(("a", "b", "c", "d"), kinds, torch.tensor([900.0, 100.0]), means, torch.zeros(2), 9, counts)


def test_scores_compare_with_all_pictures_of_other_concepts():
    """compute_feature_importance: the others' pictures are put together before their mean is taken."""
    stats = measured((2, 5, 4, 1)).weighted_by_picture()
    own = stats.means[0]
    others = torch.stack([stats.means[1]] * 5 + [stats.means[3]]).mean(0)
    expected = own / own.sum(1, keepdim=True) - others / others.sum(1, keepdim=True)
    torch.testing.assert_close(stats.scores("a"), expected, atol=1e-6, rtol=1e-6)
    assert (measured((2, 5, 4, 1)).scores("a") - expected).abs().max() > 1e-3
    # What a latent must exceed is the mean over concepts in their code too (hooks.py).
    torch.testing.assert_close(stats.everything("a"), stats.means[[0, 1, 3]].mean(0))


def test_numbers_of_pictures_are_kept_in_files(tmp_path):
    measured((2, 5, 4, 1)).save(tmp_path / "s.safetensors")
    assert Statistics.load(tmp_path / "s.safetensors").counts == (2, 5, 4, 1)
    measured(()).save(tmp_path / "old.safetensors")
    with pytest.raises(EffaceError, match="make them again"):
        Statistics.load(tmp_path / "old.safetensors").weighted_by_picture()
    measured((2, 5)).save(tmp_path / "short.safetensors")
    with pytest.raises(EffaceError, match="damaged"):
        Statistics.load(tmp_path / "short.safetensors")


def test_pictures_are_counted(sd):
    from efface.models.model import Model
    from tiny import SITE

    coder = SparseAutoencoder(SAEConfig(sd.unet.mid_block.attentions[0].in_channels, 8, 2))
    shown = [("church",), ("dog", "noto"), ("church",), ("church", "noto"), ("dog",)]
    pictures = [Sample(prompt="a cat", seed=i, shows=concepts) for i, concepts in enumerate(shown)]
    kinds = {"church": "object", "dog": "object", "noto": "style"}
    found = statistics(
        Model(sd), {SITE: coder}, pictures, kinds, HarvestConfig((SITE,), steps=1, guidance=1.0, batch=2)
    )
    assert found[SITE].counts == (3, 2, 2)
