"""Text where it enters beside the timestep: exact where every row and the pooled vector are mapped, and not without the latter."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import Tensor

import efface
from efface.erasures import TextMap
from efface.erasures.provenance import provenance
from efface.export import ExportConfig, export
from efface.models.model import Model
from tiny_families import pipeline

POOLED = ("sdxl", "sd35", "flux-dev")
WITHOUT = ("flux2-klein", "qwen-image", "z-image", "lumina2")
TOKENS = 6
"""Of each prompt: no more rows than the states are wide, so that one map can lead all of them where they are to go."""
CHURCH = efface.Concept("church", anchor="cat", templates=("a {}", "a {} in noto style"))
OPTIONS = {"keep": ["a dog", "garbage truck", "art style"], "prior": "never", "aliases": False}

pytestmark = pytest.mark.families


def leading(c: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of a map with M c = t for every row of C and T (rows width)."""
    c, t = c.double(), t.double()
    return (t - c).T, torch.linalg.pinv(c)


def denoised(model: Model, text) -> Tensor:
    """The denoiser's output for one picture."""
    shape = model.family.latent_shape(None)
    latents = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.predict(latents, torch.tensor(500), text, guidance=4.0)


def short(model: Model, prompt: str):
    """The first tokens of a prompt itself: what stands before it in a template is the same for all."""
    text = model.encode([prompt])
    begin = model.token_spans()[0].begin
    states = text.states[:, begin : begin + TOKENS]
    assert states.shape[1] == TOKENS
    return text._replace(states=states, mask=torch.ones(1, TOKENS, dtype=torch.bool))


@pytest.mark.parametrize("fold", [False, True], ids=["mapped", "folded"])
@pytest.mark.parametrize("name", [*POOLED, *(pytest.param(n, marks=pytest.mark.slow) for n in WITHOUT)])
def test_the_output_is_the_anchors_where_all_text_is_mapped(name, fold):
    """Also that a bias of the entry counts once: with it counted twice, the output would be another prompt's."""
    model = Model(pipeline(name))
    text, anchor = short(model, "a church in noto style"), short(model, "a cat art")
    c, t = (model.projection_inputs(part)[0] for part in (text, anchor))
    origin = provenance(model, "exact", {}, (CHURCH,), ())
    vectors = None if text.pooled is None or name in WITHOUT else leading(text.pooled, anchor.pooled)
    whole = TextMap.of(origin, *leading(c, t), vectors)
    expected, plain = denoised(model, anchor), denoised(model, text)
    scale = float(expected.abs().max())
    assert float((plain - expected).abs().max()) > 1e-3 * scale
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is said to pass unmapped
        with whole.attached(model.pipeline, fold=fold):
            torch.testing.assert_close(denoised(model, text), expected, rtol=0, atol=1e-5 * max(1.0, scale))
    assert torch.equal(denoised(model, text), plain)
    if name in POOLED and not fold:
        states_alone = TextMap.of(origin, *leading(c, t))
        with pytest.warns(UserWarning, match="does not reach the pooled text"):
            states_alone.attach(model.pipeline)
        assert float((denoised(model, text) - expected).abs().max()) > 1e-4 * scale
        states_alone.remove(model.pipeline)


