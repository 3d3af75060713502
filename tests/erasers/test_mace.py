"""MACE: attention maps and masks, its closed forms and its loss against the formulas, and where it retains."""

from __future__ import annotations

import pytest
import torch

import efface
from efface.closed_form.context import ContextForms, context_forms, context_rows, fused
from efface.closed_form.maps import LowRankMap
from efface.erasers import mace
from efface.training.images import draw_concept_images
from efface.training.latents import Noisy
from efface.training.maps import attention_maps, concept_mask, cross_attentions, positions_of, resized
from trained import begun
from trained_searches import CHURCH, some_latents, started

# Attention maps, which Receler's masks are made of, too


def test_maps_are_those_of_the_attention(sd, model):
    z, text = some_latents(model), model.encode(["a church"])
    attention = sd.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    seen = []
    handle = attention.register_forward_hook(lambda module, args, output: seen.append(output))
    with attention_maps(model) as recorders, torch.no_grad():
        model.predict(z.z, z.timestep, text)
    handle.remove()
    number = [module for _, module in cross_attentions(model)].index(attention)
    values = attention.to_v(text.states).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    mixed = (recorders[number].probabilities() @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention.to_out[0](mixed), seen[0], atol=1e-5, rtol=1e-4)


def test_a_concepts_tokens_and_mask(model):
    assert positions_of(model, "a church in noto style", "church") == [2]
    assert positions_of(model, "church", "church") == [1]
    assert positions_of(model, "a cat", "church") == [1, 2]
    assert len(positions_of(model, "a garbage truck", "garbage truck")) == 2
    z, text = some_latents(model), model.encode(["a church"])
    shown = concept_mask(model, z, text, [2])
    assert shown.shape == (1, 1, 4, 4)
    assert shown.any()
    assert not shown.all()
    assert resized(shown, 64).shape == (1, 64)
    assert torch.equal(resized(shown, 16), shown.flatten(1))


# MACE


def test_mace_leaves_a_concept_that_is_its_anchor(model):
    same = efface.Concept("church", anchor="church", templates=("a {}",))
    forms = context_forms(model, [same], ridge=1.0, prior=0.0, keep=(), keep_weight=1.0)
    assert float((forms.map.u @ forms.map.v.T).abs().max()) < 1e-9


def test_mace_edits_what_stands_around_the_name(model):
    ((c, a),) = context_rows(model, efface.Concept("church", anchor="cat", templates=("a {} in noto style",)))
    states, others = (model.encode([f"a {n} in noto style"]).states[0] for n in ("church", "cat"))
    kept = [0, 1, *range(3, 12)]  # begin, "a", then all that follows the name
    torch.testing.assert_close(c, states[kept])
    torch.testing.assert_close(a, others[kept])


def test_maces_last_closed_form(model):
    value = model.text_projections()[0].weight().double()
    g = torch.Generator().manual_seed(0)

    def randn(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    width = value.shape[1]
    rows, kept, u, v = randn(40, width), randn(3 * width, width), randn(width, 3), randn(width, 3)
    up, down = randn(len(value), 1), randn(1, width)
    map_ = LowRankMap(u, v)
    refined = value + value @ u @ v.T
    gram, prior = rows.T @ rows, kept.T @ kept
    alone = fused(value, ContextForms(map_, [gram], 0 * gram, 0.0), [(up, down)])
    torch.testing.assert_close(alone + value, refined + up @ down, atol=1e-8, rtol=1e-8)
    for s in (0.1, 0.2):
        found = fused(value, ContextForms(map_, [gram], s * prior, 2.0), [(up, down)])
        left = (refined + up @ down) @ gram + 2.0 * refined + s * value @ prior
        expected = left @ torch.linalg.inv(gram + 2.0 * torch.eye(width, dtype=torch.float64) + s * prior)
        torch.testing.assert_close(found + value, expected, atol=1e-8, rtol=1e-8)


def test_maces_attention_loss_is_its_formula(model):
    training = begun(model, "mace", [CHURCH], images=2, batch=2, draw_steps=2, keep=(), ridge=10.0)
    started(training, 0.3)
    pictures = draw_concept_images(model, ["a church"], 2, {"steps": 2, "guidance": 7.5, "side": None})
    x, step = pictures.batch(2, 0, 0), training.step()
    weights, text = mace.timestep_weights(1000, "middle"), model.encode(["a church"])
    expected = []
    for row in range(2):
        t = torch.multinomial(weights, 1, generator=step.random)
        noisy = Noisy(model.to_noisy(x.clean[row : row + 1], x.noise[row : row + 1], t), t)
        shown = concept_mask(model, noisy, text, [2])
        with training.held.active(), attention_maps(model) as recorders, torch.no_grad():
            model.predict(noisy.z, noisy.timestep, text)
        total = 0.0
        for recorder in recorders:
            a = recorder.probabilities()[0].double()
            inside = resized(shown, a.shape[1])[0]
            total += float(sum(a[h, p, k] ** 2 for h in range(len(a)) for p in inside.nonzero() for k in (2, 3)) ** 0.5)
        expected.append(total)
    assert training.gradients()[0] == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_mace_says_where_it_retains():
    with pytest.raises(efface.UsageError, match="mace retains prompts in its closed forms: set keep_weight"):
        mace.Config(retain=1.0)


def test_middle_timesteps_are_those_of_the_paper():
    weights = mace.timestep_weights(1000, "middle")
    assert float(weights[250:350].min()) > 0.9
    assert float(weights[600:].max()) < 1e-4
    assert mace.timestep_weights(1000, "all").unique().tolist() == [1.0]
