"""HiRM, MACE, Receler, AdvUnlearn, STEREO, AEGIS, EraseFlow and unsee: each loss against the formula of its paper, the traps of their
public codes, and what all of them promise."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

import efface
import tiny
import tiny_families
from efface.closed_form.context import ContextForms, context_forms, context_rows, fused
from efface.closed_form.maps import LowRankMap
from efface.concepts.sample import SEEDS
from efface.erasers import ERASERS, advunlearn, aegis, eraseflow, mace, receler, stereo, unsee
from efface.erasers.base import Evidence, FoundInput, published_config
from efface.erasers.further import encoded
from efface.export.config import ExportConfig
from efface.export.run import export
from efface.families.encoder_layers import attention_outputs
from efface.models.model import Model
from efface.training import loop
from efface.training.adapters import outside
from efface.training.encoders import last_read
from efface.training.images import draw_concept_images, drawn_over
from efface.training.latents import Noisy, rolled
from efface.training.maps import attention_maps, concept_mask, cross_attentions, positions_of, resized
from efface.training.search import around, behind, descend, inserted, signed_step, with_words
from efface.training.shown import NEAREST, Shown
from efface.training.trajectory import LEAST, levels_of, log_density, predicted, trajectory
from efface.training.ways import Spoken, grouped
from trained import begun, begun_on

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}",))
DOG = efface.Concept("dog", anchor="cat", templates=("a {}",))
QUICK = {
    "hirm": {"iterations": 3, "lr": 1e-2},
    "mace": {"iterations": 2, "images": 2, "draw_steps": 2, "lr": 1e-1, "ridge": 10.0},
    "receler": {"iterations": 3, "draw_steps": 2, "attack_steps": 2, "attack_rows": 3, "rank": 4, "lr": 1e-2},
    "advunlearn": {"iterations": 3, "draw_steps": 2, "warmup": 1, "attack_steps": 2, "retain_batch": 2, "lr": 1e-3},
    "stereo": {
        "iterations": 2, "draw_steps": 2, "rounds": 1, "round_iterations": 2, "images": 2, "word_iterations": 2, "lr": 1e-2,
        "round_lr": 1e-2,
    },
    "aegis": {"iterations": 3, "draw_steps": 2, "lr": 1e-2},
    "eraseflow": {"iterations": 3, "draw_steps": 3, "early": 1, "late": 1, "fresh": 1, "lr": 1e-2},
    "unsee": {
        "iterations": 3, "draw_steps": 2, "images": 2, "retained_images": 2, "batch": 2, "words": 2, "fresh": 1, "rank": 2, "lr": 1e-2,
    },
}  # fmt: skip
"""Options with which each method takes less than a second."""


@pytest.fixture(scope="module")
def model(sd):
    return Model(sd)


@pytest.fixture(scope="module")
def xl():
    return tiny.stable_diffusion_xl()


def predict(model, z, prompt):
    return model.predict(z.z, z.timestep, model.encode([prompt]))


def squared(a, b):
    return float((a.detach().double() - b.detach().double()).square().mean())


def started(training, scale=0.05):
    """Move the trained values a little, so that edited and frozen model differ."""
    g = torch.Generator().manual_seed(0)
    for p in training.held.parameters:
        p.data += scale * torch.randn(p.shape, generator=g)


def some_latents(model, seed=0, t=400):
    g = torch.Generator().manual_seed(seed)
    return Noisy(torch.randn(1, *model.family.latent_shape(None), generator=g), torch.tensor(t))


def roll(model, prompt, after, steps=2, guidance=3.0):
    return rolled(model, model.encode([prompt]), after, 11, steps=steps, guidance=guidance, side=None)


# What all of them promise


def erased(pipe, method, *, concepts=(CHURCH,), **options):
    return efface.erase(pipe, list(concepts), method=method, keep=["a truck"], **QUICK[method] | options)


class _StoppedError(Exception):
    pass


def stopping(monkeypatch, at, error):
    """Have the training stop when it tells of its `at`-th step, over all of its stages."""
    told = []

    def tell(line):
        told.append(line)
        if len(told) == at:
            raise error

    monkeypatch.setattr(loop, "tell", tell)


@pytest.mark.parametrize("method", QUICK)
def test_it_erases_into_a_file_comes_off_and_is_the_same_after_a_stop(sd, draw, tmp_path, monkeypatch, method):
    before = draw(sd)
    erasure = erased(sd, method, every=1)
    assert np.array_equal(draw(sd), before)
    erasure.save(tmp_path / "e.safetensors")
    loaded = efface.Erasure.load(tmp_path / "e.safetensors")
    assert "unfinished" not in loaded.provenance.notes
    with loaded.attached(sd):
        assert np.abs(draw(sd) - before).max() > 1e-6
    assert np.array_equal(draw(sd), before)
    with monkeypatch.context() as patch:
        stopping(patch, 4 if method == "stereo" else 2, _StoppedError)
        with pytest.raises(_StoppedError):
            erased(sd, method, every=1)
    resumed = erased(sd, method, every=1).tensors()
    assert resumed.keys() == erasure.tensors().keys()
    assert all(torch.equal(resumed[name], value) for name, value in erasure.tensors().items())


@pytest.mark.parametrize("method", QUICK)
def test_interrupted_it_returns_what_it_learnt_and_says_so(sd, draw, monkeypatch, method):
    before = draw(sd)
    stopping(monkeypatch, 1, KeyboardInterrupt)
    erasure = erased(sd, method, iterations=7)
    assert erasure.provenance.notes["unfinished"] >= 5
    with erasure.attached(sd):
        assert np.isfinite(draw(sd)).all()
        assert np.abs(draw(sd) - before).max() > 1e-6
    assert np.array_equal(draw(sd), before)


@pytest.mark.parametrize("method", QUICK)
def test_several_concepts_on_sdxl(xl, draw, method):
    before = draw(xl)
    retaining = {} if method == "mace" else {"retain": 0.1}
    erasure = erased(xl, method, concepts=(CHURCH, DOG), **retaining)
    assert [concept.name for concept in erasure.provenance.concepts] == ["church", "dog"]
    with erasure.attached(xl):
        assert np.abs(draw(xl) - before).max() > 1e-6
    assert np.array_equal(draw(xl), before)


@pytest.mark.parametrize("target", ["component", "peft"])
@pytest.mark.parametrize("method", ["hirm", "eraseflow"])
def test_what_weights_hold_is_exported(sd, tmp_path, method, target):
    low = {"rank": 2} if target == "peft" else {}  # biases fit into no LoRA
    erasure = efface.erase(sd, CHURCH, method=method, keep=[], **QUICK[method] | low)
    result = export(erasure, sd, tmp_path / "export", ExportConfig(to=target))
    assert result.error < 1e-2
    assert any((tmp_path / "export").rglob("*.safetensors"))


UNETS = {"sd1", "sd2", "sdxl", "sdxl-refiner"}
CROSS = UNETS | {"pixart-alpha", "pixart-sigma", "sana", "hunyuandit"}
DISTILLED = {"flux-dev", "flux-schnell", "flux2-dev"}
SERVED = {
    "hirm": (set(tiny_families.WHOLE), ""),
    "mace": (CROSS, "by other ways than keys and values of cross-attention"),
    "receler": (CROSS, "no cross-attention"),
    "advunlearn": (UNETS, "encodes whole prompts only"),
    "stereo": (UNETS, "encodes whole prompts only"),
    "aegis": (UNETS, "encodes whole prompts only"),
    "eraseflow": (set(tiny_families.WHOLE) - DISTILLED, "distilled with guidance"),
    "unsee": (UNETS, "encodes whole prompts only"),
}
"""Families that each method serves, and what it says to the others."""


def latents_of(family):
    model = Model(tiny_families.pipeline(family))
    text = model.encode(["a church", "a cat"])
    side = tiny_families.CASES[family].side
    return model.latents(text, seeds=[0, 1], steps=2, guidance=4.0, side=side).float().numpy()


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny_families.WHOLE)
@pytest.mark.parametrize("method", QUICK)
@pytest.mark.filterwarnings("ignore:.*the concept may come back through it")
def test_every_family_is_served_or_refused_in_a_sentence(method, family):
    pipe = tiny_families.pipeline(family)
    served, refusal = SERVED[method]
    options = {"side": tiny_families.CASES[family].side}
    if family not in served:
        with pytest.raises(efface.EffaceError, match=refusal):
            erased(pipe, method, **options)
        if method != "unsee":
            return
        options["words"] = 0  # it does without
    before = latents_of(family)
    with erased(pipe, method, **options).attached(pipe):
        after = latents_of(family)
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 1e-6
    assert np.array_equal(latents_of(family), before)


# HiRM


def attended(pipe, prompt, layer=-1):
    """What the attention of a layer gives for a prompt (tokens width), by the encoder's own modules."""
    found = []
    projections = [m for n, m in pipe.text_encoder.named_modules() if n.endswith("self_attn.out_proj")]
    handle = projections[layer].register_forward_hook(lambda module, args, output: found.append(output[0]))
    Model(pipe).encode([prompt])
    handle.remove()
    return found[0]


