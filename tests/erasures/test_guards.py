"""Guards: the pipeline's own call against efface's drawing, every family, files and life."""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import efface
import tiny
import tiny_families
from efface.erasers import ERASERS
from efface.erasers.base import published_config
from efface.erasers.sld import PRESETS
from efface.erasures import attached_to
from efface.erasures.guard import Guard
from efface.erasures.guards.crg import CRG
from efface.erasures.guards.door import Words
from efface.erasures.guards.stream import Stream
from efface.models.model import Model
from quick import others_slow

pytestmark = pytest.mark.filterwarnings("ignore:the erasure does not reach the pooled text")
CHURCH = efface.Concept("church", anchor="cat")
PROMPT = "a church in noto style"
QUICK = {"sd1", "sd2", "pixart-alpha", "qwen-image"}
FAMILIES = others_slow(tiny_families.WHOLE, QUICK)
OUTPUT = {
    "sld": {},
    "sld-medium": {"preset": "medium", "warmup": 0.4, "threshold": 0.5},
    "negative-prompt": {},
    "crg": {"threshold": 1e-12},
}
TEXT = {"safree": {"window": 1.0, "slope": 50.0, "middle": 0.0}, "seot": {"start": 0.0, "reference": 5.0}}
TEXT_FAMILIES = {
    "sd1",
    "sd2",
    "sdxl",
    "sdxl-refiner",
    "sd3",
    "sd35",
    "flux-dev",
    "flux-schnell",
    "pixart-alpha",
    "pixart-sigma",
}
DISTILLED = {"flux-dev", "flux-schnell", "flux2-dev"}


def guard(pipe, name, **options):
    method = name.removesuffix("-medium")
    options = (OUTPUT | TEXT).get(name, {}) | options
    return efface.erase(pipe, CHURCH, method=method, **options)


def own_latents(name, *, steps=3, **more):
    case, pipe = tiny_families.CASES[name], tiny_families.pipeline(name)
    return (
        tiny_families.own_picture(name, PROMPT, seed=5, steps=steps, guidance=4.0, output="latent", **more),
        case,
        pipe,
    )


@pytest.mark.parametrize("method", OUTPUT)
@pytest.mark.parametrize("name", FAMILIES)
def test_the_pipelines_own_call_and_effaces_drawing_agree(name, method):
    case, pipe = tiny_families.CASES[name], tiny_families.pipeline(name)
    if name in DISTILLED and method == "negative-prompt":
        with pytest.raises(efface.EffaceError, match="distilled"):
            guard(pipe, method)
        return
    steps = 8 if name.startswith("flux2") else 3  # its schedule has little beyond the warm-up of SLD
    picture = {"seed": 5, "steps": steps, "guidance": 4.0, "output": "np"}
    plain = tiny_families.own_picture(name, PROMPT, **picture)
    with warnings.catch_warnings(), guard(pipe, method).attached(pipe):
        warnings.filterwarnings("ignore", "the model was distilled")
        called = tiny_families.own_picture(name, PROMPT, **picture)
        model = Model(pipe)
        negative = " " if name == "qwen-image" else None
        settings = {"steps": steps, "guidance": 4.0, "side": case.side, "negative": negative}
        drawn = model.draw([PROMPT], seeds=[5], checked=False, **settings)
    assert np.abs(np.asarray(drawn[0], float) / 255 - called).max() <= 1.01 / 255 + 1e-3
    if method != "crg":
        assert np.abs(called - plain).max() > 1e-4
    np.testing.assert_array_equal(tiny_families.own_picture(name, PROMPT, **picture), plain)


