"""The autoencoder's algebra: selection, closed-form gradients, training, files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from efface.errors import EffaceError
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder, geometric_median
from efface.sae.files import load_sae, notes_of, save_sae
from efface.sae.loss import step, without_parallel_
from efface.sae.saelens import save_saelens
from efface.sae.site_trainer import SiteTrainer
from efface.sae.train import SAETrainConfig, train

RULES = ("topk", "batchtopk", "threshold")


def coder_of(rule, width=6, latents=20, k=3, seed=0):
    coder = SparseAutoencoder(SAEConfig(width, latents, k, rule), seed=seed).double()
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in coder.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    coder.normalise()
    coder.threshold.fill_(0.3)
    return coder


def vectors(rows=17, width=6, seed=3):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 1


def naive_activations(coder, x):
    return ((x - coder.b_dec) @ coder.encoder.weight.T + coder.encoder.bias).relu()


def naive_dense(coder, x, k=None):
    """Selection by sorting, without any of the coder's own code."""
    z, config = naive_activations(coder, x), replace(coder.config, k=k or coder.config.k)
    if config.rule == "threshold":
        return torch.where(z > coder.threshold, z, 0.0)
    flat = z.detach().flatten() if config.rule == "batchtopk" else None
    if flat is not None:
        return torch.where(z >= flat.sort(descending=True).values[config.k * len(x) - 1], z, 0.0)
    return torch.where(z >= z.detach().sort(1, descending=True).values[:, config.k - 1 : config.k], z, 0.0)


@pytest.mark.parametrize("rule", RULES)
def test_codes_and_reconstructions_equal_the_naive_ones(rule):
    coder, x = coder_of(rule), vectors()
    code = coder.encode(x)
    expected = naive_dense(coder, x)
    torch.testing.assert_close(code.dense(20), expected)
    torch.testing.assert_close(coder.decode(code), expected @ coder.W_dec + coder.b_dec)
    assert (code.values > 0).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dead_count", [0, 1, 2, 7])
@pytest.mark.parametrize("sparse", [True, False], ids=["sparse products", "without"])
@pytest.mark.parametrize("multi_k", [(), (1,), (1, 8)], ids=["one k", "two", "three"])
def test_closed_form_gradients_equal_autograd(rule, dead_count, sparse, multi_k, monkeypatch):
    if not sparse:
        monkeypatch.setattr("torch.backends.mkl.is_available", lambda: False)
    coder, x = coder_of(rule), vectors()
    dead = torch.arange(20) < dead_count
    found = step(coder, x, multi_k=multi_k, dead=dead, alpha=0.25)

    pre = (x - coder.b_dec) @ coder.encoder.weight.T + coder.encoder.bias
    rebuilt = naive_dense(coder, x) @ coder.W_dec + coder.b_dec
    variance = (x - x.mean(0)).square().sum()
    fvu = (rebuilt - x).square().sum() / variance
    others = [naive_dense(coder, x, k) @ coder.W_dec + coder.b_dec for k in multi_k]
    loss = (fvu + sum((other - x).square().sum() / variance for other in others)) / (1 + len(others))
    auxk = torch.zeros((), dtype=x.dtype)
    if dead_count:
        k_aux = min(3, dead_count)  # half the width, or all that are dead
        best = pre.masked_fill(~dead, float("-inf")).topk(k_aux, dim=1)
        modelled = torch.zeros_like(pre).scatter(1, best.indices, best.values) @ coder.W_dec
        auxk = (modelled - (x - rebuilt).detach()).square().sum() / variance * min(dead_count / 3, 1)
    (loss + 0.25 * auxk).backward()
    torch.testing.assert_close(found.fvu, fvu.detach())
    torch.testing.assert_close(found.auxk, auxk.detach())
    for name, parameter in coder.named_parameters():
        torch.testing.assert_close(found.gradients[name], parameter.grad, msg=name)


def test_gradients_of_the_decoder_leave_the_length_of_its_rows():
    decoder = coder_of("topk").W_dec.detach()
    left = without_parallel_(torch.randn(decoder.shape, dtype=decoder.dtype), decoder)
    torch.testing.assert_close((left * decoder).sum(1), torch.zeros(20, dtype=decoder.dtype))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 1000))