@pytest.mark.parametrize("form", ["semantic", "random"])
def test_hirm_is_its_formula(sd, model, form):
    training = begun(model, "hirm", [CHURCH], form=form, length=7.0, keep=("a truck",), retain=0.5)
    started(training)
    with training.held.active():
        h, r = attended(sd, "a church"), model.encode(["a truck"]).states
    v = attended(sd, "a cat")
    if form == "random":
        v = torch.randn(12, 16, generator=torch.Generator().manual_seed(0))
        v = 7.0 * v / v.norm(dim=1, keepdim=True)
        torch.testing.assert_close(v.norm(dim=1), torch.full((12,), 7.0))
    expected = squared(h, v) + 0.5 * squared(r, model.encode(["a truck"]).states)
    assert training.gradients()[0] == pytest.approx(expected, rel=1e-4)


def test_hirm_trains_the_first_layer_alone_and_reads_the_last_that_the_denoiser_reads(sd, model, xl):
    names = efface.erase(sd, CHURCH, method="hirm", keep=[], iterations=1).targets()
    assert names
    assert all(".layers.0." in name and "norm" not in name for name in names)
    assert last_read(model, "text_encoder").layer.endswith("layers.1.")
    read = [last_read(Model(xl), name).layer for name in ("text_encoder", "text_encoder_2")]
    assert all(layer.endswith("layers.0.") for layer in read)  # SDXL's states come from before the last of two layers
    assert len(attention_outputs(sd.text_encoder)) == 2


def test_an_encoder_that_is_left_out_is_said(xl):
    with pytest.warns(UserWarning, match="text_encoder_2 reads the prompt too and stays as it was"):
        erasure = efface.erase(xl, CHURCH, method="hirm", keep=[], iterations=1, encoders=("text_encoder",))
    assert all(name.startswith("text_encoder.") for name in erasure.targets())
    with pytest.raises(efface.UsageError, match="no text encoder 'clip'"):
        efface.erase(xl, CHURCH, method="hirm", keep=[], encoders=("clip",))


# Attention maps, MACE, Receler


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


@pytest.mark.parametrize("attack_steps", [0, 2])
def test_receler_is_its_formula(model, attack_steps):
    options = {"draw_steps": 2, "rank": 4, "attack_rows": 3, "attack_steps": attack_steps, "keep": (), "locality": 0.7}
    training = begun(model, "receler", [CHURCH], **options)
    started(training)
    step = training.step()
    step.integer(1)  # which prompt
    after = step.integer(2)
    text, rows = model.encode(["a church"]), training.options["kept"]["0"]
    with training.held.active():
        z = roll(model, "a church", after)
    loss = training.gradients()[0]
    if attack_steps:  # the attacked states are the rows, and they have moved
        text = receler.with_rows(text, rows)
        assert torch.equal(text.states[0, 4:7], rows)
        assert not torch.equal(rows, model.encode(["a church"]).states[0, 4:7])
    target = 2 * predict(model, z, "") - predict(model, z, "a church")
    with training.held.active():
        output = model.predict(z.z, z.timestep, text)
    away = ~concept_mask(model, z, model.encode(["a church"]), [2])
    terms = []
    for change in (c.detach() for c in training.held.changes):
        inside = resized(away, change.shape[1])[0]
        terms.append(
            sum(float(change[0, k].double().square().mean()) for k in inside.nonzero()) / max(1, int(inside.sum()))
        )
    assert len(terms) == len(training.held.attentions)
    assert loss == pytest.approx(squared(output, target) + 0.7 * sum(terms) / len(terms), rel=1e-3)


