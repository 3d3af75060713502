"""EraseFlow: steps and densities of its trajectories, its loss against the formula, and what it refuses."""

from __future__ import annotations

import pytest
import torch

import efface
import tiny_families
from efface.erasers import eraseflow
from efface.models.model import Model
from efface.training.trajectory import LEAST, levels_of, log_density, predicted, trajectory
from trained import begun
from trained_searches import CHURCH, DOG, erased, started


def test_levels_and_steps_are_those_of_ddim(sd, model):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(sd.scheduler.config)
    scheduler.set_timesteps(4)
    z, output = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    levels = levels_of(model, 4, z)
    assert levels.timesteps.tolist() == scheduler.timesteps.tolist()
    for j, t in enumerate(scheduler.timesteps):
        mean, variance = levels.backward(j, model.to_clean(output, z, t), z)
        expected = scheduler.step(output, t, z, eta=1.0, variance_noise=torch.zeros_like(z)).prev_sample
        torch.testing.assert_close(mean, expected, atol=1e-4, rtol=1e-4)
        own = float(scheduler._get_variance(t, t - 250))
        assert variance == pytest.approx(max(own, LEAST), rel=1e-3)


def test_densities_are_those_of_torch():
    z, mean = torch.randn(2, 3, 4, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    expected = torch.distributions.Normal(mean, 0.3**0.5).log_prob(z).mean()
    torch.testing.assert_close(log_density(z, mean, 0.3), expected)


@pytest.mark.parametrize("family", ["sd2", "sd3"])
def test_noise_and_its_removal_are_one_chain_for_v_and_flow(family):
    """Bayes: p(z') q(z | z') = q(z' | z, x) p(z) at every point, of Gaussians around known clean latents."""
    model = Model(tiny_families.pipeline(family))
    levels = levels_of(model, 4, torch.zeros(1, *model.family.latent_shape(None)))
    g = torch.Generator().manual_seed(0)
    x, here, after = torch.randn(3, 5, generator=g, dtype=torch.double)
    plain = [j for j in range(len(levels.timesteps)) if levels.b[j + 1] ** 2 > 10 * LEAST]
    assert len(plain) >= 2
    for j in plain:
        k, v = levels.forward(j)
        mean, variance = levels.backward(j, x, here)
        a, b = levels.a, levels.b
        joint = log_density(after, a[j + 1] * x, float(b[j + 1] ** 2)) + log_density(here, k * after, v)
        other = log_density(after, mean, variance) + log_density(here, a[j] * x, float(b[j] ** 2))
        torch.testing.assert_close(joint, other, atol=1e-6, rtol=1e-6)


def test_eraseflow_is_its_formula(model):
    options = {"draw_steps": 4, "early": 1, "late": 1, "keep": (), "beta": 1.0}
    training = begun(model, "eraseflow", [CHURCH], **options)
    started(training)
    step = training.step()
    levels = levels_of(model, 4, torch.zeros(1, 4, 8, 8))
    with training.held.active():
        z = trajectory(model, levels, model.encode(["a cat"]), 11, 5.0, None)
        chosen = eraseflow.counted(4, eraseflow.Config(early=1, late=1), step.random)
        total = -0.195 - 1.0
        for j in chosen:
            mean, variance = predicted(model, levels, j, z[j], model.encode(["a church"]), 5.0)
            k, v = levels.forward(j)
            normal = torch.distributions.Normal
            p = normal(mean.double(), variance**0.5).log_prob(z[j + 1].double()).mean()
            total += float(p.detach() - normal(k * z[j + 1].double(), v**0.5).log_prob(z[j].double()).mean())
    assert len(chosen) == 2
    assert chosen[-1] == 3
    loss, gradients = training.gradients()
    assert loss == pytest.approx(total**2, rel=1e-3)
    assert any(g.abs().max() > 0 for g in gradients)


def test_steps_computed_together_give_the_same_loss(model):
    levels = levels_of(model, 4, torch.zeros(1, 4, 8, 8))
    z = trajectory(model, levels, model.encode(["a cat"]), 11, 5.0, None)
    church = model.encode(["a church"])
    alone, together = (eraseflow.balance(model, levels, z, [0, 2, 3], church, 5.0, count) for count in (1, 2))
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_concepts_take_turns_and_each_has_one(sd):
    with pytest.raises(efface.UsageError, match="iterations is 1 for 2 concepts"):
        erased(sd, "eraseflow", concepts=(CHURCH, DOG), iterations=1)


def test_distilled_models_have_no_guided_densities():
    with pytest.raises(efface.EffaceError, match="distilled with guidance"):
        efface.erase(tiny_families.pipeline("flux-schnell"), CHURCH, method="eraseflow", keep=[])
