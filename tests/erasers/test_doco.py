"""DoCo: its two players against the formulas, and the two ways of taking a conflict out of a gradient."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import softplus

import efface
from efface.erasers import ERASERS
from efface.models.model import Model
from efface.training.discriminator import Critic, Discriminator
from efface.training.filters import clipped, without_conflict, without_direction
from efface.training.images import draw_concept_images
from trained import begun

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}",))
OPTIONS = {"images": 2, "batch": 2, "draw_steps": 3, "iterations": 3, "warmup": 1, "keep": ()}


def pair(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(5, 7, generator=g, dtype=torch.double), torch.randn(5, 7, generator=g, dtype=torch.double)


def test_a_conflict_leaves_nothing_along_what_is_kept_and_no_conflict_leaves_all():
    g, kept = pair()
    kept = kept if (g * kept).sum() < 0 else -kept
    assert abs(float((without_conflict(g, kept) * kept).sum())) < 1e-12
    for project in (without_conflict, without_direction):
        assert torch.equal(project(g, -kept), g)
        assert torch.equal(project(g, torch.zeros_like(g)), g)


def test_what_was_released_is_the_projection_of_gradients_of_length_one_only():
    g, kept = pair(1)
    kept = kept if (g * kept).sum() < 0 else -kept
    unit = g / g.norm()
    torch.testing.assert_close(
        without_direction(unit, kept, 0.5), without_conflict(unit, kept, 0.5), atol=1e-14, rtol=0
    )
    assert not torch.allclose(without_direction(g, kept), without_conflict(g, kept), atol=1e-3)


def test_gradients_are_clipped_together():
    a, b = torch.full((2,), 3.0), torch.full((2,), 4.0)
    one, two = clipped([a, b], 1.0)
    assert float(torch.cat([one, two]).norm()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(two / one, b / a)
    assert torch.equal(clipped([a], 100.0)[0], a)


@pytest.mark.parametrize(("side", "convolutions"), [(4, 2), (8, 3), (16, 4), (32, 5), (64, 5), (128, 5)])
def test_the_discriminator_fits_every_size(side, convolutions):
    net = Discriminator(4, side)
    assert sum(isinstance(layer, torch.nn.Conv2d) for layer in net.layers) == convolutions
    assert net(torch.zeros(2, 4, side, side)).shape[:2] == (2, 1)


def naive_players(model, training, config, number):
    """Gradients of the model and of the discriminator before a step, written out; nothing is changed."""
    album = draw_concept_images(model, ["a cat"], 2, {"steps": 3, "guidance": 6.0, "side": None})
    x = album.batch(2, 0, number)
    alpha = model.pipeline.scheduler.alphas_cumprod[x.timesteps].reshape(-1, 1, 1, 1)
    z = alpha.sqrt() * x.clean + (1 - alpha).sqrt() * x.noise
    texts = {name: model.encode([name] * 2) for name in ("a cat", "a church")}
    net = training.options["kept"].net

    def clean(output):
        return (z - (1 - alpha).sqrt() * output) / alpha.sqrt()

    held = training.held

    def gradients(value, tensors):
        return [g.double() for g in torch.autograd.grad(value, tensors, retain_graph=True, allow_unused=False)]

    x_a = clean(model.predict(z, x.timesteps, texts["a cat"])).detach()
    with held.active():
        own = [weight.read() for weight in held.weights]
        x_c = clean(model.predict(z, x.timesteps, texts["a church"]))
        deceived = softplus(net(x_c)).mean()
        g_c = gradients(deceived, own)
        g_a = gradients((model.predict(z, x.timesteps, texts["a cat"]) - x.noise).square().mean(), own)
    norm = sum(float(g.square().sum()) for g in g_c) ** 0.5
    g_c = [g * min(1.0, 1 / norm) for g in g_c]
    players = []
    for c, a in zip(g_c, g_a, strict=True):
        inner = float((c * a).sum())
        length = float(a.square().sum()) if config.projection == "true" else float(c.norm() * a.norm() * a.norm())
        players.append(c - inner / length * a if inner < 0 else c)
    told = softplus(net(x_a)).mean() + softplus(-net(x_c.detach())).mean()
    return float(deceived.detach()), players, gradients(told, list(net.parameters()))


@pytest.mark.parametrize("projection", ["true", "released"])
def test_doco_is_its_formula(model, projection):
    options = OPTIONS | {"projection": projection}
    training = begun(model, "doco", [CHURCH], **options)
    g = torch.Generator().manual_seed(0)
    for p in training.held.parameters:
        p.data += 0.1 * torch.randn(p.shape, generator=g)
    deceived, players, told = naive_players(model, training, ERASERS.load("doco").Config(**options), 1)
    critic = training.options["kept"]
    loss, gradients = training.gradients(1)
    assert loss == pytest.approx(deceived, rel=1e-4)
    for found, expected in zip(gradients, players, strict=True):
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-3)
    # The generator's own gradients are not left in the discriminator.
    for p, expected in zip(critic.net.parameters(), told, strict=True):
        torch.testing.assert_close(p.grad.double(), expected, atol=1e-5, rtol=1e-3)


def test_the_warm_up_trains_the_discriminator_alone(sd):
    erasure = efface.erase(sd, CHURCH, method="doco", **OPTIONS | {"iterations": 3, "warmup": 2, "lr": 1e-2})
    assert any(delta.abs().max() > 0 for delta in erasure.deltas.values())
    training = begun(Model(sd), "doco", [CHURCH], **OPTIONS | {"warmup": 2})
    before = [p.detach().clone() for p in training.options["kept"].net.parameters()]
    _, gradients = training.gradients(0)
    assert all(g.abs().max() == 0 for g in gradients)
    assert any(not torch.equal(a, b) for a, b in zip(before, training.options["kept"].net.parameters(), strict=True))


def test_levels_and_rates():
    eraser = ERASERS.load("doco")
    style = efface.Concept("Van Gogh", kind="style")
    assert eraser.settle(eraser.Config(), [style]).critic_lr == 5e-4
    assert eraser.settle(eraser.Config(), [CHURCH, style]).critic_lr == 1e-4
    assert eraser.settle(eraser.Config(critic_lr=2e-3), [style]).critic_lr == 2e-3
    with pytest.raises(efface.UsageError, match="a warm-up of fewer than the 10"):
        eraser.Config(iterations=10)


def test_noisy_levels_can_be_left_out(model):
    from efface.training.images import ConceptImages

    album = ConceptImages(["a cat"], torch.zeros(1, 4, 8, 8), 100)
    assert max(int(album.batch(8, i).timesteps.max()) for i in range(20)) < 100


def test_every_prompt_needs_a_picture(sd):
    two = efface.Concept("church", anchor="cat", templates=("a {}", "{}", "the {}"))
    with pytest.raises(efface.UsageError, match="images is 2 for 3 prompts"):
        efface.erase(sd, two, method="doco", **OPTIONS)


def test_two_critics_of_one_seed_are_one():
    a, b = (Critic((4, 8, 8), 1e-3, 7, torch.device("cpu")) for _ in range(2))
    for critic in (a, b):
        critic.learn(torch.ones(2, 4, 8, 8), torch.zeros(2, 4, 8, 8))
    b.restore(a.state())
    assert all(torch.equal(p, q) for p, q in zip(a.net.parameters(), b.net.parameters(), strict=True))