def test_recelers_attack_acts(model):
    training = begun(model, "receler", [CHURCH], draw_steps=2, rank=4, attack_rows=3, attack_steps=3, keep=())
    started(training, 0.2)
    c, p = model.encode(["a church"]), training.options["kept"]["0"]
    first = p.clone()
    step = training.step()
    step.integer(1)
    with training.held.active():
        z = roll(model, "a church", step.integer(2))
    training.gradients()
    before = model.predict(z.z, z.timestep, c)
    with training.held.active([v.detach() for v in training.held.parameters]), torch.no_grad():
        apart = [squared(model.predict(z.z, z.timestep, receler.with_rows(c, rows)), before) for rows in (first, p)]
    assert apart[1] < apart[0]


def test_adapters_change_nothing_at_first_and_everything_is_inside_a_whole_mask(model):
    training = begun(model, "receler", [CHURCH], rank=4, keep=())
    z = some_latents(model)
    before = predict(model, z, "a church")
    with training.held.active():
        assert torch.equal(predict(model, z, "a church"), before)
    change = torch.randn(1, 16, 8)
    assert float(outside([change], torch.ones(1, 1, 4, 4, dtype=torch.bool))) == 0
    assert float(outside([change], torch.zeros(1, 1, 4, 4, dtype=torch.bool))) == pytest.approx(
        squared(change, 0 * change)
    )


# Searches


def test_a_search_has_the_gradient_of_each_step_alone_and_its_last_step_counts():
    goal = torch.tensor([1.0, -2.0, 3.0])
    x = torch.zeros(3, requires_grad=True)
    adam = torch.optim.Adam([x], lr=0.1)
    for _ in range(5):
        adam.zero_grad()
        (x - goal).square().sum().backward()
        adam.step()
    found = descend(torch.zeros(3), lambda v, _: (v - goal).square().sum(), steps=5, lr=0.1)
    assert torch.equal(found, x.detach())
    once = descend(torch.zeros(3), lambda v, _: (v - goal).square().sum(), steps=1, lr=0.1)
    assert not torch.equal(once, torch.zeros(3))
    torch.testing.assert_close(
        signed_step(torch.zeros(3), lambda v, _: (v - goal).square().sum(), lr=0.1), 0.1 * goal.sign()
    )


@pytest.mark.parametrize("build", [tiny.stable_diffusion, tiny.stable_diffusion_xl])
def test_the_embedding_of_a_real_token_is_that_token(build):
    model = Model(build())
    table = model.token_table().float()
    (word,) = model.token_spans()[0].ids("truck")
    rows = {
        "truck a church": behind(model, "a church", 1),
        "a truck in noto": around(model, "a church in noto", "church"),
    }
    for said, row in rows.items():
        text, expected = with_words(model, table, [row], table[[word]]), model.encode([said])
        torch.testing.assert_close(text.states, expected.states, atol=1e-5, rtol=1e-4)
    assert len(behind(model, "a church " * 9, 2)) == model.max_tokens
    assert inserted(table, [[None, 5, None]], table[[1, 2]])[1][0].equal(table[[1, 5, 2]])


def test_advunlearn_is_its_formula(model):
    options = {"draw_steps": 2, "warmup": 1, "attack_steps": 2, "keep": (), "eta": 1.5}
    training = begun(model, "advunlearn", [CHURCH], **options)
    started(training, 0.02)
    step = training.step()
    step.integer(1)
    z = roll(model, "a church", step.integer(2))
    target = 2.5 * predict(model, z, "") - 1.5 * predict(model, z, "a church")
    with training.held.active():
        expected = squared(predict(model, z, "a church"), target)
    assert training.gradients()[0] == pytest.approx(expected, rel=1e-4)
    names = training.held.delta()
    assert all("embedding" not in name for name in names)
    assert any("final_layer_norm" in name for name in names)
    # From the end of the warm-up on, a word stands before the prompt.
    step = training.step(1)
    step.integer(1)
    z = roll(model, "a church", step.integer(2))
    target = 2.5 * predict(model, z, "") - 1.5 * predict(model, z, "a church")
    with training.held.active():
        plain = squared(predict(model, z, "a church"), target)
    assert training.gradients(1)[0] != pytest.approx(plain, rel=1e-3)


def test_advunlearn_retains_what_the_encoder_gave(model):
    options = {"draw_steps": 2, "attack_steps": 0, "keep": ("a truck",), "retain_batch": 1}
    bare, kept = (begun(model, "advunlearn", [CHURCH], **options, retain=r).gradients()[0] for r in (0.0, 0.5))
    assert bare == kept  # nothing has moved yet
    training = begun(model, "advunlearn", [CHURCH], **options, retain=0.5)
    started(training, 0.02)
    other = begun(model, "advunlearn", [CHURCH], **options, retain=0.0)
    started(other, 0.02)
    assert training.gradients()[0] > other.gradients()[0]


