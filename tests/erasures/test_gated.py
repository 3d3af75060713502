"""Gated maps: what opens no gate stays bit for bit, what opens some is mapped by those alone, weights get the linear map."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

import efface
import tiny
from efface.erasers import ERASERS
from efface.erasers.base import Evidence
from efface.erasures import GatedMap, TextMap
from efface.erasures.dual import MapRows
from efface.erasures.gates import Gates
from efface.export import ExportConfig, export
from efface.models.model import Model
from small_erasure import ORIGIN, WIDTH

pytestmark = pytest.mark.filterwarnings("ignore:the erasure does not reach the pooled text")
CLOSED = ("a cat", "a dog in noto style", "", "garbage truck")
OPENED = ("a church", "a church in noto style")
CONCEPTS = (
    efface.Concept("church", anchor="cat", templates=("a {}", "a {} in noto style")),
    efface.Concept("art", anchor="dog", templates=("{}", "a {}")),
)
KEPT = ["a dog", "a cat", "a dog in noto style", "a cat in noto style", "garbage truck"]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gated(concepts: int = 2, rows: int = 3, union: bool = False) -> GatedMap:
    """A gated map of no model; the gates of concept k open for states near the k-th axis."""
    c = drawn(concepts * rows, WIDTH)
    p = drawn(WIDTH, WIDTH, seed=1)
    p = p @ p.T / WIDTH
    gates = Gates(
        centre=torch.zeros(WIDTH),
        weights=torch.eye(WIDTH)[:concepts],
        thresholds=torch.full((concepts,), 0.9),
        concept=torch.arange(concepts),
    )
    origin = dataclasses.replace(ORIGIN, config={"union": union})
    owner = torch.arange(concepts).repeat_interleave(rows)
    own = MapRows(c=c, difference=drawn(concepts * rows, WIDTH, seed=2).T, v=p @ c.T, owner=owner)
    return GatedMap.of(origin, gates, own)


def texts(*names: int | None, tokens: int = 5) -> Tensor:
    """A prompt for each name: all positions away from the axes but one near the axis of that number."""
    states = torch.full((len(names), tokens, WIDTH), 0.5) + 0.1 * drawn(len(names), tokens, WIDTH, seed=3)
    for prompt, name in enumerate(names):
        if name is not None:
            states[prompt, prompt % tokens] = 10 * torch.eye(WIDTH)[name] + 0.1
    return states


def naive_map(erasure: GatedMap, active: list[int]) -> Tensor:
    """(★★) as it is written, over the rows of some concepts."""
    return naive_map_of(erasure.rows, active)


def naive_map_of(rows: MapRows, active: list[int]) -> Tensor:
    """The same over given rows."""
    mine = torch.isin(rows.owner, torch.tensor(active))
    c, d, v = rows.c[mine].double(), rows.difference[:, mine].double(), rows.v[:, mine].double()
    e = 1 / len(active)
    inner = torch.eye(len(c), dtype=torch.double) + e * c @ v
    return torch.eye(len(v), dtype=torch.double) + e * d @ torch.linalg.inv(inner) @ v.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_opens_no_gate_is_the_same_tensor(dtype):
    states = texts(None, None).to(dtype)
    assert gated().map(states) is states


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_in_a_mixed_batch_only_what_is_open_changes(dtype):
    erasure, states = gated(), texts(None, 0, None, 1).to(dtype)
    before = states.clone()
    mapped = erasure.map(states)
    assert torch.equal(states, before)  # the caller's own
    assert torch.equal(mapped[0::2], states[0::2])
    for prompt, concept in ((1, 0), (3, 1)):
        expected = states[prompt].double() @ naive_map(erasure, [concept]).T
        torch.testing.assert_close(mapped[prompt].double(), expected, rtol=0, atol=64 * torch.finfo(dtype).eps * 10)


def test_zeros_keep_their_sign():
    states = texts(None, 0)
    states[0, 0, 0] = -0.0
    assert torch.signbit(gated().map(states)[0, 0, 0])


def test_the_order_of_a_batch_does_not_matter():
    erasure, states = gated(), texts(0, None, 1, 0)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(erasure.map(states)[order], erasure.map(states[order]), rtol=0, atol=1e-5)


def test_several_open_gates_bring_the_map_of_those_concepts():
    erasure, states = gated(3), texts(0, tokens=6)
    states[0, 1] = 10 * torch.eye(WIDTH)[2]
    torch.testing.assert_close(
        erasure.map(states)[0].double(), states[0].double() @ naive_map(erasure, [0, 2]).T, rtol=0, atol=1e-4
    )


def test_union_brings_the_map_of_all():
    erasure, states = gated(3, union=True), texts(None, 1)
    mapped = erasure.map(states)
    assert torch.equal(mapped[0], states[0])
    expected = states[1].double() @ naive_map(erasure, [0, 1, 2]).T
    torch.testing.assert_close(mapped[1].double(), expected, rtol=0, atol=1e-4)


def test_a_concept_that_no_prompt_names_changes_nothing():
    fewer, more = gated(2), gated(3)
    mine = more.rows.owner < 2
    rows = MapRows(
        c=torch.cat([fewer.rows.c, more.rows.c[~mine]]),
        difference=torch.cat([fewer.rows.difference, more.rows.difference[:, ~mine]], dim=1),
        v=torch.cat([fewer.rows.v, more.rows.v[:, ~mine]], dim=1),
        owner=more.rows.owner,
    )
    more = dataclasses.replace(more, rows=rows)
    states = texts(0, None, 1)
    assert torch.equal(fewer.map(states), more.map(states))


@pytest.mark.parametrize("rows", [2, 9], ids=["fewer rows than the width", "more"])
def test_the_linear_map_is_that_of_all(rows):
    erasure = gated(2, rows)
    torch.testing.assert_close(erasure.linear.matrix, naive_map(erasure, [0, 1]), rtol=0, atol=1e-4)


def test_scale():
    erasure, states = gated(), texts(0)
    assert erasure.map(states, 0.0) is states
    half, full = (erasure.map(states, scale) - states for scale in (0.5, 1.0))
    torch.testing.assert_close(half, full / 2, rtol=0, atol=1e-5)


def test_gradients_pass():
    states = texts(0, None).requires_grad_()
    gated().map(states).square().sum().backward()
    torch.testing.assert_close(states.grad[1], 2 * states.detach()[1])
    assert states.grad[0].isfinite().all()


@pytest.mark.parametrize("with_pooled", [False, True])
def test_the_file_holds_it(tmp_path, with_pooled):
    erasure, states = (pooled() if with_pooled else gated()), texts(0, None, 1)
    erasure.save(tmp_path / "e.safetensors")
    loaded = efface.Erasure.load(tmp_path / "e.safetensors")
    assert isinstance(loaded, GatedMap)
    assert loaded.maps_pooled == with_pooled
    vectors = drawn(3, POOLED, seed=7)
    for found, expected in zip(loaded.map_both(states, vectors), erasure.map_both(states, vectors), strict=True):
        assert torch.equal(found, expected)


POOLED = 4


def pooled() -> GatedMap:
    """A gated map that maps pooled text too."""
    c = drawn(4, POOLED, seed=4)
    owner = torch.tensor([0, 0, 1, 1])
    rows = MapRows(c=c, difference=drawn(POOLED, 4, seed=5), v=c.T, owner=owner)
    return GatedMap.of(gated().provenance, gated().gates, gated().rows, rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pooled_text_passes_by_the_same_decision(dtype):
    erasure = pooled()
    states, vectors = texts(None, 0, None, 1).to(dtype), drawn(4, POOLED, seed=7).to(dtype)
    mapped, moved = erasure.map_both(states, vectors)
    assert torch.equal(mapped, erasure.map(states))
    assert torch.equal(moved[0::2], vectors[0::2])
    assert erasure.pooled is not None
    for prompt, concept in ((1, 0), (3, 1)):
        expected = vectors[prompt].double() @ naive_map_of(erasure.pooled, [concept]).T
        torch.testing.assert_close(moved[prompt].double(), expected, rtol=0, atol=64 * torch.finfo(dtype).eps * 10)
    closed = erasure.map_both(states[:1], vectors[:1])
    assert closed[1] is not None
    assert torch.equal(closed[1], vectors[:1])
    with pytest.raises(efface.EffaceError, match="one vector for each prompt"):
        erasure.map_both(states, vectors[:2])


DAMAGED = {
    "another width": lambda t: t | {"c": t["c"][:, 1:]},
    "rows without an owner": lambda t: t | {"owner": t["owner"][1:]},
    "no gates": lambda t: t | {"gate_concept": t["gate_concept"][:0]},
    "a gate of nothing": lambda t: t | {"gate_concept": t["gate_concept"] + 5},
    "owners that are numbers": lambda t: t | {"owner": t["owner"].float()},
    "a part less": lambda t: {k: v for k, v in t.items() if k != "v"},
    "pooled text of another concept": lambda t: pooled().tensors() | {"pooled_owner": torch.tensor([0, 0, 1, 7])},
    "pooled text without its owner": lambda t: {k: v for k, v in pooled().tensors().items() if k != "pooled_owner"},
    "pooled text of two widths": lambda t: pooled().tensors() | {"pooled_c": drawn(4, POOLED + 1)},
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_damaged_parts_are_refused(damage):
    with pytest.raises(efface.EffaceError, match="make the erasure again"):
        GatedMap.check(damage(gated().tensors()), WIDTH)


# On a model


@pytest.fixture(scope="module")
def made(pipe):
    """A gated erasure of two concepts."""
    return efface.erase(pipe, CONCEPTS, method="gated", keep=KEPT, margin=-2.0, prior="never", aliases=False)


def opening(made, pipe, prompts):
    """Which prompts open a gate."""
    model = Model(pipe)
    return made.gates.open(model.projection_inputs(model.encode(list(prompts))).float()).any(1)


def test_gates_open_for_their_own_prompts_and_no_retained_one(sd):
    made = efface.erase(sd, CONCEPTS, method="gated", keep=KEPT, prior="never")
    assert opening(made, sd, [p for c in CONCEPTS for p in c.prompts()]).all()
    assert not opening(made, sd, [*KEPT, ""]).any()
    assert set(made.provenance.notes["gates"]) == {"church", "art"}
    assert all(entry["margin"] > 0.05 for entry in made.provenance.notes["gates"].values())


def test_pictures_without_an_open_gate_are_bit_identical(pipe, made, draw):
    closed = [p for p in CLOSED if not opening(made, pipe, [p]).any()]
    opened = [p for p in OPENED if opening(made, pipe, [p]).any()]
    assert closed
    assert opened
    plain = draw(pipe, [*closed, *opened])
    with made.attached(pipe):
        pictures = draw(pipe, [*closed, *opened])
        assert np.array_equal(draw(pipe, closed), draw(pipe, closed))
    assert np.array_equal(pictures[: len(closed)], plain[: len(closed)])
    assert np.abs(pictures[len(closed) :] - plain[len(closed) :]).max() > 1e-4


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize("compiled", [False, True], ids=["bfloat16", "compiled"])
def test_bit_identical_in_half_precision_and_compiled(draw, compiled):
    pipe = tiny.stable_diffusion().to(torch.float32 if compiled else torch.bfloat16)
    made = efface.erase(pipe, CONCEPTS[:1], method="gated", keep=KEPT, margin=-2.0, prior="never")
    if compiled:
        pipe.unet.compile(backend="eager")
    closed = [p for p in CLOSED if not opening(made, pipe, [p]).any()]
    plain = draw(pipe, closed)
    with made.attached(pipe):
        assert np.array_equal(draw(pipe, closed), plain)


def test_what_must_never_be_touched_opens_no_gate_and_stays_in_the_linear_map(sd):
    made = efface.erase(sd, CONCEPTS[:1], method="gated", keep=KEPT, prior="never", margin=-2.0, never_touch=("",))
    joint = efface.erase(sd, CONCEPTS[:1], method="joint", keep=KEPT, prior="never", never_touch=("",))
    assert not opening(made, sd, [""]).any()
    model = Model(sd)
    text = model.encode([""])
    rows = model.projection_inputs(text)[text.mask]
    torch.testing.assert_close(joint.map(rows), rows, rtol=0, atol=1e-5)
    torch.testing.assert_close(made.linear.map(rows), rows, rtol=0, atol=1e-5)


def test_too_much_that_must_never_be_touched_is_refused(sd):
    with pytest.raises(efface.EffaceError, match="never be touched"):
        efface.erase(sd, "church", method="joint", keep=[], never_touch=("a dog in noto style",))


def test_the_linear_tier_is_the_joint_map(pipe, made):
    joint = efface.erase(pipe, CONCEPTS, method="joint", keep=KEPT, prior="never", aliases=False)
    expected = joint.matrix
    scale = float((expected - torch.eye(len(expected), dtype=torch.double)).abs().max())
    torch.testing.assert_close(made.linear.matrix, expected, rtol=0, atol=1e-3 * scale)


def test_folding_says_that_the_gates_are_lost(sd, draw):
    made = efface.erase(sd, CONCEPTS[:1], method="gated", keep=KEPT, margin=-2.0, prior="never")
    before = sd.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight.clone()
    with pytest.warns(UserWarning, match="linear map"):
        made.attach(sd, fold=True)
    folded = draw(sd)
    made.remove(sd)
    with pytest.warns(UserWarning, match="linear map"), made.attached(sd, fold=True):
        pass
    with made.linear.attached(sd):
        np.testing.assert_allclose(draw(sd), folded, atol=2e-4)
    assert torch.equal(before, sd.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight)


def test_exporting_writes_the_linear_map_and_says_so(sd, tmp_path):
    made = efface.erase(sd, CONCEPTS[:1], method="gated", keep=KEPT, margin=-2.0, prior="never")
    with pytest.warns(UserWarning, match="linear map"):
        done = export(made, sd, tmp_path / "lora.safetensors", ExportConfig(to="lora", steps=2))
    assert done.bytes > 0


def test_composition_with_a_text_map(sd):
    made = efface.erase(sd, CONCEPTS[:1], method="gated", keep=KEPT, margin=-2.0, prior="never")
    other = efface.erase(sd, efface.Concept("dog", anchor="cat"), method="uce", keep=["a cat"])
    seen = []
    with made.attached(sd), other.attached(sd):
        handle = sd.unet.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
        )
        sd(list(OPENED), num_inference_steps=1, guidance_scale=1.0, output_type="latent")
        handle.remove()
    states = Model(sd).encode(list(OPENED)).states
    torch.testing.assert_close(seen[0], made.map(other.map(states)), rtol=1e-4, atol=1e-4)


def test_a_concept_that_cannot_be_told_apart_is_named(sd):
    with pytest.raises(efface.EffaceError, match=r"'church'.*joint"):
        efface.erase(sd, CONCEPTS[:1], method="gated", keep=KEPT, prior="never", margin=1.9)
    with pytest.raises(efface.EffaceError, match="margin is 3"):
        efface.erase(sd, "church", method="gated", margin=3.0)


def test_hardening_opens_for_what_was_found(sd):
    from efface.erasers import gated as eraser

    made = efface.erase(sd, CONCEPTS[:1], method="gated", keep=KEPT, margin=-2.0, prior="never")
    model = Model(sd)
    found = "truck art art"
    text = model.encode([found])
    evidence = Evidence(concept=CONCEPTS[0], text=text, prompts=(found,), anchors=("a cat",), images=1, rounds=1)
    hardened = eraser.extend(model, made, evidence)
    assert opening(hardened, sd, [found, *CONCEPTS[0].prompts()]).all()
    states, anchor = (model.projection_inputs(model.encode([p])) for p in (found, "a cat"))
    away = (states - anchor)[0, 1:].norm()
    assert (hardened.map(states) - anchor)[0, 1:].norm() < away
    assert len(hardened.gates.concept) > len(made.gates.concept)


def test_more_than_five_concepts_are_gated_by_default(sd, monkeypatch):
    used = []

    def load(name):
        used.append(name)
        raise KeyError(name)

    monkeypatch.setattr(ERASERS, "load", load)
    names = [efface.Concept(f"concept {i}") for i in range(6)]
    for concepts, method in ((names, "gated"), (names[:5], "rece")):
        with pytest.raises(KeyError):
            efface.erase(sd, concepts)
        assert used[-1] == method


def test_a_text_map_is_no_gated_map(sd):
    assert isinstance(efface.erase(sd, "church", method="joint", keep=["a dog"], prior="never"), TextMap)
