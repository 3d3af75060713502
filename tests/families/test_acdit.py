"""Block-wise autoregressive diffusion: the cache is exact, blocks see no later ones, and edits know the block."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch

import efface
from efface.erasers import ERASERS
from efface.erasures.activation import ActivationEdit
from efface.erasures.latent_edit import LatentEdit
from efface.erasures.provenance import provenance
from efface.families import acdit_schedule
from efface.families.acdit_network import Context
from efface.models.course import Resumed
from efface.models.load import load
from efface.sae.harvest import HarvestConfig, capture
from efface.sae.statistics import Statistics
from efface.sae.stream import ActivationStream
from efface.steering.blocks import over_blocks
from efface.training.config import Training
from tiny_families import acdit, pipeline

BLOCKS = 4
PROMPTS = ["a church", "a cat"]
SITE = "transformer.transformer_blocks.0"
CHURCH = efface.Concept("church", anchor="cat", templates=("a {}",))
LEVELS = (900.0, 500.0, 100.0, 700.0)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    found = acdit().transformer
    for name, parameter in found.named_parameters():  # as after training: nothing is zero
        if "modulation" in name or "proj_out" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return found.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def given():
    """Clean latents, noise and text states of two pictures."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 2, 4, 8, 8, generator=generator)
    return clean, noise, torch.randn(2, 10, 16, generator=generator)


def timestep_of(block: int, level: float = 500.0) -> float:
    return 1000.0 * (BLOCKS - 1 - block) + level


def inside(block: int) -> torch.Tensor:
    """True in a block of latents (1 1 8 8)."""
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., block // 2 * 4 :, block % 2 * 4 :][..., :4, :4] = True
    return mask


def noised_at(clean: torch.Tensor, noise: torch.Tensor, timestep: float) -> torch.Tensor:
    return torch.lerp(clean, noise, acdit_schedule.noise_shares(torch.tensor([timestep]), 2, 8))


# Network


def test_the_training_pass_is_cached_inference(network, given):
    clean, noise, text = given
    noised = sum(inside(i) * noised_at(clean, noise, timestep_of(i, level)) for i, level in enumerate(LEVELS))
    whole = network.training_pass(clean, noised, torch.tensor([LEVELS] * 2), text)
    context, cached = Context(), torch.zeros_like(clean)
    for block, level in enumerate(LEVELS):
        timestep = timestep_of(block, level)
        z = noised_at(clean, noise, timestep)
        output = network(z, text, timestep, context=context).sample
        assert context.blocks == block
        assert not output[~inside(block).expand_as(output)].any()
        torch.testing.assert_close(network(z, text, timestep).sample, output, rtol=0, atol=1e-5)
        cached += output
    assert whole.abs().mean() > 0.01
    torch.testing.assert_close(cached, whole, rtol=0, atol=1e-5)


def test_later_steps_of_a_block_read_what_is_remembered(network, given):
    clean, noise, text = given
    context = Context()
    network(noised_at(clean, noise, timestep_of(2, 900)), text, timestep_of(2, 900), context=context)
    remembered = context.layers
    z = noised_at(clean, noise, timestep_of(2, 100))
    later = network(z, text, timestep_of(2, 100), context=context).sample
    assert context.layers is remembered
    torch.testing.assert_close(later, network(z, text, timestep_of(2, 100)).sample, rtol=0, atol=1e-5)


@pytest.mark.parametrize("changed", range(BLOCKS))
def test_a_clean_block_changes_no_output_before_the_next_block(network, given, changed):
    clean, noise, text = given
    other = torch.where(inside(changed), clean + 1, clean)
    levels, noised = torch.tensor([LEVELS] * 2), clean.lerp(noise, 0.5)
    difference = (
        network.training_pass(other, noised, levels, text) - network.training_pass(clean, noised, levels, text)
    ).abs()
    for block in range(BLOCKS):
        largest = float(difference[inside(block).expand_as(difference)].max())
        assert (largest > 1e-4) if block > changed else (largest == 0)