def test_stereos_last_stage_is_its_formula(model):
    training = begun(model, "stereo", [CHURCH], rounds=0, draw_steps=2, keep=(), strength=1.5)
    table = model.token_table().float()
    text = with_words(model, table, [around(model, "a church", "church")], table[[3]])
    ways = [Spoken(model.encode(["a church"]), "a church"), Spoken(text, "a church")]
    config = stereo.Config(draw_steps=2, keep=(), strength=1.5)
    loss = stereo.last_loss(model, grouped(CHURCH, ways), config)
    started(training)
    step = training.step()
    step.integer(1)
    c = ways[step.integer(2)].text
    z = rolled(model, c, step.integer(2), 11, steps=2, guidance=3.0, side=None)

    def eps(t):
        return model.predict(z.z, z.timestep, t).detach()

    empty, anchor = eps(model.encode([""])), eps(model.encode(["a cat"]))
    away = sum(eps(way.text) - empty for way in ways) / 2
    target = empty + 0.5 * (anchor - empty) - 2.5 * away
    with training.held.active():
        expected = squared(eps(c), target)
    assert float(training._replace(loss=loss).gradients()[0]) == pytest.approx(expected, rel=1e-4)


def test_stereo_goes_on_from_round_to_round_and_ends_at_the_original(sd):
    erasure = efface.erase(sd, CHURCH, method="stereo", keep=[], **QUICK["stereo"] | {"rounds": 2})
    assert erasure.provenance.notes["words"] == [2]
    assert erasure.provenance.notes["steps"] == 2 + 2 * (2 + 2)
    # The words are of the search; the weights begin anew, so that they are a few steps away from the original's.
    assert max(float(t.abs().max()) for t in erasure.tensors().values()) <= 2 * 1e-2 * 1.1


def test_aegis_takes_out_of_a_gradient_what_leads_away_from_the_original():
    g = [torch.tensor([1.0, -1.0]), torch.tensor([2.0])]
    drift = [torch.tensor([-1.0, 2.0]), torch.tensor([0.5])]
    assert all(a is b for a, b in zip(aegis.without_drift(g, [-d for d in drift], 1.0), g, strict=True))
    assert all(a is b for a, b in zip(aegis.without_drift(g, [0 * d for d in drift], 1.0), g, strict=True))
    whole = aegis.without_drift(g, drift, 1.0)
    assert float(sum((a * d).sum() for a, d in zip(whole, drift, strict=True))) == pytest.approx(0, abs=1e-6)
    half = aegis.without_drift(g, drift, 0.5)
    torch.testing.assert_close(half[0], (g[0] + whole[0]) / 2)


def test_aegis_is_its_formula(model):
    training = begun(model, "aegis", [CHURCH], draw_steps=2, keep=(), eta=1.5)
    started(training)
    kept = training.options["kept"]
    first = {name: kept[name].clone() for name in ("attack-0", "target-0")}
    step = training.step()
    with loop.training(model, False):
        loss = float(training.loss(step))
    table = model.token_table().float()
    other = training.step()
    other.integer(1)
    z = roll(model, "a church", other.integer(2))
    for name, start in first.items():
        torch.testing.assert_close((kept[name] - start).abs(), torch.full_like(start, 1e-3), atol=1e-6, rtol=1e-2)
    c = with_words(model, table, [behind(model, "a church", 1)], kept["attack-0"])
    goal = with_words(model, table, [around(model, "a church", "church")], kept["target-0"])
    assert torch.equal(
        first["target-0"], table[model.token_spans()[0].ids("church")]
    )  # it begins at the concept itself
    target = 2.5 * predict(model, z, "") - 1.5 * model.predict(z.z, z.timestep, goal)
    with training.held.active():
        assert loss == pytest.approx(squared(model.predict(z.z, z.timestep, c), target), rel=1e-4)
    assert all(p.grad is not None for p in training.held.parameters)


# unsee


DRAWN = {"steps": 2, "guidance": 7.5, "side": None}


def drawn(model, prompt):
    """Two pictures of a prompt, as unsee draws them."""
    return draw_concept_images(model, [prompt], 2, DRAWN)


def test_pictures_are_drawn_over_from_their_middle(model, monkeypatch):
    pictures = drawn(model, "a church")
    over = drawn_over(model, pictures, ["a cat", "a dog"], 1, DRAWN)
    monkeypatch.setattr(Model, "pictures_at_a_time", lambda *_: 1)
    torch.testing.assert_close(drawn_over(model, pictures, ["a cat", "a dog"], 1, DRAWN).latents, over.latents)
    assert over.prompts == ["a cat", "a dog"]
    scheduler = copy.deepcopy(model.pipeline.scheduler)
    scheduler.set_timesteps(2)
    t = scheduler.timesteps[1]
    for number, prompt in enumerate(over.prompts):
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(SEEDS.images + number))
        z = model.to_noisy(pictures.latents[number : number + 1], noise, t)
        nothing, something = (model.predict(z, t, model.encode([p])) for p in ("", prompt))
        output = nothing + 7.5 * (something - nothing)
        a = scheduler.alphas_cumprod[int(t)]
        clean = (z - (1 - a).sqrt() * output) / a.sqrt()
        assert torch.nn.functional.cosine_similarity(over.latents[number].flatten(), clean.flatten(), dim=0) > 0.95


