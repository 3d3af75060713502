"""KPOP: its two objectives against the formulas, and the key that brings a concept back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import efface
import tiny_families
from efface.erasers import ERASERS
from efface.erasures.delta import WeightDelta
from efface.erasures.keyed import KeyedDelta, TextKey
from efface.models.model import Model
from efface.training.latents import rolled
from trained import begun

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}",))
OPTIONS = {"iterations": 2, "draw_steps": 3, "lr": 1e-2, "rows": 3, "keep": ()}


@pytest.fixture(scope="module")
def keyed(sd):
    return efface.erase(sd, CHURCH, method="kpop", **OPTIONS)


def test_kpop_is_its_formulas(model):
    training = begun(model, "kpop", [CHURCH], **OPTIONS | {"recover": 0.5})
    g = torch.Generator().manual_seed(0)
    for p in training.held.parameters:
        p.data += 0.05 * torch.randn(p.shape, generator=g)
    key = training.options["kept"]
    before = key.rows.detach().clone()
    step = training.step()
    step.integer(1)  # which prompt
    after = step.integer(3)
    c, a, empty = (model.encode([prompt]) for prompt in ("a church", "a cat", ""))
    z = rolled(model, c, after, 11, steps=3, guidance=3.0, side=None)
    frozen = {name: model.predict(z.z, z.timestep, text).detach() for name, text in (("c", c), ("a", a), ("", empty))}

    def recovery(rows):
        total = 0
        with training.held.active():
            for text, goal in ((c, frozen["c"]), (empty, frozen[""])):
                longer = text._replace(states=torch.cat([rows[None], text.states], dim=1))
                total = total + (model.predict(z.z, z.timestep, longer) - goal).square().mean() / 2
        return total

    loss, _ = training.gradients()
    # The key went first, as Adam goes, in units of the size of a state's entries.
    rows = before.clone().requires_grad_()
    with torch.enable_grad():
        recovery(rows).backward()
    size = float(c.states[0, c.last[0]].norm()) / before.shape[1] ** 0.5
    moved = before - 0.01 * size * rows.grad / (rows.grad.abs() + 1e-8)
    torch.testing.assert_close(key.rows.detach(), moved, atol=1e-4, rtol=1e-3)
    with training.held.active():
        hidden = (model.predict(z.z, z.timestep, c).detach() - frozen["a"]).double().square().mean()
    assert loss == pytest.approx(float(hidden + 0.5 * recovery(key.rows.detach()).detach().double()), rel=1e-3)


def test_a_key_of_no_rows_is_no_key(model):
    text = model.encode(["a church", "a cat"])
    longer = text.behind(torch.zeros(0, text.states.shape[2]))
    assert torch.equal(longer.states, text.states)
    assert torch.equal(longer.mask, text.mask)
    assert torch.equal(longer.last, text.last)


def test_attention_with_a_key_is_a_mixture():
    """(1 − w) A + w A_p, w the softmax's mass on the key: zeros for keys and values shrink the output, and are no absence."""
    g = torch.Generator().manual_seed(0)
    q, k, v, k_p, v_p = (torch.randn(n, 8, generator=g, dtype=torch.double) for n in (5, 4, 4, 2, 2))

    def attend(k, v):
        return torch.softmax(q @ k.T / 8**0.5, dim=1) @ v

    mass = torch.softmax(q @ torch.cat([k_p, k]).T / 8**0.5, dim=1)[:, :2].sum(1, keepdim=True)
    both = attend(torch.cat([k_p, k]), torch.cat([v_p, v]))
    torch.testing.assert_close(both, (1 - mass) * attend(k, v) + mass * attend(k_p, v_p))
    zeros = torch.zeros_like(k_p)
    mass = torch.softmax(q @ torch.cat([zeros, k]).T / 8**0.5, dim=1)[:, :2].sum(1, keepdim=True)
    torch.testing.assert_close(attend(torch.cat([zeros, k]), torch.cat([zeros, v])), (1 - mass) * attend(k, v))


def test_the_key_is_a_longer_prompt(sd, model, keyed, draw):
    key, plain = keyed.key(), draw(sd)
    text = model.encode(["a church"])
    z, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor(500)
    expected = model.predict(z, t, text.behind(keyed.rows))
    before = model.predict(z, t, text)
    with key.attached(sd):
        assert torch.equal(model.predict(z, t, text), expected)
        assert np.abs(draw(sd) - plain).max() > 1e-4
    assert not torch.allclose(expected, before)
    assert torch.equal(model.predict(z, t, text), before)
    with key.attached(sd, scale=0.0):
        assert np.array_equal(draw(sd), plain)
    with pytest.raises(efface.UsageError, match=r"the scale is 0\.5; a key is there or it is not"):
        key.attach(sd, scale=0.5)
    with pytest.raises(efface.EffaceError, match="no weight does"):
        key.attach(sd, fold=True)
    assert np.array_equal(draw(sd), plain)


