"""What can come back through a gated map, against gradient search over states that leave the gate shut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import efface
import tiny
from efface.closed_form.certificate import certificate, gated_recoverable
from efface.closed_form.closed_gate import Spectrum, closed_distance
from efface.closed_form.gram import key_value_gram_of
from efface.models.model import Model

D = 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """S, z and w, with z well inside the gate."""
    matrix = draw(20, D, seed=seed) * torch.logspace(0, -1, D, dtype=torch.float64)
    z = 2 * draw(D, seed=seed + 1)
    w = torch.nn.functional.normalize(z + draw(D, seed=seed + 2), dim=0)
    return matrix.T @ matrix, z, w


def shut(y: Tensor, w: Tensor, b: float) -> Tensor:
    """The nearest y (n width) along w for which the gate is just shut, where it was open."""
    along = y @ w
    across = y - along[:, None] * w
    allowed = across.norm(dim=1) * b / (1 - b * b) ** 0.5
    return across + torch.minimum(along, allowed)[:, None] * w


def searched(s: Tensor, z: Tensor, w: Tensor, b: float) -> float:
    """The least |S^½(y − z)| that projected gradient descent finds over states with the gate shut."""
    y = shut(z + draw(400, D, seed=5) * z.norm(), w, b)
    best = torch.full((len(y),), torch.inf, dtype=y.dtype)
    step = 0.5 / torch.linalg.eigvalsh(s)[-1]
    for _ in range(4000):
        y = shut(y - step * (y - z) @ s, w, b)
        best = torch.minimum(best, ((y - z) @ s * (y - z)).sum(1))
    return float(best.min().clamp(min=0).sqrt())


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("b", [0.0, 0.2, 0.6])
def test_no_search_comes_nearer_than_the_bound(seed, b):
    s, z, w = problem(10 * seed)
    if float(w @ z) <= b * float(z.norm()):
        assert closed_distance(Spectrum.of(s), z, w, b) == 0
        return
    bound = closed_distance(Spectrum.of(s), z, w, b)
    found = searched(s, z, w, b)
    assert bound <= found * (1 + 1e-9)
    assert bound >= 0.9 * found  # and the dual is tight


def test_a_half_space_has_its_own_formula():
    s, z, w = problem(3)
    expected = float((w @ z) / (w @ torch.linalg.solve(s, w)).sqrt())
    assert closed_distance(Spectrum.of(s), z, w, 0.0) == pytest.approx(max(0.0, expected), rel=1e-3)


def test_a_state_that_leaves_the_gate_shut_is_no_distance_away():
    s, z, w = problem(3)
    assert closed_distance(Spectrum.of(s), -z, w, 0.3) == 0
    assert closed_distance(Spectrum.of(s), z, w, -0.1) == 0


def test_where_nothing_is_read_there_is_no_bound():
    _, z, w = problem(4)
    s = torch.diag(torch.tensor([0.0, 0, 1, 1, 1, 1], dtype=torch.float64))
    if float(w @ z) > 0.2 * float(z.norm()):
        assert closed_distance(Spectrum.of(s), z, w, 0.2) == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def made():
    """A pipeline and a gated erasure of two concepts on it."""
    pipe = tiny.stable_diffusion()
    concepts = [efface.Concept("church", anchor="cat", templates=("a {}",)), efface.Concept("art", anchor="dog")]
    options = {"keep": ["a dog", "a cat"], "prior": "never", "margin": -2.0, "aliases": False}
    return pipe, efface.erase(pipe, concepts, method="gated", **options)


@pytest.mark.parametrize("union", [False, True])
def test_no_state_recovers_more_than_the_certificate_says(made, union):
    import dataclasses

    pipe, erasure = made
    config = erasure.provenance.config | {"union": union}
    erasure = dataclasses.replace(erasure, provenance=dataclasses.replace(erasure.provenance, config=config))
    model = Model(pipe)
    s = key_value_gram_of(model)
    c = model.projection_inputs(model.encode(["a church"]))[0, 2:4].double()
    r = 1.5 * float(c.norm(dim=1).mean())
    bound = gated_recoverable(erasure, 0, s, c, [r])[0]
    whole = (c @ s * c).sum(1).sqrt()
    root = torch.linalg.cholesky(s + 1e-9 * torch.eye(len(s), dtype=s.dtype)).T
    for number, row in enumerate(c):
        x = (row + draw(64, len(row), seed=number)).requires_grad_()
        optimiser = torch.optim.Adam([x], lr=0.05)
        best = 0.0
        for _ in range(150):
            states = x * (r / x.norm(dim=1, keepdim=True)).clamp(max=1)
            keys = erasure.map(states[:, None].float())[:, 0].double()
            rest = ((keys - row) @ root.T).norm(dim=1)
            opened = erasure.gates.open(states.detach()[:, None].float())
            # Without `union` the other concept's gate alone is a case that the certificate does not speak of.
            counted = torch.ones(len(x), dtype=torch.bool) if union else opened[:, 0] | ~opened.any(1)
            if counted.any():
                best = max(best, float((1 - rest.detach() / whole[number])[counted].max()))
            optimiser.zero_grad()
            rest.sum().backward()
            optimiser.step()
        assert best <= float(bound[number]) + 1e-4


def test_the_certificate_of_a_gated_map(made):
    pipe, erasure = made
    curve = certificate(Model(pipe), erasure)
    assert list(curve.recoverable) == sorted(curve.recoverable)
    assert all(0 <= share <= 1 + 1e-9 for share in curve.recoverable)