class Unsee:
    """L of unsee at one step, picture by picture."""

    def __init__(self, model, training, number, random, guidance=7.5):
        self.model, self.training = model, training
        settings = DRAWN | {"guidance": guidance}
        self.config = training.options["config"]
        self.number = number
        self.pictures = {p: draw_concept_images(model, [p], 2, settings) for p in ("a church", "a truck")}
        self.pictures["a cat"] = drawn_over(model, self.pictures["a church"], ["a cat"], 1, settings)
        self.kappa = 1 - torch.rand(2, 1, 1, 1, generator=random.random) / 2

    def batch(self, prompt, which, size=2):
        return self.pictures[prompt].batch(size, self.config.seed, self.number, which)

    def as_under(self, prompt, which, before, now):
        x = self.batch(prompt, which, len(now))
        for row in range(len(now)):
            z = self.model.to_noisy(x.clean[row : row + 1], x.noise[row : row + 1], x.timesteps[row])
            at = Noisy(z, x.timesteps[row])
            target = predict(self.model, at, before[row])
            with self.training.held.active():
                yield squared(predict(self.model, at, now[row]), target) / len(now)

    def unseen(self, row, output, past):
        """w |an output − the noise that leaves the anchor's picture, or one so far past it|²; `output` is of noisy latents and t."""
        x, alphas = self.batch("a church", 2), self.model.pipeline.scheduler.alphas_cumprod
        t = max(int(x.timesteps[row]), 50)
        a, b = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
        church, cat = (self.pictures[prompt].latents[x.members[row]][None] for prompt in ("a church", "a cat"))
        z = a * (self.kappa[row] * church + (1 - self.kappa[row]) * cat) + b * x.noise[row]
        with self.training.held.active():
            difference = output(z, torch.tensor(t)) - (z - a * (cat + past * (cat - church))) / b
            return min(1.0, float(b / a) ** 2) * difference.square().mean() / (church - cat).square().mean()

    def under(self, text):
        return lambda z, t: self.model.predict(z, t, text)

    def guided(self, text, g):
        nothing, something = self.under(self.model.encode([""])), self.under(text)
        return lambda z, t: (1 - g) * nothing(z, t) + g * something(z, t)

    def expected(self, attacking, truck, g=7.5, past=0.5):
        """L, where this text stands in the first half of the batch, and these prompts on what is retained."""
        value = sum(self.as_under("a cat", 0, ["a cat"], ["a church"]))
        value += self.config.retain * sum(self.as_under("a truck", 1, truck, truck))
        for row, text in enumerate([attacking, self.model.encode(["a church"])]):
            value += self.config.forget / 2 * self.unseen(row, self.guided(text, 0), 0).item()
            value += self.config.forget / 2 / g * self.unseen(row, self.guided(text, g), past).item()
        return value


UNSEE = QUICK["unsee"] | {"words": 1, "word_lr": 0.02, "strength": 0.5, "forget": 0.3, "retain": 0.7}


def begins(model, number):
    """Where the word of a step may begin."""
    table = model.token_table().float()
    return table if number % 2 else table.mean(0, keepdim=True)


def trucks(random):
    return ["a truck" if random.integer(6) else "" for _ in range(2)]


def test_unsee_is_its_formula(model):
    training = begun(model, "unsee", [CHURCH], **UNSEE, keep=("a truck",))
    started(training)
    loss, _ = training.gradients()
    random, table = training.step(), model.token_table().float()
    naive = Unsee(model, training, 0, random)
    [random.integer(below) for below in (len(table), 1)]  # the word's, which begins at the middle
    start = table.mean(0, keepdim=True)

    def said(v):
        return with_words(model, table, [around(model, "a church", "church")], v)

    v, word = start.clone().requires_grad_(), training.options["kept"]["words"]
    (gradient,) = torch.autograd.grad(naive.unseen(0, naive.under(said(v)), -1), [v])
    assert torch.equal(word, start - 0.02 * gradient.sign())
    assert loss == pytest.approx(naive.expected(said(word), trucks(random)), rel=1e-4)


def test_pictures_that_are_their_own_anchors_weigh_no_more_than_the_nearest(model):
    training = begun(model, "unsee", [CHURCH], **UNSEE, keep=("a truck",))
    started(training)
    step, x = training.step(), drawn(model, "a church").batch(2, 0, 0, 2)
    shown = Shown.of(model, x, x.clean, step.random)
    text = model.encode(["a church"] * 2)
    expected = 0.0
    for row in range(2):
        z, t = shown.z.z[row : row + 1], shown.z.timestep[row]
        a = model.pipeline.scheduler.alphas_cumprod[int(t)]
        difference = model.predict(z, t, model.encode(["a church"])) - (z - a.sqrt() * x.clean[row]) / (1 - a).sqrt()
        expected += min(1.0, float((1 - a) / a)) * difference.square().mean().item() / NEAREST / 2
    assert shown.apart(step, text, x.clean).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("finding", ["words", "embeddings", "states"])
def test_unsee_trains_on_at_what_was_found(sd, model, finding):
    evidence = evidence_of(model, finding)
    training = begun_on(model, erased(sd, "unsee", **UNSEE), evidence)
    number, random = on_found(training)
    loss, _ = training.gradients(number)
    naive = Unsee(model, training, number, random)
    for _ in range((number == 0) + number % 2):  # the word begins anew in these steps, too
        random.integer(len(model.token_table()))
    assert loss == pytest.approx(naive.expected(evidence.text, trucks(random)), rel=1e-4)
    assert any(torch.equal(training.options["kept"]["words"][0], row) for row in begins(model, number))


def test_without_guidance_the_prompt_itself_leads_to_the_anchor(model):
    training = begun(model, "unsee", [CHURCH], **UNSEE | {"guidance": 1.0}, keep=("a truck",))
    started(training)
    loss, _ = training.gradients()
    random, word = training.step(), training.options["kept"]["words"]
    naive = Unsee(model, training, 0, random, guidance=1.0)
    [random.integer(below) for below in (len(model.token_table()), 1)]
    said = with_words(model, model.token_table().float(), [around(model, "a church", "church")], word)
    assert loss == pytest.approx(naive.expected(said, trucks(random), g=1.0, past=0.0), rel=1e-4)


def test_words_of_unsee_begin_anew_in_turn(model):
    training = begun(model, "unsee", [CHURCH], **QUICK["unsee"] | {"fresh": 2, "word_lr": 1e-9})
    table, words = model.token_table().float(), training.options["kept"]["words"]

    def tokens():
        return [int((table - word).norm(dim=1).argmin()) for word in words]

    begun_at = []
    with loop.training(model, False):
        for number in range(6):
            training.loss(training.step(number))
            begun_at.append(tokens())
    assert torch.allclose(words[0], table.mean(0), atol=1e-6)  # the third time, as the first
    assert begun_at[0][0] == begun_at[1][0]
    assert begun_at[2][1] == begun_at[5][1]


def test_unsee_without_words_serves_whole_prompts(draw):
    pipe = tiny_families.pipeline("pixart-alpha")
    side = tiny_families.CASES["pixart-alpha"].side
    erasure = erased(pipe, "unsee", words=0, side=side)
    assert np.isfinite(erasure.provenance.notes["loss"])
    before = latents_of("pixart-alpha")
    with erasure.attached(pipe):
        assert np.abs(latents_of("pixart-alpha") - before).max() > 1e-6