def test_pictures_of_one_batch_may_be_at_different_blocks_unless_they_share_a_context(network, given):
    clean, noise, text = given
    timesteps = [timestep_of(0, 300), timestep_of(3, 800)]
    alone = [network(noised_at(clean, noise, t)[i : i + 1], text[i : i + 1], t).sample for i, t in enumerate(timesteps)]
    z = torch.cat([noised_at(clean, noise, t)[i : i + 1] for i, t in enumerate(timesteps)])
    torch.testing.assert_close(network(z, text, torch.tensor(timesteps)).sample, torch.cat(alone), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="same block"):
        network(z, text, torch.tensor(timesteps), context=Context())


def test_the_text_reaches_no_clean_token(network, given):
    clean, noise, text = given
    contexts = [Context(), Context()]
    for context, states in zip(contexts, (text, -text), strict=True):
        network(noised_at(clean, noise, timestep_of(3)), states, timestep_of(3), context=context)
    for one, other in zip(contexts[0].layers, contexts[1].layers, strict=True):
        assert torch.equal(one.key, other.key)
        assert torch.equal(one.value, other.value)


# Clock


def test_timesteps_tell_block_and_level():
    scheduler = acdit_schedule.BlockwiseFlowMatchEulerScheduler(shift=2.0)
    scheduler.set_timesteps(5)
    moments = acdit_schedule.moment_of(scheduler.timesteps, BLOCKS)
    assert moments.block.tolist() == [block for block in range(BLOCKS) for _ in range(5)]
    assert (scheduler.timesteps.diff() < 0).all()
    first = moments.level[:5]
    torch.testing.assert_close(moments.level, first.repeat(BLOCKS))
    u = torch.tensor([1.0, 0.8, 0.6, 0.4, 0.2])
    torch.testing.assert_close(first, 1000 * 2 * u / (1 + u))


def test_steps_of_a_known_velocity_end_at_the_clean_latents(given):
    clean, noise, _ = given
    scheduler = acdit_schedule.BlockwiseFlowMatchEulerScheduler()
    scheduler.set_timesteps(3)
    latents = noise
    for timestep in scheduler.timesteps:
        block = int(acdit_schedule.moment_of(timestep.reshape(1), BLOCKS).block)
        torch.testing.assert_close(latents, scheduler.scale_noise(clean, timestep.reshape(1), noise))
        latents = scheduler.step((noise - clean) * inside(block), timestep, latents).prev_sample
    torch.testing.assert_close(latents, clean)


# Drawing


