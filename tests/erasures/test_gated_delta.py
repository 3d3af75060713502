"""Gated deltas: factors that act on each prompt of a batch by its own weight."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import efface
import tiny
from efface.erasures.gated_delta import GatedDelta
from efface.erasures.provenance import provenance
from efface.erasures.transport import Transport
from efface.models.model import Model

CONCEPTS = (
    efface.Concept("church", anchor="cat", templates=("a {}",)),
    efface.Concept("garbage truck", anchor="dog", templates=("a {}",)),
)
KEPT = ("a dog", "a cat in noto style")
LAYERS = (
    "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
    "unet.mid_block.attentions.0.transformer_blocks.0.ff.net.2",
    "unet.mid_block.attentions.0.proj_in",
)
pytestmark = pytest.mark.filterwarnings("ignore:the erasure does not reach the pooled text")


def gated(pipe, rank=1, size=0.5, **config):
    """A gated delta of random factors on three layers."""
    model, g = Model(pipe), torch.Generator().manual_seed(4)
    deltas = {}
    for i in range(len(CONCEPTS)):
        for name in LAYERS:
            weight = module(pipe, name).weight
            deltas[f"{i}|{name}.weight.up"] = size * torch.randn(len(weight), rank, generator=g)
            deltas[f"{i}|{name}.weight.down"] = size * torch.randn(rank, weight[0].numel(), generator=g)
    names, prompts = [c.name for c in CONCEPTS], [c.prompts() for c in CONCEPTS]
    transport = Transport.of(model, names, prompts, centred=True, keep=KEPT)
    return GatedDelta(provenance(model, "spm", config, CONCEPTS, []), deltas, transport)


def module(pipe, name):
    component, _, path = name.partition(".")
    return getattr(pipe, component).get_submodule(path)


@pytest.fixture(scope="module")
def erasure(sd):
    return gated(sd)


def gamma(sd, erasure, prompt):
    model = Model(sd)
    tokens = set(model.token_spans()[0].ids(prompt))
    return erasure.transport.weights(model.encode([prompt]).states[0], tokens)


def test_weights_of_prompts(sd, erasure):
    def share(prompt, concept):
        ids = [set(Model(sd).token_spans()[0].ids(text)) for text in (prompt, concept)]
        return len(ids[0] & ids[1]) / len(ids[1])

    for number, concept in enumerate(CONCEPTS):
        assert float(gamma(sd, erasure, f"a {concept.name}")[number]) == 1
        assert float(gamma(sd, erasure, f"{concept.name} in noto style")[number]) == 1
    model = Model(sd)
    states = model.encode(["truck", "a cat", ""]).states
    transport = erasure.transport
    for prompt, row in zip(("truck", "a cat"), states, strict=False):
        common = sum(model.encode([kept]).states[0] - states[2] for kept in KEPT).double().flatten()
        common = common / common.norm()
        centred = [(other - states[2]).double().flatten() for other in (row, *transport.states)]
        centred = [c - torch.dot(c, common) * common for c in centred]
        cosines = [float(torch.dot(centred[0], c) / centred[0].norm() / c.norm()) for c in centred[1:]]
        expected = [max(0.0, cos, share(prompt, c.name)) for cos, c in zip(cosines, CONCEPTS, strict=True)]
        assert gamma(sd, erasure, prompt).tolist() == pytest.approx(expected, abs=1e-5)
    assert share("truck", "garbage truck") == 0.5
    assert not gamma(sd, erasure, "").any()


def test_only_tokens_count_where_states_have_nothing_in_common(erasure):
    transport = erasure.transport
    far = transport.empty + torch.where(transport.states[0] > transport.empty, -1.0, 1.0)
    far[:, ::2] = transport.empty[:, ::2]
    transport = transport._replace(common=torch.zeros_like(transport.common))
    opposite = transport._replace(states=transport.empty - (far - transport.empty).expand_as(transport.states))
    assert not opposite.weights(far, {99999}).any()
    assert torch.equal(opposite.weights(far, None), torch.ones(2))
    assert not opposite.weights(torch.zeros_like(far), None).any()


def test_what_is_retained_has_little_weight(sd, erasure):
    """What all prompts have in common tells none of them apart."""
    model, transport = Model(sd), erasure.transport
    bare = transport._replace(common=torch.zeros_like(transport.common))
    rows = model.encode(KEPT).states
    means = [sum(t.weights(row, ()) for row in rows) / len(rows) for t in (transport, bare)]
    assert (means[0] <= means[1] + 1e-6).all()
    assert (means[0] < means[1]).any()


def test_raw_states_of_any_two_prompts_are_near(sd):
    model = Model(sd)
    names, prompts = [c.name for c in CONCEPTS], [c.prompts() for c in CONCEPTS]
    raw = Transport.of(model, names, prompts, centred=False)
    states = model.encode([""]).states[0]
    own = raw.states.flatten(1).double()
    expected = own @ states.flatten().double() / own.norm(dim=1) / states.double().norm()
    assert raw.weights(states, set()).tolist() == pytest.approx(expected.clamp(min=0).tolist(), abs=1e-5)
    assert raw.weights(states, set()).min() > 0


def test_every_prompt_has_the_weights_that_its_concepts_give(sd, erasure):
    """W + Σ γᵢ Bᵢ Aᵢ, and not γ²: each row of a batch is what weights folded with its own γ give."""
    model = Model(sd)
    prompts = ["a church", "truck", "", "a garbage truck in church"]
    z = torch.randn(len(prompts), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(500)
    with erasure.attached(sd, scale=0.7):
        text = model.encode(prompts)
        both = model.predict(z, t, text)
    for row, prompt in enumerate(prompts):
        weights = gamma(sd, erasure, prompt)
        kept = {}
        with torch.no_grad():
            for name in LAYERS:
                weight = module(sd, name).weight
                kept[name] = weight.detach().clone()
                for i, w in enumerate(weights):
                    up, down = (erasure.deltas[f"{i}|{name}.weight.{end}"] for end in ("up", "down"))
                    weight += (0.7 * w * up @ down).view_as(weight)
            alone = model.predict(z[row : row + 1], t, text.part(slice(row, row + 1)))
            for name, weight in kept.items():
                module(sd, name).weight.copy_(weight)
        torch.testing.assert_close(both[row : row + 1], alone, atol=1e-4, rtol=1e-4)


def test_a_prompt_of_no_weight_is_left_bit_for_bit(sd, erasure):
    """The empty half of a guided step, whose γ is 0, is that of the model."""
    model, t = Model(sd), torch.tensor(500)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    plain = model.predict(z, t, model.encode([""]))
    with erasure.attached(sd):
        assert torch.equal(model.predict(z, t, model.encode([""])), plain)
        assert not torch.equal(model.predict(z, t, model.encode(["a church"])), plain)


def test_states_that_nobody_saw_being_made_get_all_of_it_and_a_warning(sd, erasure):
    model, t = Model(sd), torch.tensor(500)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = model.encode(["a cat"])._replace(states=3 + 0.1 * model.encode(["a dog"]).states)
    with erasure.linear.attached(sd):
        full = model.predict(z, t, text)
    with erasure.attached(sd), pytest.warns(UserWarning, match="with its whole strength"):
        torch.testing.assert_close(model.predict(z, t, text), full, atol=1e-4, rtol=1e-4)


def test_prompts_one_after_the_other_count_all_their_tokens(sd, erasure):
    """Programs write long prompts as several; the concept may be in any of them."""
    model, prompts = Model(sd), ["a cat in noto style", "a church"]
    states = model.encode(prompts).states
    reader, gate = (hook.run for hook in erasure.changes(model, 1.0)[:2])
    reader(
        sd.text_encoder, (sd.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids,), {}, (states,)
    )
    for order in ([0, 1], [1, 0]):
        gate(sd.unet, (), {"encoder_hidden_states": torch.cat(list(states[order]))[None]})
        assert float(gate.weights[0, 0]) == 1
    gate(sd.unet, (), {"encoder_hidden_states": states[:1]})
    assert float(gate.weights[0, 0]) < 1


def test_replaced_embeddings_are_no_tokens(sd, erasure):
    model = Model(sd)
    ids = model.token_spans()[0].ids("cat")
    embeddings = model.token_table()[torch.tensor([ids])] + 0.3
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with erasure.attached(sd):
        text = model.encode_tokens([ids], embeddings)
        with pytest.warns(UserWarning, match="with its whole strength"), torch.no_grad():
            model.predict(z, torch.tensor(500), text)


@pytest.mark.parametrize("build", [tiny.stable_diffusion, tiny.stable_diffusion_xl], ids=["sd", "sdxl"])
def test_life(build, draw, tmp_path):
    pipe = build()
    erasure, plain = gated(pipe), draw(pipe)
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    with erasure.attached(pipe):
        erased = draw(pipe)
        assert not any(row.problem for row in efface.check(pipe).rows)
        # A text map beside it: what is weighed is the prompt, not what the map made of it.
        with efface.erase(pipe, efface.Concept("dog", anchor="cat"), method="uce", keep=[]).attached(pipe):
            draw(pipe)
        assert np.array_equal(draw(pipe), erased)
        twin = copy.deepcopy(pipe)
        assert np.array_equal(draw(twin), erased)
        if (
            build is tiny.stable_diffusion
        ):  # transformers leaves what cannot be pickled on encoders that gave all their layers
            assert np.array_equal(draw(pickle.loads(pickle.dumps(pipe))), erased)
        view = type(pipe)(**pipe.components)
        view.set_progress_bar_config(disable=True)
        assert np.array_equal(draw(view), erased)
    assert np.abs(erased - plain).max() > 1e-4
    assert np.array_equal(draw(pipe), plain)
    assert all(torch.equal(before[k], v) for k, v in pipe.unet.state_dict().items())
    erasure.save(tmp_path / "e.safetensors")
    loaded = efface.Erasure.load(tmp_path / "e.safetensors")
    assert loaded.digest == erasure.digest
    with loaded.attached(pipe):
        assert np.array_equal(draw(pipe), erased)
    with pytest.warns(UserWarning, match="cannot hold the gates"), loaded.attached(pipe, fold=True):
        pass
    with pytest.warns(UserWarning, match="cannot hold the gates"):
        loaded.attach(pipe, fold=True)
    folded = draw(pipe)
    loaded.remove(pipe)
    with erasure.linear.attached(pipe):
        np.testing.assert_allclose(draw(pipe), folded, atol=1e-5)
    assert all(torch.equal(before[k], v) for k, v in pipe.unet.state_dict().items())


def test_two_pipelines_over_one_network(sd, erasure, draw):
    other = type(sd)(**sd.components | {"scheduler": copy.deepcopy(sd.scheduler)}, requires_safety_checker=False)
    other.set_progress_bar_config(disable=True)
    plain = draw(other)
    with erasure.attached(sd):
        erased = draw(sd)
        with pytest.warns(UserWarning, match="unprotected"):
            assert np.array_equal(draw(other), plain)
        assert np.array_equal(draw(sd), erased)


def broken(tensors, **changes):
    return {name: value for name, value in (tensors | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"gate|tokens": None}, "lacks the tokens"),
        ({"gate|common": torch.zeros(3)}, "do not fit"),
        ({"gate|owner": torch.tensor([0, 0])}, "do not fit"),
        ({"gate|owner": torch.tensor([0.0, 1.0])}, "do not fit"),
        ({"gate|tokens": torch.full((2, 1), -1)}, "no tokens"),
        ({f"0|{LAYERS[0]}.weight.up": None, f"0|{LAYERS[0]}.weight.down": None}, "factors of one rank"),
        ({f"0|{LAYERS[0]}.weight.up": None}, "without its other factor"),
    ],
)
def test_files_that_are_no_gated_delta_are_refused(erasure, change, match):
    tensors = erasure.tensors()
    GatedDelta.check(tensors, 16)
    with pytest.raises(efface.EffaceError, match=match):
        GatedDelta.check(broken(tensors, **change), 16)


def test_another_models_layers_are_refused(sd, erasure, draw):
    name = f"{LAYERS[0]}.weight"
    wrong = GatedDelta(
        erasure.provenance,
        {n: (t[:-1] if n.endswith(f"{name}.up") else t) for n, t in erasure.deltas.items()},
        erasure.transport,
    )
    plain = draw(sd)
    with pytest.raises(efface.EffaceError, match="no layer of the weight"):
        wrong.attach(sd)
    assert np.array_equal(draw(sd), plain)