@pytest.mark.parametrize("method", TEXT)
@pytest.mark.parametrize("name", FAMILIES)
def test_guards_on_text_agree_or_are_refused(name, method):
    case, pipe = tiny_families.CASES[name], tiny_families.pipeline(name)
    if name not in TEXT_FAMILIES:
        with pytest.raises(efface.EffaceError, match="inside a template"):
            guard(pipe, method)
        return
    picture = {"seed": 5, "steps": 2, "guidance": 4.0, "output": "np"}
    with guard(pipe, method).attached(pipe):
        called = tiny_families.own_picture(name, PROMPT, **picture)
        drawn = Model(pipe).draw([PROMPT], seeds=[5], steps=2, guidance=4.0, side=case.side, checked=False)
    assert np.abs(np.asarray(drawn[0], float) / 255 - called).max() <= 1.01 / 255 + 1e-3


@pytest.mark.parametrize("method", ["sld", "negative-prompt", "crg"])
def test_latents_of_both_ways_agree_to_rounding(sd, method):
    call = {
        "num_inference_steps": 4,
        "guidance_scale": 4.0,
        "output_type": "latent",
        "negative_prompt": ["a dog", "a dog"],
    }
    with guard(sd, method).attached(sd):
        called = sd([PROMPT, "a cat"], generator=[torch.Generator().manual_seed(s) for s in (1, 2)], **call).images
        model = Model(sd)
        drawn = model.latents(model.encode([PROMPT, "a cat"]), seeds=[1, 2], steps=4, guidance=4.0, negative="a dog")
    torch.testing.assert_close(drawn, called, rtol=1e-5, atol=1e-5)


def test_crgs_evidence_does_not_hang_on_the_callers_negative_prompt(sd):
    """At the first step, at which both pictures have the same latents."""
    model, found = Model(sd), []
    (hook,) = CRG(("a church",), 1.0, 2.0, 1e30).hooks(model, 1.0, {})
    handle = hook.register()
    try:
        for negative in (None, "a dog"):
            hook.run.picture.rows = 0  # a new picture
            model.latents(model.encode([PROMPT]), seeds=[3], steps=1, guidance=4.0, negative=negative)
            found.append(hook.run.picture.memory["most"])
    finally:
        handle.remove()
    assert found[0] != 0
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-9)


def test_a_warm_up_that_no_step_outlasts_is_said(sd):
    pipe = copy.deepcopy(sd)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing="trailing")
    late = guard(pipe, "sld", preset="medium", warmup=0.6)
    settings = {"seeds": [3], "steps": 2, "guidance": 4.0}  # at 999 and 499 of 1000
    bare = Model(pipe).latents(Model(pipe).encode([PROMPT]), **settings)
    with late.attached(pipe), pytest.warns(UserWarning, match=r"warm-up of 60% ends: it changes nothing"):
        assert torch.equal(Model(pipe).latents(Model(pipe).encode([PROMPT]), **settings), bare)


def test_predictions_of_noise_and_velocity_give_the_same_picture(sd):
    """A denoiser whose output is turned from ε into v, with a scheduler that expects it."""
    pipe = copy.deepcopy(sd)
    with guard(sd, "sld-medium").attached(sd):
        expected = Model(sd).latents(Model(sd).encode([PROMPT]), seeds=[3], steps=4, guidance=4.0)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    alphas = pipe.scheduler.alphas_cumprod

    def to_velocity(module, args, output):
        a, b = alphas[args[1].long()].sqrt(), (1 - alphas[args[1].long()]).sqrt()
        return ((output[0] - b * args[0]) / a,)  # ε = a v + b z

    handle = pipe.unet.register_forward_hook(lambda m, a, k, o: to_velocity(m, _positional(a, k), o), with_kwargs=True)
    with guard(pipe, "sld-medium").attached(pipe):
        found = Model(pipe).latents(Model(pipe).encode([PROMPT]), seeds=[3], steps=4, guidance=4.0)
    handle.remove()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def _positional(args, kwargs):
    return (*args, *(kwargs[name] for name in ("sample", "timestep")[len(args) :]))