def test_batchtopk_takes_k_times_rows_and_topk_k_of_each(rows, seed):
    x = vectors(rows, seed=seed)
    for rule in ("topk", "batchtopk"):
        coder = coder_of(rule, seed=seed)
        code, positive = coder.encode(x), int((naive_activations(coder, x) > 0).sum())
        assert len(code.values) <= min(3 * rows, positive)
        assert code.offsets.diff().sum() == len(code.values)
    assert len(code.values) == min(3 * rows, positive)


def test_geometric_median_resists_outliers():
    x = torch.randn(101, 4, dtype=torch.float64)
    x[:20] += 1000
    assert geometric_median(x).norm() < 2
    x[0, 0] = float("nan")
    with pytest.raises(EffaceError, match="not finite"):
        geometric_median(x)


class Clusters:
    """Sparse sums of a few directions: what an autoencoder should find."""

    names = ("unet.a",)
    reads = "output"

    def __init__(self, rows=512, fail_at=None):
        self.rows, self.fail_at = rows, fail_at
        self.directions = torch.nn.functional.normalize(
            torch.randn(24, 8, generator=torch.Generator().manual_seed(0)), dim=1
        )

    def round(self, index):
        if index == self.fail_at:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(index + 10)
        on = torch.rand(self.rows, 24, generator=generator) < 0.06
        return {"unet.a": (on * torch.rand(self.rows, 24, generator=generator)) @ self.directions}


SMALL = SAETrainConfig(latents=32, k=3, steps=60, batch=64, lr=5e-3, passes=1.5, dead_after=0.2)


@pytest.mark.parametrize("rule", ["topk", "batchtopk"])
def test_training_explains_more_than_principal_components(rule, tmp_path):
    config = SAETrainConfig(**{**vars(SMALL), "rule": rule, "steps": 300})
    coder = train(Clusters(), config, tmp_path)["unet.a"]
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.ones(32))
    x = Clusters().round(99)["unet.a"]
    centred = x - x.mean(0)
    spectrum = torch.linalg.svdvals(centred).square()
    with torch.no_grad():
        left = (coder.at_inference()(x) - x).square().sum() / centred.square().sum()
    assert left < 0.5 * spectrum[3:].sum() / spectrum.sum()


def test_a_killed_run_ends_as_the_unbroken_one(tmp_path):
    whole = train(Clusters(), SMALL, tmp_path / "whole", every=1)["unet.a"]
    for fail_at in (1, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            train(Clusters(fail_at=fail_at), SMALL, tmp_path / "broken", every=1, save_seconds=0)
    broken = train(Clusters(), SMALL, tmp_path / "broken", every=1, save_seconds=0)["unet.a"]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, broken.state_dict()[name]), name
    curves = [
        [json.loads(x) for x in (tmp_path / d / "log.jsonl").read_text().splitlines()] for d in ("whole", "broken")
    ]
    assert [c["sites"] for c in curves[0]] == [c["sites"] for c in curves[1]]


def test_another_run_in_the_folder_is_refused(tmp_path):
    train(Clusters(), SMALL, tmp_path)
    with pytest.raises(EffaceError, match="another config"):
        train(Clusters(), SAETrainConfig(**{**vars(SMALL), "k": 2}), tmp_path)


class Counted(Clusters):
    """Clusters that note which rounds were asked for."""

    def __init__(self, rows=512, fail_at=None):
        super().__init__(rows, fail_at)
        self.asked = []

    def round(self, index):
        self.asked.append(index)
        return super().round(index)


def test_every_round_is_drawn_once_and_a_small_one_is_one_batch(tmp_path):
    source = Counted(rows=20)
    train(source, SAETrainConfig(latents=32, k=3, steps=5, batch=64), tmp_path)
    assert source.asked == [0, 1, 2, 3, 4]


def test_a_resumed_run_draws_its_round_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(Clusters(fail_at=2), SMALL, tmp_path, save_seconds=0)
    source = Counted()
    train(source, SMALL, tmp_path)
    assert source.asked == list(range(1, max(source.asked) + 1))


def test_silent_latents_are_counted_dead():
    trainer = SiteTrainer(6, SAETrainConfig(latents=20, k=3, steps=10, batch=16, dead_after=0.2))
    trainer.sae.encoder.bias.data[:5] = -100
    x = vectors(16).float()
    lines = [trainer.step(x, number) for number in range(6)]
    assert lines[0]["dead"] == 0
    assert lines[-1]["dead"] >= 0.25
    assert lines[-1]["auxk"] > 0


