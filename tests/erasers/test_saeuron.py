"""SAeUron's edit against naive reimplementations, its statistics, and what it refuses."""

from __future__ import annotations

import dataclasses
import os
from contextlib import ExitStack
from itertools import pairwise

import numpy as np
import pytest
import torch

import efface
import tiny
from efface.concepts.sample import Sample
from efface.errors import EffaceError, UsageError
from efface.models.model import Model
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.files import load_sae
from efface.sae.harvest import HarvestConfig, capture, record_sites
from efface.sae.statistics import Statistics, percentile_count, select, statistics

SITE = tiny.SITE
CHURCH = efface.Concept("church", templates=("a {}", "a {} in noto style"))
DRAW = {"steps": 3, "guidance": 5.0}


@pytest.fixture(scope="module")
def options(sd, tmp_path_factory):
    """Options of the eraser, with an autoencoder that is not symmetric in any way."""
    return tiny.coder_options(sd, tmp_path_factory.mktemp("coder"))


def erasure_of(sd, options, **changes):
    return efface.erase(sd, CHURCH, method="saeuron", keep=["a dog", "a cat"], **(options | changes))


def states_of(sd, erasure=None):
    """What the site gives at every step, and the timesteps."""
    model = Model(sd)
    site = model.sites(SITE)[0]
    levels, states = [], []
    if erasure:
        erasure.attach(sd)
    with record_sites([site]) as seen:  # hooks run in order, so these see the edited output
        for level, _ in model.denoise(model.encode(["a church"]), seeds=[0], **DRAW):
            levels.append(level)
            states.append(seen[SITE].clone())
    if erasure:
        erasure.remove(sd)
    return levels, states


def naive_edit(erasure, coder, states, level, published=False):
    """The published edit position by position: encode, keep the k largest, change the chosen, decode, put the error back."""
    edit = next(iter(erasure.edits.values()))
    at = (edit.timesteps - level).abs().argmin()
    out = torch.empty_like(states)
    for index in np.ndindex(*states.shape[:2]):
        x = states[index]
        z = torch.relu(coder.encoder.weight @ (x - coder.b_dec) + coder.encoder.bias)
        kept = torch.zeros_like(z)
        best = z.topk(coder.config.k).indices
        kept[best] = z[best]
        rebuilt = kept @ coder.W_dec + coder.b_dec
        changed = kept.clone()
        for j, latent in enumerate(edit.latents.tolist()):
            if kept[latent] > edit.gate[at, j]:
                changed[latent] = edit.gain[at, j] * kept[latent] + edit.shift[at, j]
        edited = changed @ coder.W_dec + coder.b_dec
        out[index] = edited + (rebuilt - x if published else x - rebuilt)
    return out