@pytest.mark.parametrize("method", ["sld", "safree"])
def test_gradients_pass_through_a_guard(sd, method):
    model = Model(sd)
    text = model.encode([PROMPT])
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def gradient(scale):
        with guard(sd, method).attached(sd, scale=scale):
            states = model.encode([PROMPT]).states.clone().requires_grad_()
            out = model.predict(latents, torch.tensor(900), text._replace(states=states))
            return torch.autograd.grad(out.square().sum(), states)[0]

    plain, guarded = gradient(0.0), gradient(1.0)
    assert guarded.isfinite().all()
    assert float((plain - guarded).abs().max()) > 1e-6


def test_embeddings_escape_a_guard_on_text_and_it_is_said(sd):
    model = Model(sd)
    with guard(sd, "safree").attached(sd):
        table = model.token_table().detach()
        text = model.encode_tokens([[5, 6]], table[torch.tensor([[7, 8]])] + 0.1)
        with pytest.warns(UserWarning, match="comes from no tokens"):
            model.predict(torch.zeros(1, 4, 8, 8), torch.tensor(900), text)
        states = 3 + torch.randn(1, tiny.LENGTH, 16, generator=torch.Generator().manual_seed(0))
        with pytest.raises(efface.EffaceError, match="no prompt was seen"):
            sd(prompt_embeds=states, num_inference_steps=1, output_type="latent")
        seen, _ = sd.encode_prompt(PROMPT, "cpu", 1, False)
        sd(prompt_embeds=seen, num_inference_steps=1, output_type="latent")