def test_published_layout_round_trip(tmp_path):
    coder = coder_of("batchtopk").float()
    save_sae(coder, tmp_path, site="unet.up_blocks.1.attentions.1")
    again = load_sae(tmp_path)
    assert again.config == coder.config
    assert notes_of(tmp_path)["site"] == "unet.up_blocks.1.attentions.1"
    for name, tensor in coder.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor)


def test_a_checkpoint_of_the_public_layout_loads(tmp_path):
    """Keys, shapes and cfg.json as in bcywinski/SAeUron."""
    from safetensors.torch import save_file

    torch.manual_seed(0)  # the k largest are clear of the next
    tensors = {
        "encoder.weight": torch.randn(32, 4), "encoder.bias": torch.randn(32),
        "W_dec": torch.randn(32, 4), "b_dec": torch.randn(4),
    }  # fmt: skip
    save_file(tensors, tmp_path / "sae.safetensors")
    cfg = {
        "expansion_factor": 8, "normalize_decoder": True, "num_latents": 0, "k": 5, "multi_topk": False,
        "batch_topk": True, "sample_topk": False, "input_unit_norm": False, "d_in": 4,
    }  # fmt: skip
    (tmp_path / "cfg.json").write_text(json.dumps(cfg))
    coder = load_sae(tmp_path)
    assert coder.config == SAEConfig(4, 32, 5, "topk")
    x = torch.randn(3, 4)
    z = ((x - tensors["b_dec"]) @ tensors["encoder.weight"].T + tensors["encoder.bias"]).relu()
    best = z.topk(5, dim=1)
    expected = torch.zeros_like(z).scatter(1, best.indices, best.values) @ tensors["W_dec"] + tensors["b_dec"]
    torch.testing.assert_close(coder(x), expected)


@pytest.mark.parametrize("rule", RULES)
def test_saelens_round_trip(rule, tmp_path):
    coder, x = coder_of(rule).float(), vectors().float()
    save_saelens(coder, tmp_path, "unet.a", "emoji")
    torch.testing.assert_close(load_sae(tmp_path)(x), coder.at_inference()(x))


def test_unbox_layout_loads(tmp_path):
    torch.manual_seed(0)  # the k largest are clear of the next
    state = {
        "pre_bias": torch.randn(4), "latent_bias": torch.randn(9), "encoder.weight": torch.randn(9, 4),
        "decoder.weight": torch.randn(4, 9), "stats_last_nonzero": torch.zeros(9, dtype=torch.long),
    }  # fmt: skip
    torch.save(state, tmp_path / "state_dict.pth")
    (tmp_path / "config.json").write_text(json.dumps({"n_dirs_local": 9, "d_model": 4, "k": 2}))
    x = torch.randn(3, 4)
    z = ((x - state["pre_bias"]) @ state["encoder.weight"].T + state["latent_bias"]).relu()
    best = z.topk(2, dim=1)
    dense = torch.zeros_like(z).scatter(1, best.indices, best.values)
    torch.testing.assert_close(load_sae(tmp_path)(x), dense @ state["decoder.weight"].T + state["pre_bias"])


DAMAGE = {
    "missing": (lambda f: (f / "sae.safetensors").unlink(), "missing or damaged"),
    "truncated": (lambda f: (f / "sae.safetensors").write_bytes((f / "sae.safetensors").read_bytes()[:-9]), "damaged"),
    "no config": (lambda f: (f / "cfg.json").unlink(), "expected an autoencoder's folder"),
    "not JSON": (lambda f: (f / "cfg.json").write_text("{"), "not JSON"),
    "a list": (lambda f: (f / "cfg.json").write_text("[]"), "object was expected"),
    "no k": (lambda f: (f / "cfg.json").write_text('{"d_in": 6, "num_latents": 20}'), "k is None"),
    "other width": (lambda f: (f / "cfg.json").write_text('{"d_in": 7, "num_latents": 20, "k": 3}'), "altered"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_folders_are_refused_in_a_sentence(name, tmp_path):
    save_sae(coder_of("topk").float(), tmp_path)
    DAMAGE[name][0](tmp_path)
    with pytest.raises(EffaceError, match=DAMAGE[name][1]):
        load_sae(tmp_path)
