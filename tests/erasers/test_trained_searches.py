"""HiRM, MACE, Receler, AdvUnlearn, STEREO, AEGIS, EraseFlow and unsee: what all of them promise, authors' values, and searches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import efface
import tiny
import tiny_families
from efface.erasers import ERASERS, advunlearn
from efface.erasers.base import published_config
from efface.export.config import ExportConfig
from efface.export.run import export
from efface.models.model import Model
from efface.training.search import around, behind, descend, inserted, signed_step, with_words
from trained_searches import CHURCH, DOG, QUICK, UNETS, StoppedError, erased, latents_of, stopping


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
        stopping(patch, 4 if method == "stereo" else 2, StoppedError)
        with pytest.raises(StoppedError):
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


def test_a_signed_step_follows_the_mean_of_all_gradients():
    mean, x = torch.zeros(2), torch.zeros(2)
    gradients = [torch.tensor([1.0, 1.0]), torch.tensor([-0.5, -2.0]), torch.tensor([-0.5, 1.0])]
    for gradient in gradients:
        x = signed_step(x, lambda v, _, g=gradient: (v * g).sum(), lr=0.1, mean=mean)
    means = [0.1 * gradients[0]]
    for gradient in gradients[1:]:
        means.append(0.9 * means[-1] + 0.1 * gradient)
    torch.testing.assert_close(mean, means[-1])
    torch.testing.assert_close(x, -0.1 * sum(m.sign() for m in means))


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
    ids, each = inserted(table, [[None, 5], [6, None]], table[torch.tensor([[1], [2]])])
    assert ids == [[0, 5], [6, 0]]
    assert each.equal(table[torch.tensor([[1, 5], [6, 2]])])