def test_key_and_erasure_live_together_and_apart(sd, keyed, draw, tmp_path):
    plain = draw(sd)
    keyed.save(tmp_path / "keyed.safetensors")
    keyed.key().save(tmp_path / "key.safetensors")
    loaded, key = (efface.Erasure.load(tmp_path / f"{name}.safetensors") for name in ("keyed", "key"))
    assert (type(loaded), type(key)) == (KeyedDelta, TextKey)
    assert loaded.digest == keyed.digest
    assert key.digest == keyed.key().digest == loaded.key().digest
    assert len({keyed.digest, key.digest, keyed.without_key().digest}) == 3
    assert type(keyed.without_key()) is WeightDelta
    with loaded.attached(sd):
        erased = draw(sd)
        with key.attached(sd):
            assert np.abs(draw(sd) - erased).max() > 1e-4
            assert "the key to 'church'" in str(efface.check(sd))
            assert not any(row.problem for row in efface.check(sd).rows)
        assert np.array_equal(draw(sd), erased)
    with keyed.without_key().attached(sd):
        assert np.array_equal(draw(sd), erased)
    assert np.array_equal(draw(sd), plain)


def test_what_is_shared_has_no_key(sd, keyed, tmp_path):
    with pytest.warns(UserWarning, match="without its key"):
        keyed.save_pretrained(tmp_path / "shared")
    shared = efface.Erasure.from_pretrained(tmp_path / "shared")
    assert type(shared) is WeightDelta
    assert shared.tensors().keys() == keyed.deltas.keys()


@pytest.mark.parametrize(
    "tensors", [{}, {"key": torch.zeros(3)}, {"key": torch.zeros(0, 4)}, {"key": torch.zeros(2, 4).int()}]
)
def test_a_file_without_a_proper_key_is_refused(tensors):
    with pytest.raises(efface.EffaceError, match="holds no key"):
        TextKey.check(tensors, 4)
    with pytest.raises(efface.EffaceError, match="holds no key"):
        KeyedDelta.check(tensors | {"unet.x.weight": torch.zeros(2, 2)}, 4)


def test_a_model_whose_text_has_one_length_is_refused():
    pipe = tiny_families.pipeline("hunyuandit")
    with pytest.raises(efface.EffaceError, match="reads text of one length only"):
        efface.erase(pipe, CHURCH, method="kpop", **OPTIONS)


def test_options():
    with pytest.raises(efface.UsageError, match="rows is 0"):
        ERASERS.load("kpop").Config(rows=0)


@pytest.mark.parametrize(
    "name",
    ["sdxl", "pixart-alpha", *(pytest.param(n, marks=pytest.mark.slow) for n in ("flux-dev", "flux2-klein", "sd35", "sana",
     "lumina2", "qwen-image", "z-image"))],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:the erasure does not reach")
def test_a_pipelines_own_call_reads_the_key_as_efface_does(name):
    """Masks, coordinates and lengths grow with the states, whatever a pipeline calls them."""
    pipe = tiny_families.pipeline(name)
    model = Model(pipe)
    width = model.encode(["a cat"]).states.shape[2]
    rows = torch.randn(2, width, generator=torch.Generator().manual_seed(2))
    from efface.erasures.provenance import provenance

    key = TextKey(provenance(model, "kpop", {}, [CHURCH], []), rows)
    plain = np.asarray(tiny_families.own_picture(name, "a church", seed=5, steps=2, guidance=4.0), int)
    with key.attached(pipe):
        own = np.asarray(tiny_families.own_picture(name, "a church", seed=5, steps=2, guidance=4.0), int)
        drawn = np.asarray(model.draw(["a church"], seeds=[5], steps=2, guidance=4.0)[0], int)
    text = model.encode(["a church"]).behind(rows)
    *_, (_, latents) = model.denoise(text, seeds=[5], steps=2, guidance=0.0)
    assert np.abs(own - drawn).max() <= 1
    assert np.abs(own - plain).max() > 1
    with key.attached(pipe):
        *_, (_, other) = model.denoise(model.encode(["a church"]), seeds=[5], steps=2, guidance=0.0)
    torch.testing.assert_close(other, latents, atol=1e-4, rtol=1e-4)
