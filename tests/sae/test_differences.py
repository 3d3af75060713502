"""An autoencoder that reads output − input of its site (SDXL-unbox's convention), wherever one is used."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import efface
import tiny
from efface.erasures.activation import ActivationEdit
from efface.errors import EffaceError
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.config import SAETrainConfig
from efface.sae.files import load_sae, save_sae
from efface.sae.harvest import HarvestConfig, capture, sites_of
from efface.sae.quality import denoising_losses
from efface.sae.stream import ActivationStream
from efface.sae.train import train
from efface.steering.steer import steer_latent

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}", "a {} in noto style"))
DRAWN = {"images": 2, "draw_steps": 2, "guidance": 5.0}


@pytest.fixture(scope="module")
def model(sd):
    return efface.Model(sd)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """An untrained autoencoder of differences, about their own mean, so that latents tell pictures apart."""
    config = HarvestConfig((tiny.SITE,), steps=2, guidance=4.0, difference=True)
    states = next(capture(model, ["a cat"], [0], config)).states[tiny.SITE]
    sae = SparseAutoencoder(SAEConfig(states.shape[-1], 64, 8, reads="difference"))
    with torch.no_grad():
        sae.b_dec.copy_(states.mean((0, 1)))
    home = tmp_path_factory.mktemp("difference") / "sae"
    save_sae(sae, home)
    return home


def one_call(model):
    """The denoiser's output, and input and output of the site, of one call (batch tokens width)."""
    seen = {}
    site = model.sites(tiny.SITE)[0]

    def hook(module, args, output):
        seen["in"], seen["out"] = site.read(args[0]).detach(), site.read(output).detach()

    handle = site.module.register_forward_hook(hook)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        output = model.predict(latents, torch.tensor([500]), model.encode(["a church", "a dog"]))
    handle.remove()
    return output, seen["in"], seen["out"]


def test_what_is_read(model, folder):
    sae = load_sae(folder)
    (site,) = sites_of(model, (tiny.SITE,), {tiny.SITE: sae})
    assert site.difference
    (plain,) = sites_of(model, (tiny.SITE,), {tiny.SITE: SparseAutoencoder(replace(sae.config, reads="output"))})
    assert not plain.difference
    _, given, got = one_call(model)
    assert torch.equal(site.states((given,), {}, got), got - given)
    assert torch.equal(site.states((), {"hidden_states": given}, got), got - given)
    with pytest.raises(EffaceError, match="there is no output − input"):
        site.states((given[..., :4],), {}, got)


@pytest.mark.parametrize("mode", ["fast", "exact", "published"])
def test_an_edit_reads_differences_and_adds_to_the_output(mode, model, folder, tmp_path):
    """Against the sum over active latents written out at every position."""
    options = {"coder": str(folder), "site": tiny.SITE, "count": 8, "gamma": -20.0, "gain": "normalised", "mode": mode}
    erasure = efface.erase(model.pipeline, CHURCH, method="saeuron", keep=["a dog"], **options, **DRAWN)
    erasure.save(tmp_path / "e.safetensors")
    erasure = efface.Erasure.load(tmp_path / "e.safetensors")
    assert isinstance(erasure, ActivationEdit)
    assert erasure.provenance.config["coders"][tiny.SITE]["reads"] == "difference"
    sae, edit = load_sae(folder), erasure.edits[tiny.SITE]
    plain, given, got = one_call(model)
    with erasure.attached(model.pipeline):
        erased, _, written = one_call(model)
    read = got - given
    z = ((read - sae.b_dec) @ sae.encoder.weight.T + sae.encoder.bias).relu()
    row = (edit.timesteps - 500).abs().argmin()
    expected = got.clone()
    active = 0
    for n, latent in enumerate(edit.latents.tolist()):
        on = z[..., latent] > edit.gate[row, n]
        if mode != "fast":
            on &= z[..., latent] >= z.topk(sae.config.k, dim=-1).values[..., -1]
        active += int(on.sum())
        change = (edit.gain[row, n] - 1) * z[..., latent] + edit.shift[row, n]
        expected += torch.where(on, change, 0.0)[..., None] * sae.W_dec[latent]
    if mode == "published":
        expected += 2 * (sae(read) - read)
    assert active > 0
    torch.testing.assert_close(written, expected, rtol=1e-4, atol=1e-4)
    assert (erased - plain).abs().max() > 1e-3


def test_an_anchored_edit_and_a_steered_latent(model, folder):
    options = {"coder": str(folder), "site": tiny.SITE, **DRAWN}
    erasure = efface.erase(model.pipeline, CHURCH, method="anchored", keep=["a dog"], **options)
    assert erasure.provenance.config["coders"][tiny.SITE]["reads"] == "difference"
    sae = load_sae(folder)
    _, given, got = one_call(model)
    z = sae.encode((got - given).flatten(0, 1)).dense(64)
    latent = int(z.sum(0).argmax())
    with steer_latent(model, tiny.SITE, sae, latent, multiply=3.0):
        _, _, written = one_call(model)
    change = 2 * z[:, latent].view(*got.shape[:2], 1)
    torch.testing.assert_close(written, got + change * sae.W_dec[latent], rtol=1e-4, atol=1e-4)


def test_a_reconstruction_takes_the_place_of_what_is_read(model, folder):
    """An autoencoder that reconstructs nothing leaves the input; one of the output would leave zeros."""
    sae = load_sae(folder)
    with torch.no_grad():
        sae.b_dec.zero_()
        sae.encoder.bias.fill_(-1e9)
    clean = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    losses = denoising_losses(model, clean, ["a cat", "a dog"], {tiny.SITE: sae})
    site = model.sites(tiny.SITE)[0]
    handle = site.module.register_forward_hook(lambda module, args, output: site.write(output, site.read(args[0])))
    skipped = denoising_losses(model, clean, ["a cat", "a dog"], {})["plain"]
    handle.remove()
    assert losses[tiny.SITE] == pytest.approx(skipped, rel=1e-5)


def test_what_is_trained_on_differences_says_so(model, tmp_path):
    config = HarvestConfig((tiny.SITE,), steps=2, guidance=4.0, difference=True)
    stream = ActivationStream(model, ["a cat", "a dog"], config, images=2)
    assert stream.reads == "difference"
    train(stream, SAETrainConfig(latents=32, k=4, steps=2, batch=16), tmp_path)
    assert load_sae(tmp_path / tiny.SITE).config.reads == "difference"
    assert json.loads((tmp_path / tiny.SITE / "cfg.json").read_text())["reads"] == "difference"


def test_an_erasure_that_reads_what_nobody_knows(model, folder, tmp_path):
    options = {"coder": str(folder), "site": tiny.SITE, "gamma": -20.0}
    erasure = efface.erase(model.pipeline, CHURCH, method="saeuron", keep=["a dog"], **options, **DRAWN)
    erasure.provenance.config["coders"][tiny.SITE]["reads"] = "input"
    erasure.save(tmp_path / "e.safetensors")
    with pytest.raises(EffaceError, match="reads 'input' of its site"):
        efface.Erasure.load(tmp_path / "e.safetensors")
