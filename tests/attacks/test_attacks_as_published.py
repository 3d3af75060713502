"""UnlearnDiffAtk as its authors ran it, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from efface.attacks import configured
from efface.attacks.simplex import sampled
from efface.errors import UsageError

VALUES = {
    "timesteps": 50, "iterations": 40, "lr": 0.01, "weight_decay": 0.1, "clip": 1.0, "place": "prefix", "vocabulary": "all",
}  # fmt: skip


class Straight(torch.autograd.Function):
    """Words drawn going forward; coming back, the gradient with every entry between −1 and 1 (text_grad_.py)."""

    @staticmethod
    def forward(ctx, points, hot):
        return hot

    @staticmethod
    def backward(ctx, gradient):
        return F.hardtanh(gradient), None


@pytest.mark.parametrize("clip", [1.0, None])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_the_straight_through_gradient_is_clipped(clip, scale):
    g = torch.Generator().manual_seed(0)
    points = torch.rand(2, 3, 9, generator=g, dtype=torch.float64).softmax(-1).requires_grad_()
    table = scale * torch.randn(9, 4, generator=g, dtype=torch.float64)

    def loss(hot):
        return ((hot @ table) ** 2).sum((1, 2)).sum()

    hot = sampled(points, [torch.Generator().manual_seed(k) for k in range(2)], clip)
    loss(hot).backward()
    drawn = torch.stack(
        [p.detach().multinomial(1, generator=torch.Generator().manual_seed(k)) for k, p in enumerate(points)]
    )
    plain = F.one_hot(drawn[..., 0], 9).double()
    assert torch.equal(hot.detach().round(), plain)
    again = points.detach().clone().requires_grad_()
    loss(Straight.apply(again, plain) if clip else plain - again.detach() + again).backward()
    torch.testing.assert_close(points.grad, again.grad, rtol=1e-8, atol=1e-10)
    if clip and scale == 30:
        assert float(points.grad.abs().max()) == 1


@pytest.mark.parametrize("field", VALUES)
def test_values(field):
    assert getattr(configured("unlearndiff"), field) == VALUES[field]


@pytest.mark.parametrize("budget", ["canvas", "quick"])
def test_smaller_budgets_clip_nothing(budget):
    assert configured("unlearndiff", budget).clip is None


def test_a_clip_of_nothing_is_refused():
    with pytest.raises(UsageError, match="clip is 0; expected a number above 0"):
        configured("unlearndiff", clip=0)
