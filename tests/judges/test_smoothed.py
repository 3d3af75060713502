"""The smoothed judge: its bound against closed forms, its verdicts as a judge's, its denoiser, and descent through it."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import efface
from efface.api.smoothing import judge_named
from efface.errors import UsageError
from efface.judges import Verdicts, open_judge
from efface.judges.criterion import criterion_for
from efface.judges.pgd import norms, pgd
from efface.judges.smoothed import ABSTAINS, SmoothedJudge, clopper_pearson_lower
from efface.models.denoiser import latent_noise, nearest_timestep, picture_denoiser
from efface.models.pictures import pixels_of

SIDE = 8
WEIGHTS = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


class Linear:
    """Calls a picture "bright" where w·x of its pixels in 0 to 1 is above a threshold."""

    name, classes, detects = "linear-1", ("bright", "dark"), False

    def __init__(self, threshold: float = 0.0):
        self.threshold = threshold

    def margin(self, images):
        return torch.stack([((pixels_of([i])[0] + 1) / 2 * WEIGHTS).sum() for i in images]) - self.threshold

    def __call__(self, images):
        margin = self.margin(images)
        labels = tuple("bright" if m > 0 else "dark" for m in margin)
        scores = torch.sigmoid(torch.stack([margin, -margin], 1))
        return Verdicts(labels, scores, torch.ones(len(images), dtype=torch.bool))


class Finder(Linear):
    """The same as a detector."""

    detects = True

    def __call__(self, images):
        verdicts = super().__call__(images)
        counts = torch.tensor([[label == name for name in self.classes] for label in verdicts.labels]).int()
        return verdicts._replace(counts=counts)


def picture(seed: int) -> Image.Image:
    """Of middling pixels, so that noise of 0.05 stays inside the range."""
    levels = np.random.default_rng(seed).integers(110, 146, size=(SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def nothing(noisy: Tensor) -> Tensor:
    return noisy


@pytest.mark.parametrize("seed", range(20))
def test_a_radius_is_never_beyond_the_true_distance(seed):
    """For a half-space the distance to the other side is margin / |w|, and the smoothed verdict changes just there."""
    image = picture(seed)
    sigma, norm = 0.05, WEIGHTS.norm()
    threshold = float(Linear().margin([image])) - float(norm) * sigma * (0.2 + 0.1 * seed)
    judge = SmoothedJudge(Linear(threshold), nothing, sigma, count=400, seed=seed)
    (found,) = judge.certify([image])
    distance = sigma * (0.2 + 0.1 * seed)
    # Rounding to 255 levels is noise too: 1/√12 of a level a pixel beside σ of 12.75 levels.
    assert found.radius <= distance * 1.01
    assert found.probability <= NormalDist().cdf(distance / sigma) + 0.005
    if distance > 0.5 * sigma:
        assert found.label == "bright"
        assert found.radius > 0


def test_it_abstains_between_both_sides():
    image = picture(0)
    judge = SmoothedJudge(Linear(float(Linear().margin([image]))), nothing, 0.05)
    verdicts = judge([image])
    assert verdicts.labels == (ABSTAINS,)
    assert not criterion_for(judge, "bright")([image])[0].shown
    assert judge.certify([image])[0].radius == 0


@pytest.mark.parametrize(
    ("hits", "count", "alpha"), [(0, 10, 0.05), (10, 10, 0.05), (7, 10, 0.05), (180, 200, 0.001), (9990, 10000, 0.001)]
)
def test_the_bound_against_the_binomial(hits, count, alpha):
    p = clopper_pearson_lower(hits, count, alpha)
    tail = (
        sum(math.comb(count, k) * p**k * (1 - p) ** (count - k) for k in range(hits, count + 1))
        if count < 1000
        else None
    )
    if hits == 0:
        assert p == 0
    elif tail is not None:
        assert tail == pytest.approx(alpha, rel=1e-6)
    assert p <= hits / count
    assert clopper_pearson_lower(200, 200, 0.001) == pytest.approx(0.001 ** (1 / 200))


def test_the_largest_radii():
    for count, most in ((200, 1.82), (1000, 2.46), (10_000, 3.20)):
        assert NormalDist().inv_cdf(clopper_pearson_lower(count, count, 0.001)) == pytest.approx(most, abs=0.01)


def test_verdicts_depend_on_no_neighbour_and_are_the_same_again():
    images = [picture(k) for k in range(3)]
    judge = SmoothedJudge(Linear(float(Linear().margin(images).mean())), nothing, 0.05, guesses=20, count=40)
    together, alone = judge(images), [judge([image]) for image in images]
    assert together.labels == tuple(v.labels[0] for v in alone)
    assert torch.equal(together.scores, torch.cat([v.scores for v in alone]))
    assert judge(images).labels == together.labels
    other = SmoothedJudge(judge.judge, nothing, 0.05, guesses=20, count=40, seed=1)
    assert not torch.equal(other(images).scores, together.scores)
    assert other.name != judge.name
    assert judge([]).scores.shape == (0, 2)


def test_a_detector_is_counted():
    judge = SmoothedJudge(Finder(-1000.0), nothing, 0.05, guesses=5, count=40)
    assert judge([picture(0)]).counts.tolist() == [[1, 0]]
    assert criterion_for(judge, "anything")([picture(0)])[0].shown
    (certificate,) = judge.certify([picture(0)])
    assert certificate.label == judge.classes[0]
    assert certificate.radius == pytest.approx(0.05 * NormalDist().inv_cdf(0.001 ** (1 / 40)))


def test_bad_judges():
    for options in ({"sigma": 0.0}, {"sigma": math.inf}, {"sigma": 0.1, "count": 0}, {"sigma": 0.1, "alpha": 1.0}):
        with pytest.raises(UsageError, match="expected"):
            SmoothedJudge(Linear(), nothing, **options)
    with pytest.raises(UsageError, match="by a model in hand"):
        open_judge("smooth:0.1:canvas-object")
    for spec in (
        "smooth",
        "smooth:",
        "smooth:0.1",
        "smooth:x:canvas-object",
        "smooth:0.1:",
        "smooth:0.1:smooth:0.1:nsfw",
    ):
        with pytest.raises(UsageError, match="is not of the form"):
            open_judge(spec, denoiser=lambda sigma: nothing)
    with pytest.raises(UsageError, match="positive"):
        open_judge("smooth:-1:canvas-object", denoiser=lambda sigma: nothing)


def test_descent_on_a_half_space():
    """The shortest way is along w: the descent reaches the boundary exactly where the ball does."""
    x = torch.full((2, 3, SIDE, SIDE), 0.5)
    w = WEIGHTS / WEIGHTS.norm()

    def logits(pixels):
        margin = ((pixels - 0.5) * w).flatten(1).sum(1)
        return torch.stack([margin, torch.zeros_like(margin)], 1)

    for sigma, draws in ((0.0, 1), (0.02, 4)):
        moved = pgd(logits, x, torch.zeros(2, dtype=torch.long), radius=0.3, steps=10, sigma=sigma, draws=draws) - x
        assert (norms(moved) <= 0.3 + 1e-6).all()
        torch.testing.assert_close(moved, -0.3 * w.expand_as(moved), rtol=0, atol=1e-4)
    edge = pgd(logits, torch.zeros_like(x), torch.zeros(2, dtype=torch.long), radius=5.0, steps=5)
    assert edge.min() >= 0
    assert edge.max() <= 1


def test_the_denoiser_of_a_model(sd):
    model = efface.Model(sd)
    pictures = model.draw(["a church", "a cat"], seeds=[0, 1], steps=2)
    shrunk, spread = latent_noise(model, 0.1, pixels_of(pictures))
    assert shrunk > 0
    assert latent_noise(model, 0.2, pixels_of(pictures))[1] > spread > 0
    t = nearest_timestep(model, 1.0)
    alpha = sd.scheduler.alphas_cumprod
    assert ((1 - alpha[t]) / alpha[t]).sqrt().item() == pytest.approx(1, abs=0.02)
    denoise = picture_denoiser(model, 0.1, pictures)
    noisy = torch.rand(2, 3, 16, 16, requires_grad=True)
    found = denoise(noisy)
    assert found.shape == noisy.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.autograd.grad(found.sum(), noisy)[0].abs().sum() > 0
    with pytest.raises(UsageError, match="none was given"):
        picture_denoiser(model, 0.1, [])


def test_it_denoises_by_the_unerased_model(sd):
    """The same verdicts whether or not an erasure is attached while the judge is asked, as in an attack."""
    from efface.erasures.switch import ModelVariant, keep_attached

    erasure = efface.erase(sd, efface.Concept("church", anchor="cat", templates=("a {}",)), method="uce", keep=[])
    judge = judge_named("smooth:0.1:canvas-object", sd, ["a church"])
    assert judge.name.startswith("smooth-0.1-")
    judge.guesses, judge.count = 4, 8
    image = efface.Model(sd).draw(["a church"], seeds=[0], steps=2)[0]
    plain = judge([image])
    with keep_attached(), ModelVariant(efface.Model(sd), (erasure,)).attached():
        pass
    with keep_attached():
        with ModelVariant(efface.Model(sd), (erasure,)).attached():
            pass  # it stays attached
        assert torch.equal(judge([image]).scores, plain.scores)