@pytest.mark.parametrize("mode", ["exact", "published"])
@pytest.mark.parametrize("gain", ["published", "normalised", "clamp"])
def test_the_edit_equals_the_naive_dense_one(sd, options, mode, gain):
    erasure = erasure_of(sd, options, mode=mode, gain=gain)
    coder = load_sae(options["coder"])
    levels, plain = states_of(sd)
    _, edited = states_of(sd, erasure)
    # Only the first step sees the same input as without the edit.
    expected = naive_edit(erasure, coder, plain[0], levels[0], mode == "published").detach()
    assert (expected - plain[0]).abs().max() > 1e-4
    torch.testing.assert_close(edited[0], expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_an_edit_that_changes_nothing_is_bit_identical(sd, options, draw, mode):
    plain = draw(sd)
    neutral = erasure_of(sd, options, mode=mode, gamma=1.0)
    with neutral.attached(sd):
        assert np.array_equal(draw(sd), plain)
    none = erasure_of(sd, options, mode=mode)
    edit = none.edits[SITE]
    nothing = edit._replace(
        encoder=edit.encoder[:0], bias=edit.bias[:0], decoder=edit.decoder[:0], latents=edit.latents[:0],
        gate=edit.gate[:, :0], gain=edit.gain[:, :0], shift=edit.shift[:, :0],
    )  # fmt: skip
    with dataclasses.replace(none, edits={SITE: nothing}).attached(sd):
        assert np.array_equal(draw(sd), plain)


def test_published_mode_without_any_edit_doubles_the_error(sd, options):
    erasure = erasure_of(sd, options, mode="published", gamma=1.0)
    coder = load_sae(options["coder"])
    _, plain = states_of(sd)
    _, edited = states_of(sd, erasure)
    with torch.no_grad():
        torch.testing.assert_close(edited[0], 2 * coder(plain[0]) - plain[0], atol=1e-5, rtol=1e-4)


def test_gradients_reach_the_states_through_the_edit(sd, options):
    edit = erasure_of(sd, options).edits[SITE]
    states = torch.randn(2, 4, len(edit.centre), requires_grad=True)
    edit = edit._replace(gate=torch.zeros_like(edit.gate))
    edit.delta(states, edit.timesteps[:1], 1.0).square().sum().backward()
    assert states.grad is not None
    assert states.grad.abs().sum() > 0


def test_every_sample_of_a_batch_takes_its_own_level(sd, options):
    edit = erasure_of(sd, options).edits[SITE]
    states = torch.randn(2, 4, len(edit.centre), generator=torch.Generator().manual_seed(0))  # clear of the gates
    levels = edit.timesteps[[0, -1]]
    both = edit.delta(states, levels, 1.0)
    for i in range(2):
        torch.testing.assert_close(both[i : i + 1], edit.delta(states[i : i + 1], levels[i : i + 1], 1.0))


def test_levels_are_those_of_the_denoiser_whatever_the_number_of_steps(sd, options, draw):
    """Statistics of 3 steps serve 7, and another scheduler."""
    from diffusers import EulerDiscreteScheduler

    erasure = erasure_of(sd, options)
    plain_scheduler = sd.scheduler
    for scheduler in (plain_scheduler, EulerDiscreteScheduler.from_config(plain_scheduler.config)):
        sd.scheduler = scheduler
        with erasure.attached(sd):
            picture = sd("a church", num_inference_steps=7, output_type="np").images
        assert np.isfinite(picture).all()
    sd.scheduler = plain_scheduler


def test_a_pattern_edits_several_sites_each_with_its_own_autoencoder(sd, options, draw, tmp_path):
    from efface.sae.files import save_sae

    pattern = "unet.up_blocks.*.attn2"
    sites = Model(sd).sites(pattern)
    for seed, site in enumerate(sites):
        save_sae(
            SparseAutoencoder(SAEConfig(site.module.to_out[0].out_features, 64, 8), seed=seed), tmp_path / site.name
        )
    erasure = erasure_of(sd, options, coder=str(tmp_path), site=pattern)
    assert len(sites) > 1
    assert list(erasure.edits) == [site.name for site in sites]
    alone = [dataclasses.replace(erasure, edits={name: edit}, saes={}) for name, edit in erasure.edits.items()]
    plain, seen = draw(sd), []
    with ExitStack() as stack:
        for one in alone:
            stack.enter_context(one.attached(sd))
            seen.append(draw(sd))
    both = seen[-1]
    assert all(not np.array_equal(a, b) for a, b in pairwise([plain, *seen]))
    erasure.save(tmp_path / "e.safetensors")
    with efface.Erasure.load(tmp_path / "e.safetensors").attached(sd):
        np.testing.assert_allclose(draw(sd), both, atol=1e-6)
    assert np.array_equal(draw(sd), plain)


def stats_of(means):
    means = torch.as_tensor(means, dtype=torch.float32)
    names = tuple("abcdef"[: len(means)])
    return Statistics(names, ("object",) * len(means), torch.tensor([900.0, 100.0]), means, torch.zeros(2), 1)


def test_scores_are_the_published_ones():
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(4, 2, 7, generator=generator)
    found = stats_of(means).scores("b")
    for t in range(2):
        own, others = means[1, t], means[[0, 2, 3], t].mean(0)
        for i in range(7):
            expected = own[i] / own.sum() - others[i] / others.sum()
            assert found[t, i] == pytest.approx(float(expected), abs=1e-6)


def test_selection_takes_the_best_above_zero():
    chosen = select(torch.tensor([[0.3, 0.1, -0.2], [-0.1, -0.3, 0.2]]), 2)
    assert chosen.tolist() == [[True, True, False], [False, False, True]]


@pytest.mark.parametrize(
    ("latents", "percentile", "count"), [(20480, 99.999, 1), (20480, 99.995, 2), (20480, 99.99, 3)]
)
def test_percentiles_of_the_paper(latents, percentile, count):
    assert percentile_count(latents, percentile) == count


def test_the_stronger_suppression_wins_a_shared_latent():
    from efface.steering.tables import latent_tables, merge_tables

    measured = stats_of([[[3.0, 1.0, 0.0]] * 2, [[3.0, 0.0, 1.0]] * 2, [[0.0, 5.0, 5.0]] * 2])
    coder = SparseAutoencoder(SAEConfig(4, 3, 2))
    how = {"count": 1, "gain": "published", "fast": True}
    weak, strong = (
        latent_tables(measured, coder, name, gamma=gamma, **how) for name, gamma in (("a", -1.0), ("b", -5.0))
    )
    for pair in ([weak, strong], [strong, weak]):
        both = merge_tables(pair, coder, measured)
        assert both.latents.tolist() == [0]
        assert (both.gain == -15.0).all()


def test_statistics_are_means_over_pictures_and_positions(sd, options):
    coder = load_sae(options["coder"])
    model = Model(sd)
    prompts = [("a church", ("church",)), ("a dog", ("dog",)), ("a church in noto style", ("church",))]
    pictures = [Sample(prompt=prompt, seed=seed, shows=concepts) for seed, (prompt, concepts) in enumerate(prompts)]
    config = HarvestConfig((SITE,), **DRAW, batch=2)
    kinds = {"church": "object", "dog": "object"}
    found = statistics(model, {SITE: coder}, pictures, kinds, config)[SITE]
    expected = torch.zeros(2, 3, 64)
    for picture in pictures:
        for step, seen in enumerate(capture(model, [picture.prompt], [picture.seed], config)):
            with torch.no_grad():
                mean = coder.encode(seen.states[SITE][0]).dense(64).mean(0)
            expected[int(picture.shows[0] == "dog"), step] += mean / (2 if picture.shows[0] == "church" else 1)
    torch.testing.assert_close(found.means, expected, atol=1e-4, rtol=1e-3)
    assert found.timesteps.tolist() == sorted(found.timesteps.tolist(), reverse=True)


def test_statistics_round_trip(tmp_path):
    measured = stats_of(torch.rand(3, 2, 5))
    measured.save(tmp_path / "s.safetensors")
    again = Statistics.load(tmp_path / "s.safetensors")
    assert again.concepts == measured.concepts
    torch.testing.assert_close(again.means, measured.means, atol=1e-3, rtol=1e-3)
    (tmp_path / "s.safetensors").write_bytes(b"nothing")
    with pytest.raises(EffaceError, match="is truncated"):
        Statistics.load(tmp_path / "s.safetensors")


REFUSED = {
    "a site that matches nothing": ({"site": "mid_block.atentions.0"}, "did you mean"),
    "no autoencoder": ({"coder": "nowhere"}, "holds no autoencoder"),
    "another width": ({"site": "unet.up_blocks.1.resnets.0"}, "channels"),
    "an unknown option": ({"percentage": 3}, "unknown"),
    "a percentile of 100": ({"percentile": 100.0}, "between 0 and 100"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_in_a_sentence(sd, options, name):
    changes, sentence = REFUSED[name]
    with pytest.raises((EffaceError, UsageError), match=sentence):
        erasure_of(sd, options, **changes)


def test_statistics_need_pictures_of_every_concept(sd, options):
    coder = load_sae(options["coder"])
    with pytest.raises(UsageError, match="no picture of 'dog'"):
        statistics(Model(sd), {SITE: coder}, [Sample("a church", shows=("church",))], {"church": "o", "dog": "o"},
                   HarvestConfig((SITE,), **DRAW))  # fmt: skip


def test_a_changed_autoencoder_is_refused_in_exact_mode(sd, options, tmp_path):
    import shutil

    from efface.sae.files import save_sae

    folder = tmp_path / "coder"
    shutil.copytree(options["coder"], folder)
    erasure = erasure_of(sd, options | {"coder": str(folder)}, mode="exact")
    erasure.save(tmp_path / "e.safetensors")
    save_sae(SparseAutoencoder(SAEConfig(16, 64, 8), seed=5), folder)
    with pytest.raises(EffaceError, match="another one"):
        efface.Erasure.load(tmp_path / "e.safetensors").attach(sd)


def test_an_autoencoder_is_known_by_its_content_wherever_it_lies(sd, options, tmp_path, monkeypatch):
    import shutil

    folder = tmp_path / "coder"
    shutil.copytree(options["coder"], folder)
    erasure_of(sd, options | {"coder": str(folder)}, mode="exact").save(tmp_path / "e.safetensors")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(EffaceError, match=r"there is none in .*name the folder that holds it in EFFACE_AUTOENCODERS"):
        efface.Erasure.load(tmp_path / "e.safetensors").attach(sd)
    monkeypatch.setenv("EFFACE_AUTOENCODERS", f"{tmp_path / 'nowhere'}{os.pathsep}{tmp_path / 'elsewhere'}")
    with efface.Erasure.load(tmp_path / "e.safetensors").attached(sd):
        pass


def test_folding_is_refused(sd, options):
    with pytest.raises(EffaceError, match="edits activations"):
        erasure_of(sd, options).attach(sd, fold=True)
