"""Rounds of activations and the pages' figures, whatever number of pictures is drawn at a time."""

from __future__ import annotations

import pytest
import torch

import efface
import tiny
from efface.concepts.sample import Sample
from efface.errors import EffaceError
from efface.models.batches import limit_batch
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.dashboard import TOP, feature_dashboard, grid_of
from efface.sae.harvest import HarvestConfig, bytes_of, capture
from efface.sae.stream import ActivationStream, shuffled

DRAW = HarvestConfig((tiny.SITE,), steps=2, guidance=3.0)
PROMPTS = ("a cat", "a dog", "a church", "a garbage truck", "a cat in noto style")


@pytest.fixture
def model():
    return efface.Model(tiny.stable_diffusion())


def round_of(model, images=5):
    return ActivationStream(model, PROMPTS, DRAW, images=images).round(1)[tiny.SITE].clone()


def test_a_round_is_the_same_whatever_is_drawn_at_a_time(model):
    whole = round_of(model)
    assert whole.dtype == torch.float16
    limit_batch(model.networks()[0].module, 2)
    # Half precision keeps eleven bits; sums in another order move the last of float32's twenty-four.
    torch.testing.assert_close(round_of(model), whole, rtol=2**-10, atol=1e-3)


def test_a_round_holds_what_the_site_gave(model):
    stream = ActivationStream(model, PROMPTS, DRAW, images=3)
    numbers = range(3, 6)
    steps = list(capture(model, [shuffled(PROMPTS, n, DRAW.seed) for n in numbers], list(numbers), DRAW))
    expected = torch.stack([step.states[tiny.SITE] for step in steps]).flatten(0, 2)
    vectors = stream.round(1)[tiny.SITE]
    torch.testing.assert_close(vectors.float(), expected, rtol=2**-10, atol=1e-3)
    assert vectors.nbytes == bytes_of(stream.model, DRAW, 3, stream.shapes)


def test_rounds_share_their_memory(model):
    stream = ActivationStream(model, PROMPTS, DRAW, images=2)
    assert stream.round(0)[tiny.SITE].data_ptr() == stream.round(1)[tiny.SITE].data_ptr()


def test_every_second_picture_of_a_round_has_a_label(model):
    """So that an autoencoder goes on to know what no label knows."""
    shows, kinds = {"a cow": ("cow",), "a horse": ("horse",)}, {"cow": "object", "horse": "object"}
    stream = ActivationStream(model, PROMPTS, DRAW, images=6, shows=shows, kinds=kinds)
    width = stream.shapes[tiny.SITE][1]
    vectors = stream.round(0)[tiny.SITE].view(2, 1, 6, -1, width).float()
    groups = stream.groups()[tiny.SITE]
    assert groups.labels.sum(1).tolist() == [1, 1, 1]
    assert groups.labels.any(0).all()
    torch.testing.assert_close(groups.means, vectors[:, 0, ::2].mean(2))


def test_activations_beyond_half_precision_are_refused(model):
    for parameter in model.sites(tiny.SITE)[0].module.parameters():
        parameter.data.mul_(1e4)
    with pytest.raises(EffaceError, match="too large for torch"):
        round_of(model)


LABELS = tuple(Sample(prompt, seed, shows=(prompt.split()[1],)) for seed in range(4) for prompt in PROMPTS)


def autoencoder(width: int) -> SparseAutoencoder:
    sae = SparseAutoencoder(SAEConfig(width=width, latents=24, k=4, rule="topk"), seed=1)
    return sae.requires_grad_(False)


@pytest.mark.parametrize("batch", [3, 32])
def test_the_pages_figures_are_those_of_all_activations_at_once(model, batch):
    sae = autoencoder(model.sites(tiny.SITE)[0].read(torch.zeros(1, 16, 4, 4)).shape[-1])
    config = HarvestConfig((tiny.SITE,), steps=2, guidance=3.0, batch=batch)
    found = feature_dashboard(model, tiny.SITE, sae, LABELS, config)
    steps = list(capture(model, [s.prompt for s in LABELS], [s.seed for s in LABELS], config))
    dense = torch.stack([sae.encode(s.states[tiny.SITE].flatten(0, 1)).dense(24) for s in steps])
    heat = dense.view(len(steps), len(LABELS), -1, 24).mean(0)  # (pictures tokens latents)
    means = heat.mean(1)
    torch.testing.assert_close(found.total, means.sum(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.density, (dense > 0).float().mean((0, 1)), rtol=1e-4, atol=1e-4)
    best = means.topk(TOP, dim=0)
    torch.testing.assert_close(found.strength, best.values.T, rtol=1e-4, atol=1e-4)
    for top in found.strongest(int(means.sum(0).argmax()), 5):
        latent = int(means.sum(0).argmax())
        torch.testing.assert_close(top.heat.flatten(), heat[top.picture, :, latent], rtol=2**-9, atol=1e-3)
    own = torch.tensor([s.shows == ("cat",) for s in LABELS])
    shares = [part.mean(0) / part.mean(0).sum() for part in (means[own], means[~own])]
    torch.testing.assert_close(found.scores("cat"), shares[0] - shares[1], rtol=1e-3, atol=1e-4)
    assert len(found.pictures) == len(found.regions) == len(LABELS)
    assert found.pictures[3].size == (16, 16)
    cell = heat[0].view(4, 4, 24)[0, 0] if heat.shape[1] == 16 else None
    if cell is not None:
        latent, strength = found.regions_of(0)[0][0][0]
        assert abs(strength - float(cell.max())) < 1e-3
        assert abs(float(cell[latent]) - strength) < 1e-3


@pytest.mark.parametrize(
    ("tokens", "shape", "expected"), [(16, (8, 8), (4, 4)), (32, (4, 8), (4, 8)), (8, (8, 4), (4, 2))]
)
def test_maps_have_the_pictures_form(tokens, shape, expected):
    assert grid_of(tokens, shape) == expected