def test_only_the_conditional_text_and_the_seed_decide():
    model = efface.Model(pipeline("acdit"))
    first, again, other = (
        np.asarray(model.draw(["a church"], seeds=[seed], steps=2, guidance=4.0)[0]) for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_drawing_goes_on_after_given_blocks():
    pipe = pipeline("acdit")
    model = efface.Model(pipe)
    clean = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    own = pipe(
        "a church", generator=torch.Generator().manual_seed(5), num_inference_steps=2, guidance_scale=4.0,
        clean_latents=clean, clean_blocks=2, output_type="latent",
    ).images  # fmt: skip
    assert torch.equal(own[:, :, :4], clean[:, :, :4])
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    begun = torch.cat([clean[:, :, :4], noise[:, :, 4:]], 2)
    *_, (_, ours) = model.denoise(
        model.encode(["a church"]), seeds=[5], steps=2, guidance=4.0, course=Resumed(begun, 4)
    )
    torch.testing.assert_close(ours, own, rtol=0, atol=1e-5)


def test_what_is_remembered_follows_the_pictures_and_the_weights(given):
    pipe = copy.deepcopy(pipeline("acdit"))
    model, fresh = efface.Model(pipe), efface.Model(pipe)
    clean, noise, _ = given
    text = model.encode(PROMPTS)
    with torch.no_grad():
        for block in (0, 1, 3, 2, 3):
            for shift in (0.0, 1.0):
                z = noised_at(clean + shift, noise, timestep_of(block))
                timestep = torch.tensor(timestep_of(block))
                expected = efface.Model(pipe).predict(z, timestep, text)
                torch.testing.assert_close(model.predict(z, timestep, text), expected, rtol=0, atol=1e-5)
        pipe.transformer.transformer_blocks[0].attn1.to_v.weight.mul_(3)
        assert (fresh.predict(z, timestep, text) - expected).abs().max() > 1e-4
        torch.testing.assert_close(
            model.predict(z, timestep, text), fresh.predict(z, timestep, text), rtol=0, atol=1e-5
        )


def test_a_folder_of_it_is_loaded(tmp_path):
    pipeline("acdit").save_pretrained(tmp_path)
    loaded = load(tmp_path, device="cpu")
    settings = {"seeds": [3], "steps": 2, "guidance": 4.0}
    picture, expected = (efface.Model(p).draw(["a cat"], **settings)[0] for p in (loaded, pipeline("acdit")))
    assert np.array_equal(np.asarray(picture), np.asarray(expected))


# Edits


def constant_edit(timesteps: list[float], gates: list[float]) -> LatentEdit:
    """An edit that adds 5 to all channels wherever the gate of the nearest timestep is open."""
    return LatentEdit(
        encoder=torch.zeros(1, 16), bias=torch.ones(1), centre=torch.zeros(16), decoder=torch.ones(1, 16),
        latents=torch.tensor([0]), timesteps=torch.tensor(timesteps), gate=torch.tensor(gates)[:, None],
        gain=torch.ones(len(gates), 1), shift=torch.full((len(gates), 1), 5.0),
    )  # fmt: skip


def test_a_gate_of_one_block_acts_in_that_block_only():
    """Though every block passes the same noise levels; and what is remembered of clean blocks stays unedited."""
    pipe = pipeline("acdit")
    model = efface.Model(pipe)
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(2)
    blocks = acdit_schedule.moment_of(scheduler.timesteps, BLOCKS).block
    gates = torch.where(blocks == 2, 0.0, float("inf")).tolist()
    edit = constant_edit(scheduler.timesteps.tolist(), gates)
    origin = provenance(model, "saeuron", {"mode": "fast", "coders": {}}, (CHURCH,), ())
    erasure = ActivationEdit(origin, {SITE: edit})

    def states():
        config = HarvestConfig((SITE,), steps=2, guidance=4.0)
        return [step.states[SITE] for step in capture(model, ["a cat"], [0], config)]

    def latents():
        *_, (_, found) = model.denoise(model.encode(["a cat"]), seeds=[0], steps=2, guidance=4.0)
        return found

    plain = latents()
    with erasure.attached(pipe):
        edited = latents()
    changed = [bool((edited - plain)[inside(block).expand_as(plain)].abs().max() > 1e-5) for block in range(BLOCKS)]
    assert changed == [False, False, True, True]  # the last block goes on after the third
    assert len(states()) == 2 * BLOCKS
    assert states()[0].shape[1] == 4


def test_a_stream_holds_every_step_of_every_block():
    model = efface.Model(pipeline("acdit"))
    stream = ActivationStream(model, PROMPTS, HarvestConfig((SITE,), steps=2, guidance=4.0), images=3)
    assert stream.round(0)[SITE].shape == (2 * BLOCKS * 3 * 4, 16)


def statistics_of(means: torch.Tensor) -> Statistics:
    """Of two concepts (concepts timesteps latents), two levels of two blocks."""
    return Statistics(
        concepts=("church", "cat"), kinds=("object", "object"), timesteps=torch.tensor([1800.0, 1200.0, 800.0, 200.0]),
        means=means, cutoff=torch.tensor([1.0, 2.0, 3.0, 4.0]), pictures=2, counts=(1, 1),
    )  # fmt: skip


def test_blocks_share_statistics_where_their_scores_agree():
    church = [
        [4.0, 0, 1],
        [4, 0, 1],
        [8, 0, 1],
        [0, 4, 1],
    ]  # the second level chooses another latent in the second block
    cat = [[0.0, 0, 1]] * 4
    stats = statistics_of(torch.tensor([church, cat]))
    keyed, shared, agreeing = (
        over_blocks(stats, 2, "church", count=1, how=how) for how in ("keyed", "shared", "agreeing")
    )
    assert keyed is stats
    assert over_blocks(stats, 1, "church", count=1, how="shared") is stats
    pooled = [[6.0, 0, 1], [2, 2, 1]]
    assert shared.of("church").tolist() == [*pooled, *pooled]
    assert shared.cutoff.tolist() == [2.0, 3.0, 2.0, 3.0]
    assert agreeing.of("church").tolist() == [pooled[0], church[1], pooled[0], church[3]]
    assert agreeing.cutoff.tolist() == [2.0, 2.0, 2.0, 4.0]
    with pytest.raises(efface.EffaceError, match="4 timesteps for 3 blocks"):
        over_blocks(stats, 3, "church", count=1, how="shared")


# Refused


TRAINED = [name for name in ERASERS.builtin if issubclass(ERASERS.load(name).Config, Training)]


def test_erasers_are_trained_or_known():
    closed = {"uce", "rece", "gated", "joint", "preserve", "project", "speed", "oce", "double-projection"}
    guards = {"sld", "negative-prompt", "safree", "seot", "concept-steerers", "crg"}
    assert set(ERASERS.builtin) - set(TRAINED) == closed | guards | {"saeuron", "anchored", "itd", "sauce"}


@pytest.mark.parametrize("method", TRAINED)
def test_trained_erasers_are_refused_before_they_train(method):
    given = {"keep": ["a dog"]} if hasattr(ERASERS.load(method).Config, "keep") else {}
    with pytest.raises(efface.EffaceError, match=r"acdit takes erasures of the kinds .* this one is a delta") as error:
        efface.erase(pipeline("acdit"), CHURCH, method=method, **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["gated", "preserve"])
def test_other_maps_act(method):
    pipe = pipeline("acdit")
    erasure = efface.erase(pipe, CHURCH, method=method, keep=["a dog"])
    plain, erased = [], []
    for found, attached in ((plain, nullcontext()), (erased, erasure.attached(pipe))):
        with attached:
            found += map(np.asarray, efface.Model(pipe).draw(PROMPTS, seeds=[1, 2], steps=2, guidance=4.0))
    assert not np.array_equal(erased[0], plain[0])


@pytest.mark.parametrize("method", ["sld", "safree", "negative-prompt", "seot"])
def test_guards_are_refused(method):
    pipe = pipeline("acdit")
    erasure = efface.erase(pipe, CHURCH, method=method)
    with pytest.raises(efface.EffaceError, match="this one is a guard"):
        erasure.attach(pipe)


def test_another_size_is_refused():
    pipe = pipeline("acdit")
    with pytest.raises(efface.UsageError, match="draws 16 x 16"):
        efface.Model(pipe).draw(["a cat"], seeds=[0], steps=1, side=32)
    with pytest.raises(efface.UsageError, match="draws 16 x 16"):
        pipe("a cat", height=32)
    with pytest.raises(efface.UsageError, match="expected 1 to 3"):
        pipe("a cat", clean_latents=torch.zeros(1, 4, 8, 8), clean_blocks=4)
    with pytest.raises(efface.UsageError, match="no prompt"):
        pipe()


def test_one_noise_level_for_a_whole_picture_is_refused():
    scheduler = pipeline("acdit").scheduler
    with pytest.raises(efface.EffaceError, match="differs from cell to cell"):
        scheduler.noise_shares(torch.tensor([500.0]), torch.zeros(1))
