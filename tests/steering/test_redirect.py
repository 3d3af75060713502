"""Redirected latents: the fit against explicit least squares, and what an anchored erasure does."""

from __future__ import annotations

import pytest
import torch

import efface
import tiny
from efface.errors import UsageError
from efface.models.model import Model
from efface.sae.files import load_sae
from efface.sae.statistics import Statistics
from efface.steering.anchor import AnchorFit, anchor_edits
from paths import states_of, way

SITE = tiny.SITE
CHURCH = efface.Concept("church", anchor="house", templates=("a {}", "a {} in noto style"))
KEPT = ["a dog", "a cat", "a dog in noto style"]
PAIRS = [("a church", "a house"), ("a church in noto style", "a house in noto style"), ("a church", "a house")]
FIT = AnchorFit(latents=5, steps=2, guidance=5.0, seed=0, preserve_weight=0.7, ridge=0.03, exact=False)


@pytest.fixture(scope="module")
def options(sd, tmp_path_factory):
    drawn = {"images": 3, "draw_steps": 2, "guidance": 5.0, "latents": 5}
    return tiny.anchored_options(sd, tmp_path_factory.mktemp("coder")) | drawn


@pytest.fixture(scope="module")
def measured(sd):
    """Statistics that put no latent's gate above what it gives."""
    generator = torch.Generator().manual_seed(0)
    means = 0.02 * torch.rand(2, 2, 64, generator=generator)
    levels = [level for level, _ in Model(sd).denoise(Model(sd).encode(["a"]), seeds=[0], steps=2, guidance=5.0)]
    return Statistics(("church", "dog"), ("object",) * 2, torch.tensor(levels), means, torch.full((2,), 0.01), 1)


def naive(model, coder, measured, latents):
    """The same rows by stacking every position and solving the augmented system."""
    gate = torch.maximum(measured.everything("church"), measured.cutoff[:, None])[:, latents]

    def active(level, states):
        z = torch.relu((states - coder.b_dec) @ coder.encoder.weight[latents].double().T + coder.encoder.bias[latents])
        return torch.where(z > gate[(measured.timesteps - level).abs().argmin()], z, 0.0).detach()

    z, d, held = [], [], []
    for number in range(3):
        own, anchor = PAIRS[number]
        for prompt in (own, anchor):
            for noisy, level in way(model, prompt, number):
                before = states_of(model, noisy, level, own)
                z.append(active(level, before))
                d.append(states_of(model, noisy, level, anchor) - before)
    for number in range(12):
        prompt = KEPT[number % 3]
        held += [active(lv, states_of(model, noisy, lv, prompt)) for noisy, lv in way(model, prompt, 3 + number)]
    z, d, held = torch.cat(z), torch.cat(d), torch.cat(held)
    weight = 0.7 * len(z) / len(held)
    scale = ((z**2).sum(0) + weight * (held**2).sum(0)).mean()
    rows = torch.cat([z, weight**0.5 * held, (0.03 * scale) ** 0.5 * torch.eye(len(latents))])
    wanted = torch.cat([d, torch.zeros(len(held) + len(latents), d.shape[1])])
    return torch.linalg.lstsq(rows, wanted.double()).solution


def test_the_rows_are_those_of_explicit_least_squares(sd, options, measured):
    model, coder = Model(sd), load_sae(options["coder"])
    (edit,) = anchor_edits(model, {SITE: coder}, {SITE: measured}, ["church"], PAIRS, KEPT, FIT).values()
    assert len(edit.latents) == 5
    assert set(edit.latents.tolist()) == set(measured.scores("church").mean(0).topk(5).indices.tolist())
    expected = naive(model, coder, measured, edit.latents)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(edit.decoder.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_what_is_added_is_the_active_latents_times_the_rows(sd, options, measured):
    (edit,) = anchor_edits(
        Model(sd), {SITE: load_sae(options["coder"])}, {SITE: measured}, ["church"], PAIRS, KEPT, FIT
    ).values()
    states = torch.randn(2, 4, len(edit.centre), generator=torch.Generator().manual_seed(1))
    z = torch.relu((states - edit.centre) @ edit.encoder.T + edit.bias)
    z = torch.where(z > edit.gate[0], z, 0.0)
    torch.testing.assert_close(edit.delta(states, edit.timesteps[:1], 0.5), 0.5 * z @ edit.decoder)


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_an_anchored_erasure_is_nearer_to_its_anchor(sd, options, mode, tmp_path):
    """What the site gives for the concept, attached, is nearer to the anchor's than before."""
    model, erasure = (
        Model(sd),
        efface.erase(sd, CHURCH, method="anchored", keep=KEPT, mode=mode, **options | {"latents": 40}),
    )
    assert erasure.provenance.keep == tuple(KEPT)
    erasure.save(tmp_path / "e.safetensors")
    (noisy, level), *_ = way(model, "a church", 0)
    own, anchor = (states_of(model, noisy, level, prompt) for prompt in PAIRS[0])
    with efface.Erasure.load(tmp_path / "e.safetensors").attached(sd):
        erased = states_of(model, noisy, level, "a church")
    assert (erased - anchor).norm() < 0.9 * (own - anchor).norm()
    assert torch.equal(states_of(model, noisy, level, "a church"), own)


def test_retained_prompts_hold_the_rows_back(sd, options, measured):
    coders, model = {SITE: load_sae(options["coder"])}, Model(sd)

    def leak(weight):
        fit = FIT._replace(preserve_weight=weight)
        (edit,) = anchor_edits(model, coders, {SITE: measured}, ["church"], PAIRS, KEPT, fit).values()
        met = [step for number, prompt in enumerate(KEPT) for step in way(model, prompt, 3 + number)]
        states = [(lv, states_of(model, x, lv, p)) for p in KEPT for x, lv in met[:2]]
        return sum(float(edit.delta(s[None].float(), torch.tensor([lv]), 1.0).norm()) for lv, s in states)

    assert leak(100.0) < 0.5 * leak(0.0)


REFUSED = {
    "nothing is kept": ({"keep": []}, "--keep"),
    "no ridge": ({"ridge": 0.0}, "above 0"),
    "a factor": ({"gamma": -1.0}, "unknown"),
    "no latents": ({"latents": 0}, "at least 1"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_a_sentence(sd, options, name):
    changes, sentence = REFUSED[name]
    with pytest.raises(UsageError, match=sentence):
        efface.erase(sd, CHURCH, method="anchored", **({"keep": KEPT} | options | changes))