def test_unsee_without_retained_prompts_draws_none(sd):
    config = ERASERS.load("unsee").Config(images=3, retained_images=5, keep=("a truck",), retain=1.0)
    counts = [
        unsee.pictures([CHURCH], dataclasses.replace(config, **c), judged=False)
        for c in ({}, {"keep": ()}, {"retain": 0.0})
    ]
    assert counts == [11, 6, 6]
    erasure = efface.erase(sd, CHURCH, method="unsee", keep=[], **QUICK["unsee"])
    assert "unfinished" not in erasure.provenance.notes
    for wrong in ({"images": 0}, {"batch": 1}, {"words": -1}, {"word_lr": 0.0}, {"forget": -1.0}, {"strength": 0.0}):
        with pytest.raises(efface.UsageError, match="expected"):
            efface.erase(sd, CHURCH, method="unsee", keep=[], **wrong)


# EraseFlow


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


def test_concepts_take_turns_and_each_has_one(sd):
    with pytest.raises(efface.UsageError, match="iterations is 1 for 2 concepts"):
        erased(sd, "eraseflow", concepts=(CHURCH, DOG), iterations=1)


def test_distilled_models_have_no_guided_densities():
    with pytest.raises(efface.EffaceError, match="distilled with guidance"):
        efface.erase(tiny_families.pipeline("flux-schnell"), CHURCH, method="eraseflow", keep=[])


# The authors' values

OBJECT, STYLE = efface.Concept("church"), efface.Concept("Monet", "style")
NUDITY, PERSON = efface.Concept("nudity", "explicit"), efface.Concept("Ada", "person")
VALUES = [
    ("hirm", OBJECT, {"iterations": 15, "lr": 5e-5, "form": "semantic"}),
    ("hirm", STYLE, {"iterations": 30, "lr": 5e-5}),
    ("hirm", NUDITY, {"iterations": 25, "lr": 1e-4}),
    ("mace", OBJECT, {"ridge": 1e3, "prior": 0.0, "lr": 1e-5, "iterations": 50, "rank": 1, "images": 8, "timesteps": "middle"}),
    ("mace", PERSON, {"ridge": 0.0, "prior": 1e-4, "lr": 1e-4, "iterations": 50}),
    ("mace", STYLE, {"ridge": 0.0, "prior": 1e-4, "lr": 1e-4, "iterations": 50}),
    ("mace", NUDITY, {"ridge": 0.0, "prior": 7e-7, "lr": 1e-5, "iterations": 120, "timesteps": "all"}),
    ("receler", OBJECT, {"attack_steps": 0, "rank": 128, "lr": 3e-4, "iterations": 500, "locality": 0.1, "eta": 1.0}),
    ("advunlearn", OBJECT, {
        "iterations": 1000, "warmup": 200, "attack_steps": 30, "attack_lr": 1e-3, "lr": 1e-5, "retain": 0.3, "retain_batch": 5,
        "fresh": True, "keep": advunlearn.coco_prompts([OBJECT]),
    }),
    ("stereo", OBJECT, {
        "rounds": 4, "where": "rest", "lr": 2e-5, "round_lr": 5e-6, "iterations": 200, "round_iterations": 200, "images": 500,
        "word_iterations": 3000, "word_lr": 5e-3, "strength": 2.0, "eta": 1.0,
    }),
    ("stereo", NUDITY, {"rounds": 2}),
    ("aegis", NUDITY, {"iterations": 1000, "lr": 1e-5, "most": 1.0}),
    ("eraseflow", OBJECT, {"iterations": 20, "lr": 3e-4, "fresh": 10, "rank": 4, "guidance": 5.0, "beta": 2.5, "draw_steps": 50}),
    ("eraseflow", STYLE, {"lr": 5e-4, "fresh": 0}),
    ("eraseflow", NUDITY, {"fresh": 20, "early": 10, "late": 10}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "concept", "values"), VALUES)
def test_as_published_holds_the_authors_values(method, concept, values):
    config = published_config(ERASERS.load(method), [concept], {})
    assert {name: getattr(config, name) for name in values} == values


def test_coco_without_what_is_erased():
    prompts = advunlearn.coco_prompts([efface.Concept("dog")])
    assert len(prompts) == 79
    assert "a photo of a dog" not in prompts


# Training on with what attacks found

SEARCHING = ("receler", "advunlearn", "stereo", "aegis", "unsee")
FINDINGS = ("words", "embeddings", "states")


def evidence_of(model, finding="words", prompt="a church"):
    """What attacks would say that they found in the place of a prompt."""
    ids = tuple(model.token_spans()[0].ids("art truck"))
    soft = model.token_table().float()[[3, 5]] + 0.1 if finding == "embeddings" else None
    text = model.encode_tokens([ids], None if soft is None else soft[None])
    if finding == "states":
        text = text._replace(states=text.states + 0.1)
    found = FoundInput(prompt, ids, soft, only_states=finding == "states")
    words = ("art truck" if finding == "words" else None,)
    return Evidence(
        concept=CHURCH, text=text, prompts=words, anchors=("a cat",), images=1, rounds=1, found=(found,)
    )  # fmt: skip


def learnable(method):
    learns = getattr(ERASERS.load(method), "LEARNS", FINDINGS)
    return [(method, finding) for finding in FINDINGS if finding in learns]


def on_found(training):
    """The first step that is about what was found, and that step after the draws that choose it."""
    number = next(n for n in range(50) if training.step(n).integer(2))
    step = training.step(number)
    step.integer(2)
    step.integer(1)
    return number, step


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("method", SEARCHING)
def test_training_on_begins_where_the_erasure_ended(sd, model, method, rank):
    rank = 4 if method == "receler" and rank is None else rank
    erasure = erased(sd, method, rank=rank)
    training = begun_on(model, erasure, evidence_of(model))
    z = some_latents(model)
    before = predict(model, z, "a church")
    with erasure.attached(sd):
        expected = predict(model, z, "a church").detach()
    with training.held.active():
        actual = predict(model, z, "a church").detach()
    assert squared(expected, before) > 1e-6
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(predict(model, z, "a church"), before)