@pytest.mark.parametrize("method", ["joint", "gated"])
@pytest.mark.parametrize("name", POOLED)
def test_lists_are_erased_from_pooled_text_too(name, method, tmp_path):
    pipe = pipeline(name)
    own = {"margin": -2.0} if method == "gated" else {}
    erasure = efface.erase(pipe, CHURCH, method=method, **OPTIONS, **own)
    model = Model(pipe)
    assert erasure.maps_pooled
    assert set(erasure.provenance.notes["pooled"]) == {"weight", "progress", "drift"}
    church, cat, empty = (model.encode([p]).pooled for p in ("a church", "a cat", ""))
    linear = erasure if isinstance(erasure, TextMap) else erasure.linear
    assert float((linear.map_pooled(church) - cat).norm()) < float((church - cat).norm())
    torch.testing.assert_close(linear.map_pooled(empty), empty, rtol=0, atol=1e-5 * float(empty.abs().max()))
    plain = predicted(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        erasure.attach(pipe)
    mapped = predicted(model)
    erasure.remove(pipe)
    with linear.attached(pipe, fold=True):
        folded = predicted(model)
    assert np.abs(mapped - plain).max() > 1e-4
    np.testing.assert_allclose(predicted(model), plain, atol=0)
    if method == "joint":
        np.testing.assert_allclose(folded, mapped, atol=2e-3)
    erasure.save(tmp_path / "e.safetensors")
    with efface.Erasure.load(tmp_path / "e.safetensors").attached(pipe):
        assert np.array_equal(predicted(model), mapped)


def predicted(model: Model, prompt: str = "a church") -> np.ndarray:
    """One call of the denoiser."""
    return denoised(model, model.encode([prompt])).numpy()


@pytest.mark.parametrize("name", POOLED)
def test_pooled_text_without_an_open_gate_is_the_same_to_the_last_bit(name):
    pipe = pipeline(name)
    erasure = efface.erase(pipe, CHURCH, method="gated", margin=-2.0, **OPTIONS)
    model = Model(pipe)
    prompts = ["a church", "a dog", "a church in noto style", "garbage truck"]
    text = model.encode(prompts)
    opened = erasure.gates.open(model.projection_inputs(text).float()).any(1)
    assert opened.any()
    assert not opened.all()
    seen: list[Tensor] = []

    def look(module, args, kwargs):
        conditions = kwargs.get("added_cond_kwargs") or {"text_embeds": kwargs.get("pooled_projections")}
        seen.append(conditions["text_embeds"])

    with erasure.attached(pipe):
        handle = model.networks()[0].module.register_forward_pre_hook(look, with_kwargs=True)
        shape = model.family.latent_shape(None)
        with torch.no_grad():
            model.predict(torch.zeros(4, *shape), torch.tensor(500), text, guidance=4.0)
        handle.remove()
    assert torch.equal(seen[0][~opened], text.pooled[~opened])
    assert not torch.isclose(seen[0][opened], text.pooled[opened]).all(dim=1).any()


@pytest.mark.parametrize("method", ["uce", "rece", "preserve", "project", "speed", "double-projection"])
@pytest.mark.parametrize("name", POOLED)
def test_other_text_maps_come_with_one_of_the_pooled_text(name, method):
    pipe = pipeline(name)
    erasure = efface.erase(pipe, CHURCH, method=method, keep=OPTIONS["keep"])
    plain = efface.erase(pipe, CHURCH, method=method, keep=OPTIONS["keep"], pooled=False)
    assert torch.equal(erasure.u, plain.u)
    assert erasure.maps_pooled
    assert not plain.maps_pooled
    model = Model(pipe)
    church, cat, empty = (model.encode([p]).pooled for p in ("a church", "a cat", ""))
    assert float((erasure.map_pooled(church) - cat).norm()) < float((church - cat).norm())
    torch.testing.assert_close(erasure.map_pooled(empty), empty, rtol=0, atol=1e-5 * float(empty.abs().max()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with erasure.attached(pipe):
            pass


def test_others_say_that_pooled_text_passes():
    pipe = pipeline("sdxl")
    erasure = efface.erase(pipe, CHURCH, method="uce", keep=["a dog"], as_published=True)
    assert not erasure.maps_pooled
    with pytest.warns(UserWarning, match="does not reach the pooled text"):
        erasure.attach(pipe)
    erasure.remove(pipe)


@pytest.mark.parametrize("to", ["lora", "diff"])
def test_exports_hold_the_map_of_pooled_text(to, tmp_path):
    pipe = pipeline("sdxl")
    erasure = efface.erase(pipe, CHURCH, method="joint", **OPTIONS)
    done = export(erasure, pipe, tmp_path / "out.safetensors", ExportConfig(to=to, steps=2))
    assert done.bytes > 0


def test_hardening_adds_to_the_map_of_pooled_text():
    from efface.erasers import gated, joint
    from efface.erasers.base import Evidence

    pipe = pipeline("sdxl")
    model = Model(pipe)
    found = "art truck in church"
    evidence = Evidence(
        concept=CHURCH, text=model.encode([found]), prompts=(found,), anchors=("a cat",), images=1, rounds=1
    )
    vectors, anchor = (model.encode([p]).pooled for p in (found, "a cat"))
    for eraser, own in ((joint, {}), (gated, {"margin": -2.0})):
        erasure = efface.erase(pipe, CHURCH, method=eraser.__name__.rpartition(".")[2], **OPTIONS, **own)
        hardened = eraser.extend(model, erasure, evidence)
        before, after = (e if isinstance(e, TextMap) else e.linear for e in (erasure, hardened))
        assert hardened.maps_pooled
        assert float((after.map_pooled(vectors) - anchor).norm()) < float((before.map_pooled(vectors) - anchor).norm())


def test_a_prior_holds_the_pooled_text_of_its_prompts(monkeypatch):
    from efface.closed_form.prior import build_prior, cached_prior

    model = Model(pipeline("sdxl"))
    prior = build_prior(model)
    assert prior.pooled is not None
    assert prior.pooled_owner is not None
    again = cached_prior(model)
    assert again is not None
    assert again.pooled is not None
    assert torch.equal(again.pooled, prior.pooled)
    number = int(prior.pooled_owner[0])
    own = model.encode([prior.prompts[number]]).pooled
    torch.testing.assert_close(prior.pooled[0].float(), own[0], rtol=0, atol=2e-3 * float(own.abs().max()))
    kept = prior.pooled_vectors([efface.Concept("church")])
    named = [i for i in prior.pooled_owner.tolist() if "church" in prior.prompts[i].split()]
    assert len(kept) <= len(prior.pooled) - len(named)
    assert named
