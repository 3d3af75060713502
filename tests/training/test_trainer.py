"""The trainer: holders, latents at their own level, targets for every prediction, and a loop that resumes to the bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import DDIMScheduler

import efface
import tiny_families
from efface.errors import EffaceError, UsageError
from efface.families.schedule import Mixture
from efface.models.model import Model
from efface.training.config import Rolling, Training
from efface.training.filters import Average, without_conflict
from efface.training.groups import encoder_weights, weights_of
from efface.training.holders import Dense, LowRank
from efface.training.latents import Noisy, rolled
from efface.training.loop import train
from efface.training.targets import apart, mix

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}",))


@pytest.fixture(scope="module")
def model(sd):
    return Model(sd)


def state_of(model):
    return {f"{c}.{n}": p.clone() for c, module in model.components().items() for n, p in module.state_dict().items()}


def at(model, seed=0, batch=1):
    g = torch.Generator().manual_seed(seed)
    return Noisy(torch.randn(batch, *model.family.latent_shape(None), generator=g), torch.tensor(400))


@pytest.mark.parametrize("where", ["text", "cross", "rest", "all"])
def test_groups_are_what_they_say(model, where):
    names = {w.name for w in weights_of(model, where)}
    everything = {f"unet.{n}" for n, _ in model.networks()[0].module.named_parameters()}
    assert names <= everything
    crossing = {n for n in everything if ".attn2." in n}
    if where == "all":
        assert names == everything
    elif where == "text":
        assert names == {f"{p.name}.weight" for p in model.text_projections()}
    elif where == "cross":
        assert names == crossing
    else:
        assert names
        assert not names & crossing


def test_a_second_attention_to_the_picture_itself_is_no_cross_attention():
    sd35 = Model(tiny_families.pipeline("sd35"))
    names = {where: {w.name for w in weights_of(sd35, where)} for where in ("text", "cross", "rest")}
    assert not [n for n in names["text"] | names["cross"] if ".attn2." in n]
    assert [n for n in names["rest"] if ".attn2." in n]


def test_a_group_that_is_empty_and_weights_that_cannot_be_trained_are_refused(model):
    with pytest.raises(EffaceError, match="no text encoder 'text_encoder_9'; expected one of text_encoder"):
        encoder_weights(model, "text_encoder_9", "mlp")
    with pytest.raises(EffaceError, match="matches 'nonsense'"):
        encoder_weights(model, "text_encoder", "nonsense")
    with pytest.raises(UsageError, match="rank is 0"):
        Training(rank=0)
    with pytest.raises(UsageError, match="lr is 0"):
        Training(lr=0.0)


@pytest.mark.parametrize("rank", [None, 2])
def test_what_was_trained_is_what_is_attached(sd, model, rank):
    weights = weights_of(model, "cross")
    held = Dense(weights) if rank is None else LowRank(weights, rank, 0)
    g = torch.Generator().manual_seed(5)
    for p in held.parameters:
        p.data += 0.1 * torch.randn(p.shape, generator=g)
    text, z = model.encode(["a church"]), at(model)
    before = model.predict(z.z, z.timestep, text)
    with held.active():
        active = model.predict(z.z, z.timestep, text)
    assert torch.equal(model.predict(z.z, z.timestep, text), before)
    from efface.erasures.delta import weight_delta
    from efface.erasures.provenance import provenance

    erasure = weight_delta(provenance(model, "esd", {}, [CHURCH], []), held.delta())
    with erasure.attached(sd):
        attached = model.predict(z.z, z.timestep, text)
    assert not torch.allclose(active, before, atol=1e-3)
    torch.testing.assert_close(attached, active, atol=1e-4, rtol=1e-4)


def test_the_level_is_that_of_the_latents(sd, model):
    text = model.encode(["a church"])
    scheduler = type(sd.scheduler).from_config(sd.scheduler.config)
    scheduler.set_timesteps(6)
    drawn = list(model.denoise(text, seeds=[3], steps=6, guidance=3.0))
    for after in range(6):
        found = rolled(model, text, after, 3, steps=6, guidance=3.0, side=None)
        assert float(found.timestep) == float(scheduler.timesteps[after])
        if after:
            assert torch.equal(found.z, drawn[after - 1][1])
    with pytest.raises(UsageError, match="expected 0 to 5"):
        rolled(model, text, 6, 3, steps=6, guidance=3.0, side=None)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_a_mix_is_the_same_prediction_whatever_the_model_predicts(kind):
    g = torch.Generator().manual_seed(1)
    z, *eps = torch.randn(4, 2, 3, generator=g, dtype=torch.double)
    b = torch.tensor(0.6, dtype=torch.double)
    mixture = Mixture(kind, 1 - b if kind == "flow" else (1 - b**2).sqrt(), b)
    outputs = [mixture.output((z - mixture.b * e) / mixture.a, e) for e in eps]
    weights = (2.5, -2.0, 0.5)
    w = torch.tensor(weights, dtype=torch.double)[:, None, None]
    mixed, expected = ((w * torch.stack(list(of))).sum(0) for of in (outputs, eps))
    torch.testing.assert_close(mixture.noise(mixed, z), expected, atol=1e-12, rtol=1e-12)
    # The same difference in units of the noise: raw times a squared, for v and flow.
    raw = (outputs[0] - outputs[1]).square()
    scale = 1.0 if kind == "epsilon" else mixture.a**2
    torch.testing.assert_close(raw * scale, (eps[0] - eps[1]).square(), atol=1e-12, rtol=1e-12)


def test_mix_batches_what_a_loop_adds_up(model):
    z = at(model)
    parts = [(model.encode([p]), w) for p, w in (("a church", -1.0), ("", 1.5), ("a cat", 0.5))]
    expected = sum(w * model.predict(z.z, z.timestep, t) for t, w in parts)
    torch.testing.assert_close(mix(model, z, parts), expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match=r"add up to 0\.5"):
        mix(model, z, parts[2:])


def test_v_is_measured_in_noise(sd, model):
    g = torch.Generator().manual_seed(2)
    one, two = torch.randn(2, 1, 4, 8, 8, generator=g)
    t = torch.tensor(700)
    assert float(apart(model, one, two, t, "noise")) == pytest.approx(float((one - two).square().mean()))
    own = sd.scheduler
    try:
        sd.scheduler = DDIMScheduler.from_config(own.config, prediction_type="v_prediction")
        alpha = float(own.alphas_cumprod[700])
        assert float(apart(model, one, two, t, "noise")) == pytest.approx(
            alpha * float(apart(model, one, two, t, "raw"))
        )
    finally:
        sd.scheduler = own


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("decay", [None, 0.9])
@pytest.mark.parametrize("rank", [None, 2])
def test_ten_steps_are_five_and_five_resumed_and_the_model_is_untouched(model, tmp_path, rank, decay):
    config = Training(iterations=10, every=5, lr=1e-2, rank=rank)
    texts = [model.encode([p]) for p in ("a church", "a cat")]

    def run(folder, stop=None):
        held = LowRank(weights_of(model, "text"), rank, 0) if rank else Dense(weights_of(model, "text"))

        def loss(step):
            if step.number == stop:
                raise _StoppedError
            z = at(model, step.seed)
            with step.edited():
                return step.predict(z, step.pick(texts)).square().mean()

        return train(model, held, loss, config, decay=decay, folder=folder)

    before = state_of(model)
    flags = [p.requires_grad for p in model.networks()[0].module.parameters()]
    whole = run(None)
    with pytest.raises(_StoppedError):
        run(tmp_path, stop=7)
    resumed = run(tmp_path)
    assert whole.deltas.keys() == resumed.deltas.keys()
    assert all(torch.equal(whole.deltas[name], resumed.deltas[name]) for name in whole.deltas)
    assert any(delta.abs().max() > 0 for delta in whole.deltas.values())
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(value, before[name]) for name, value in state_of(model).items())
    assert flags == [p.requires_grad for p in model.networks()[0].module.parameters()]


def test_an_interrupted_training_returns_what_it_learnt_and_says_so(model, tmp_path):
    def loss(step):
        if step.number == 3:
            raise KeyboardInterrupt
        with step.edited():
            return step.predict(at(model), model.encode(["a church"])).square().mean()

    held = Dense(weights_of(model, "text"))
    trained = train(model, held, loss, Training(iterations=9, every=2), folder=tmp_path)
    assert trained.notes["steps"] == 3
    assert trained.notes["unfinished"] == 6
    assert any(delta.abs().max() > 0 for delta in trained.deltas.values())
    assert list(tmp_path.iterdir())  # who runs it again goes on


def test_what_is_not_finite_is_refused(model):
    held = Dense(weights_of(model, "text"))
    with pytest.raises(EffaceError, match="the loss of step 0 is nan"):
        train(model, held, lambda step: torch.tensor(float("nan"), requires_grad=True), Training(iterations=1))


def test_checkpointing_changes_no_gradient(model):
    def learnt(checkpointing):
        held = Dense(weights_of(model, "cross"))

        def loss(step):
            with step.edited():
                return step.predict(at(model), model.encode(["a church"])).square().mean()

        config = Training(iterations=2, lr=1e-3, checkpointing=checkpointing)
        return train(model, held, loss, config, optimiser=torch.optim.SGD(held.parameters, lr=1e-2)).deltas

    kept, again = learnt(False), learnt(True)
    for name in kept:
        torch.testing.assert_close(again[name], kept[name], atol=1e-6, rtol=1e-4)


def test_gradients_without_conflict():
    g, kept = torch.tensor([1.0, -1.0]), torch.tensor([0.0, 2.0])
    assert torch.equal(without_conflict(g, -kept), g)
    assert float((without_conflict(g, kept) * kept).sum()) == 0


def test_the_average_has_its_closed_form():
    p = torch.zeros(3)
    average = Average([p], 0.9)
    for _ in range(7):
        average.update([torch.ones(3)])
    torch.testing.assert_close(average.values[0], torch.full((3,), 1 - 0.9**7))


def test_a_bank_is_rolled_once_and_drawn_from_again_and_again(model, monkeypatch):
    from efface.training import terms

    made = []
    rolled = terms.rolled
    monkeypatch.setattr(terms, "rolled", lambda *given, **options: made.append(given) or rolled(*given, **options))
    config = Rolling(draw_steps=4, bank=2)
    text = model.encode(["a church"])
    seen = set()

    def loss(step):
        z = terms.roll(step, text, config)
        seen.add(float(z.z.sum()))
        with step.edited():
            return step.predict(z, text).square().mean()

    train(model, Dense(weights_of(model, "text")), loss, dataclasses.replace(config, iterations=8))
    assert len(seen) == len(made) == 2