@pytest.mark.parametrize(("method", "finding"), [pair for method in SEARCHING for pair in learnable(method)])
def test_training_on_goes_into_a_file_and_is_the_same_after_a_stop(sd, draw, tmp_path, monkeypatch, method, finding):
    model, before = Model(sd), draw(sd)
    erasure = erased(sd, method, every=1)
    evidence = evidence_of(model, finding)

    def extended():
        return ERASERS.load(method).extend(model, erasure, evidence)

    whole = extended()
    assert np.array_equal(draw(sd), before)
    old, new = erasure.provenance, whole.provenance
    assert (new.method, new.config, new.concepts, new.base, new.keep) == (
        old.method, old.config, old.concepts, old.base, old.keep,
    )  # fmt: skip
    steps = QUICK[method]["iterations"]
    assert new.notes["trained_on"] == [{"inputs": 1, "rounds": 1, "steps": steps}]
    assert new.notes["steps"] == old.notes["steps"] + steps
    whole.save(tmp_path / "e.safetensors")
    loaded = efface.Erasure.load(tmp_path / "e.safetensors")
    assert type(loaded) is type(erasure)
    with erasure.attached(sd):
        first = draw(sd)
    with loaded.attached(sd):
        assert np.abs(draw(sd) - first).max() > 1e-6
    assert np.array_equal(draw(sd), before)
    with monkeypatch.context() as patch:
        stopping(patch, 2, _StoppedError)
        with pytest.raises(_StoppedError):
            extended()
    resumed = extended().tensors()
    assert all(torch.equal(resumed[name], value) for name, value in whole.tensors().items())
    assert any(not torch.equal(erasure.tensors()[name], value) for name, value in resumed.items())


RATES = {"receler": 3e-2, "advunlearn": 1e-3, "stereo": 1e-4, "aegis": 1e-4}
"""Learning rates at which a few steps go down on tiny networks."""


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=[pytest.mark.slow] * (m in ("aegis", "advunlearn"))) for m in RATES]
)
def test_what_was_found_is_unlearnt(sd, model, method):
    options = {"rounds": 0} if method == "stereo" else {}
    erasure = erased(sd, method, lr=RATES[method], iterations=20, retain=0.0, **options)
    evidence = evidence_of(model)
    hardened = ERASERS.load(method).extend(model, erasure, evidence)

    def left(e):
        """The loss on what was found, over some steps."""
        training = begun_on(model, e, evidence)
        return sum(training.gradients(n)[0] for n in range(12) if training.step(n).integer(2))

    assert left(hardened) < 0.9 * left(erasure)


@pytest.mark.slow
@pytest.mark.parametrize("method", SEARCHING)
def test_training_on_of_several_concepts_on_sdxl(xl, draw, method):
    model, before = Model(xl), draw(xl)
    erasure = erased(xl, method, concepts=(DOG, CHURCH), rank=2, retain=0.1)
    hardened = ERASERS.load(method).extend(model, erasure, evidence_of(model))
    assert np.array_equal(draw(xl), before)
    with erasure.attached(xl):
        first = draw(xl)
    with hardened.attached(xl):
        assert np.abs(draw(xl) - first).max() > 1e-6


@pytest.mark.parametrize(
    "family", [f if f == "sd2" else pytest.param(f, marks=pytest.mark.slow) for f in sorted(UNETS)]
)
@pytest.mark.parametrize("method", SEARCHING)
def test_training_on_in_every_family_whose_words_attacks_search(method, family):
    pipe = tiny_families.pipeline(family)
    model, before = Model(pipe), latents_of(family)
    erasure = erased(pipe, method, side=tiny_families.CASES[family].side)
    hardened = ERASERS.load(method).extend(model, erasure, evidence_of(model))
    with erasure.attached(pipe):
        first = latents_of(family)
    with hardened.attached(pipe):
        after = latents_of(family)
    assert np.isfinite(after).all()
    assert np.abs(after - first).max() > 1e-6
    assert np.array_equal(latents_of(family), before)


@pytest.mark.parametrize("method", SEARCHING)
def test_training_on_once_more_adds_to_the_story_and_sees_other_latents(sd, model, method):
    erasure = erased(sd, method)
    once = ERASERS.load(method).extend(model, erasure, evidence_of(model))
    seeds = [begun_on(model, e, evidence_of(model)).options["config"].seed for e in (erasure, once)]
    assert len({erasure.provenance.config["seed"], *seeds}) == 3
    twice = ERASERS.load(method).extend(model, once, evidence_of(model, learnable(method)[1][1]))
    assert [past["rounds"] for past in twice.provenance.notes["trained_on"]] == [1, 1]
    assert twice.provenance.notes["steps"] - once.provenance.notes["steps"] == QUICK[method]["iterations"]


def test_what_no_longer_fits_behind_a_word_is_cut(model):
    table = model.token_table().float()
    found = FoundInput("a church", tuple(range(3, 3 + model.max_tokens)))
    text = encoded(model, table, found, table[[2]])
    expected = model.encode_tokens([(2, *found.ids[:-1])])
    torch.testing.assert_close(text.states, expected.states, atol=1e-5, rtol=1e-4)
    assert torch.equal(encoded(model, table, found).states, model.encode_tokens([found.ids]).states)


@pytest.mark.parametrize("method", SEARCHING)
def test_other_evidence_does_not_go_on_from_the_same_snapshot(sd, model, monkeypatch, method):
    erasure, extend = erased(sd, method, every=1), ERASERS.load(method).extend
    with monkeypatch.context() as patch:
        stopping(patch, 2, _StoppedError)
        with pytest.raises(_StoppedError):
            extend(model, erasure, evidence_of(model))
    told = []
    monkeypatch.setattr(loop, "tell", told.append)
    extend(model, erasure, evidence_of(model, "embeddings"))
    assert told[0].number == 1