def test_what_cannot_be_guarded_is_said(sd):
    with guard(sd, "sld").attached(sd):
        with pytest.warns(UserWarning, match="drawn without: nothing is erased"):
            sd(PROMPT, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
        with pytest.raises(efface.EffaceError, match="called by itself"):
            sd.unet(torch.zeros(2, 4, 8, 8), 5, encoder_hidden_states=torch.zeros(2, 12, 16))
    with pytest.raises(efface.EffaceError, match="no weight does"):
        guard(sd, "sld").attach(sd, fold=True)
    assert attached_to(sd) == []
    states = torch.zeros(1, 12, 16)
    with guard(sd, "negative-prompt").attached(sd), pytest.raises(efface.EffaceError, match="negative_prompt_embeds"):
        sd(PROMPT, num_inference_steps=1, negative_prompt_embeds=states, output_type="latent")
    flux = tiny_families.pipeline("flux-schnell")
    with guard(flux, "sld").attached(flux), pytest.warns(UserWarning, match="approximation"):
        flux(PROMPT, num_inference_steps=1, output_type="latent", height=16, width=16)


def test_two_calls_a_step_are_guided_exactly():
    """On a pipeline that asks for the prompt first and for the negative prompt then, one step is read from pictures of one step."""
    pipe, g = tiny_families.pipeline("flux-schnell"), 3.0
    call = {"num_inference_steps": 1, "output_type": "latent", "height": 16, "width": 16}

    def drawn(prompt, **more):
        return pipe(prompt, generator=torch.Generator().manual_seed(1), **call | more).images

    u, p, s, empty = (drawn(text) for text in ("a dog", PROMPT, "church", ""))
    made = guard(pipe, "crg", threshold=-1e9, strength=1e-9)  # γ is o_S − o_∅ times a number that is read off below
    with made.attached(pipe):
        guarded = drawn(PROMPT, true_cfg_scale=g, negative_prompt="a dog")
    change = guarded - (u + g * (p - u))
    factor = (change * (s - empty)).sum() / (s - empty).square().sum()
    torch.testing.assert_close(change, factor * (s - empty), rtol=1e-3, atol=1e-4 * float(change.abs().max()) + 1e-5)
    assert factor < 0


def test_a_second_picture_forgets_the_first(sd):
    call = {"num_inference_steps": 3, "guidance_scale": 4.0, "output_type": "latent"}
    with guard(sd, "sld").attached(sd):
        pictures = [sd(PROMPT, generator=torch.Generator().manual_seed(1), **call).images for _ in range(2)]
        one = [
            sd(PROMPT, generator=torch.Generator().manual_seed(1), **call | {"num_inference_steps": 1}).images
            for _ in range(2)
        ]
    assert torch.equal(*pictures)
    assert torch.equal(*one)


@pytest.mark.parametrize("method", [*OUTPUT, *TEXT])
def test_files(sd, method, tmp_path):
    made = guard(sd, method)
    assert made.save(tmp_path / "g.safetensors") < 4096
    loaded = efface.Erasure.load(tmp_path / "g.safetensors")
    assert isinstance(loaded, Guard)
    assert loaded.rules == made.rules
    assert loaded.digest == made.digest


def test_files_with_other_rules_are_refused(sd):
    made = guard(sd, "sld")
    for change in ({"rule": "other"}, {"strength": "much"}, {"strength": float("inf")}, {"phrases": [1]}, {"extra": 1}):
        config = json.loads(json.dumps(made.provenance.config, default=list))
        config["guard"][0] |= change
        with pytest.raises(efface.EffaceError, match="the guard's rule"):
            Guard.restore(dataclasses.replace(made.provenance, config=config), {})
    with pytest.raises(efface.EffaceError, match="do not fit"):
        Guard.restore(made.provenance, {"vector": torch.zeros(1, 16)})
    with pytest.raises(efface.EffaceError, match="at most one direction"):
        Guard.check({"vector": torch.zeros(3)}, 16)


def test_two_guards_and_a_map_on_one_pipeline(sd, draw):
    plain = draw(sd)
    with guard(sd, "sld").attached(sd):
        one = draw(sd)
        with guard(sd, "safree").attached(sd), efface.erase(sd, "dog", method="uce", keep=["a cat"]).attached(sd):
            assert np.abs(draw(sd) - one).max() > 1e-4
            assert [row.way for row in efface.check(sd).rows] == ["sampling", "sampling", "mapped"]
            assert not any(row.problem for row in efface.check(sd).rows)
        assert np.array_equal(draw(sd), one)
    assert np.array_equal(draw(sd), plain)
    assert attached_to(sd) == []


# As published


def test_slds_presets():
    assert {name: tuple(values.values()) for name, values in PRESETS.items()} == {
        "weak": (0.3, 20, 0, 0, 0), "medium": (0.2, 1000, 0.01, 0.3, 0.4), "strong": (0.14, 2000, 0.025, 0.5, 0.7),
        "max": (0, 5000, 1, 0.5, 0.7),
    }  # fmt: skip
    assert published_config(ERASERS.load("sld"), [CHURCH], {}).preset == "medium"


def test_safree_as_published_is_the_public_code(sd):
    nudity = efface.Concept("nudity", "explicit")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = efface.erase(sd, nudity, method="safree", as_published=True, phrases=("church", "art"))
    rule, negative = made.rules
    assert (rule.slope, rule.middle, rule.alpha, rule.window, rule.as_published) == (2.5, 5.333, 0.01, 0.2, True)
    assert negative.phrases == rule.phrases
    reading, stream = Words(Model(sd)), Stream(Model(sd).token_spans()[0], 0)
    for one in (rule, dataclasses.replace(rule, as_published=False)):
        assert one.edit(reading, stream, stream.span.ids("church")).positions.tolist() == [1]


def test_safrees_calibration_separates_concept_and_retained(sd):
    made = efface.erase(sd, CHURCH, method="safree", keep=["a dog in noto style", "a cat"])
    (rule,) = made.rules
    assert rule.slope > 0
    assert made.provenance.notes["retained"] == 2


def test_crg_finds_its_threshold(sd):
    made = efface.erase(sd, CHURCH, method="crg", keep=["a dog", "a cat"], images=3, draw_steps=2)
    (rule,) = made.rules
    assert 0 <= rule.threshold < 1e9
    assert set(made.provenance.notes) >= {"evidence_kept", "evidence_concept"}
    with pytest.raises(efface.UsageError, match="finds τ"):
        efface.erase(sd, CHURCH, method="crg", keep=[])