@pytest.mark.parametrize("method", SEARCHING)
def test_an_erasure_of_other_weights_is_not_trained_on(sd, model, method):
    erasure = erased(sd, method, rank=4)
    origin = dataclasses.replace(erasure.provenance, config=erasure.provenance.config | {"rank": 3})
    with pytest.raises(efface.EffaceError, match="made for another model, or changed since"):
        ERASERS.load(method).extend(model, dataclasses.replace(erasure, provenance=origin), evidence_of(model))


@pytest.mark.parametrize("finding", FINDINGS)
def test_receler_trains_on_at_what_was_found(sd, model, finding):
    erasure = erased(sd, "receler", attack_steps=0, locality=0.0)
    evidence = evidence_of(model, finding)
    training = begun_on(model, erasure, evidence)
    number, step = on_found(training)
    with training.held.active(), torch.no_grad():
        z = rolled(model, evidence.text, step.integer(2), 11, steps=2, guidance=3.0, side=None)
    target = 2 * predict(model, z, "") - predict(model, z, "a church")
    with training.held.active():
        expected = squared(model.predict(z.z, z.timestep, evidence.text), target)
    assert training.gradients(number)[0] == pytest.approx(expected, rel=1e-4)


def test_recelers_attack_begins_behind_what_was_found(sd, model):
    evidence = evidence_of(model)
    training = begun_on(model, erased(sd, "receler"), evidence)
    number, _ = on_found(training)
    rows = training.options["kept"]["1"]
    assert torch.equal(rows, receler.rows_of(evidence.text, QUICK["receler"]["attack_rows"]))
    first = rows.clone()
    training.gradients(number)
    assert not torch.equal(rows, first)


@pytest.mark.parametrize("finding", ["words", "embeddings"])
def test_advunlearn_trains_on_at_what_was_found(sd, model, finding):
    evidence = evidence_of(model, finding)
    training = begun_on(model, erased(sd, "advunlearn", attack_steps=0, retain=0.0), evidence)
    number, step = on_found(training)
    z = roll(model, "a church", step.integer(2))
    target = 2 * predict(model, z, "") - predict(model, z, "a church")
    (found,) = evidence.found
    with training.held.active():
        text = model.encode_tokens([found.ids], None if found.embeddings is None else found.embeddings[None])
        expected = squared(model.predict(z.z, z.timestep, text), target)
    loss, gradients = training.gradients(number)
    assert loss == pytest.approx(expected, rel=1e-4)
    assert any(g.abs().max() > 0 for g in gradients)


def test_advunlearn_searches_from_the_first_step_of_training_on(sd, model):
    losses = [
        begun_on(model, erased(sd, "advunlearn", warmup=9, attack_steps=steps), evidence_of(model)).gradients()[0]
        for steps in (0, 2)
    ]
    assert losses[0] != losses[1]


def test_text_states_go_past_what_advunlearn_trains(sd, model):
    with pytest.raises(efface.EffaceError, match="go past the text encoder"):
        ERASERS.load("advunlearn").extend(model, erased(sd, "advunlearn"), evidence_of(model, "states"))


def test_stereo_trains_on_at_what_was_found(sd, model):
    evidence = evidence_of(model)
    training = begun_on(model, erased(sd, "stereo", strength=1.5), evidence)
    number, step = on_found(training)
    ways = [model.encode(["a church"]), evidence.text]
    c = ways[step.integer(2)]
    z = rolled(model, c, step.integer(2), 11, steps=2, guidance=3.0, side=None)

    def eps(text):
        return model.predict(z.z, z.timestep, text).detach()

    empty, anchor = eps(model.encode([""])), eps(model.encode(["a cat"]))
    target = empty + 0.5 * (anchor - empty) - 2.5 * sum(eps(way) - empty for way in ways) / 2
    with training.held.active():
        expected = squared(model.predict(z.z, z.timestep, c), target)
    assert training.gradients(number)[0] == pytest.approx(expected, rel=1e-4)


def test_stereo_learns_of_prompts_that_are_not_the_concepts_own(sd, model):
    evidence = evidence_of(model, prompt="a dog")
    training = begun_on(model, erased(sd, "stereo"), evidence)
    number, step = on_found(training)
    assert step.integer(2) in (0, 1)  # the prompt itself, and what was found in its place
    assert training.gradients(number)[0] > 0


@pytest.mark.parametrize("finding", FINDINGS)
def test_aegis_trains_on_at_what_was_found(sd, model, finding):
    evidence = evidence_of(model, finding)
    training = begun_on(model, erased(sd, "aegis"), evidence)
    kept = training.options["kept"]
    start = kept["attack-1"].clone()
    number, step = on_found(training)
    z = roll(model, "a church", step.integer(2))
    with loop.training(model, False):
        loss = float(training.loss(training.step(number)))
    (found,) = evidence.found
    table = model.token_table().float()
    if finding == "states":
        attacked = evidence.text
        assert torch.equal(kept["attack-1"], start)
    else:
        own = table[list(found.ids)] if found.embeddings is None else found.embeddings
        attacked = model.encode_tokens([(0, *found.ids)], torch.cat([kept["attack-1"], own])[None])
        torch.testing.assert_close((kept["attack-1"] - start).abs(), torch.full_like(start, 1e-3), atol=1e-6, rtol=1e-2)
    goal = with_words(model, table, [around(model, "a church", "church")], kept["target-1"])
    target = 2 * predict(model, z, "") - model.predict(z.z, z.timestep, goal)
    with training.held.active():
        assert loss == pytest.approx(squared(model.predict(z.z, z.timestep, attacked), target), rel=1e-4)


def test_aegis_measures_its_drift_from_the_original_with_all_of_its_weight(sd, model, monkeypatch):
    erasure = erased(sd, "aegis")
    seen = []
    monkeypatch.setattr(aegis, "without_drift", lambda g, drift, omega: (seen.append((drift, omega)), list(g))[1])
    training = begun_on(model, erasure, evidence_of(model))
    training.gradients(0)
    ((drift, omega),) = seen
    assert omega == 1.0
    names = training.held.names
    for name, change in zip(names, drift, strict=True):
        torch.testing.assert_close(change, erasure.deltas[name], atol=1e-6, rtol=1e-4)
