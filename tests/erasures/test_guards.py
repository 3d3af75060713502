"""Guards: closed forms of their rules, the pipeline's own call against efface's drawing, every family, files and life."""

from __future__ import annotations

import copy
import dataclasses
import json
import warnings

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

import efface
import tiny
import tiny_families
from efface.erasers import ERASERS
from efface.erasers.base import published_config
from efface.erasers.sld import PRESETS
from efface.erasures import attached_to
from efface.erasures.guard import Guard
from efface.erasures.guards.crg import CRG
from efface.erasures.guards.door import Words, positions_of, projector
from efface.erasures.guards.negative import NegativePrompt
from efface.erasures.guards.output import Outputs
from efface.erasures.guards.safree import Safree, beta, triggers
from efface.erasures.guards.seot import weakening
from efface.erasures.guards.sld import SLD
from efface.erasures.guards.stream import Stream
from efface.models.model import Model
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.files import save_sae
from efface.steering.steerer import direction, layer_states, middle_layer

pytestmark = pytest.mark.filterwarnings("ignore:the erasure does not reach the pooled text")
CHURCH = efface.Concept("church", anchor="cat")
PROMPT = "a church in noto style"
QUICK = {"sd1", "sd2", "pixart-alpha", "qwen-image"}
FAMILIES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in tiny_families.WHOLE]
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


def outputs(u, p, s, *, unit=1.0, share=0.5, weight=5.0):
    return Outputs(
        unconditional=u,
        conditional=p,
        concept=s,
        unit=torch.full((len(u), *[1] * (u.ndim - 1)), unit),
        share=share,
        weight=weight,
    )


def three(seed=0, rows=2):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, 4, 3, 3, generator=g, dtype=torch.float64) for _ in range(3)]


def sld(**options):
    full = {"warmup": 0.0, "strength": 1e30, "threshold": 1e30, "momentum_scale": 0.0, "momentum": 0.0}
    return SLD(phrases=("x",), **full | options)


def test_sld_with_a_full_mask_is_guidance_from_the_concept_to_the_prompt():
    u, p, s = three()
    gamma = sld().change(outputs(u, p, s), {})
    torch.testing.assert_close(u + 5 * (p - gamma - u), u + 5 * (p - s))


def test_sld_leaves_the_concepts_own_prompt_and_anything_at_no_strength():
    u, p, s = three()
    assert not sld(momentum_scale=0.5, momentum=0.7).change(outputs(u, p, p), {}).any()
    assert not sld(strength=0.0).change(outputs(u, p, s), {}).any()


def test_slds_momentum_converges_and_counts_while_warming_up():
    u, p, s = three()
    rule, memory = sld(momentum_scale=0.5, momentum=0.7, warmup=0.4), {}
    assert rule.change(outputs(u, p, s, share=0.1), memory) is None
    assert memory["momentum"].any()
    for _ in range(200):
        gamma = rule.change(outputs(u, p, s), memory)
    torch.testing.assert_close(gamma, (s - u) / (1 - 0.5))


def test_slds_condition_is_one_sided_and_may_be_a_quantile():
    u, p, s = three()
    gamma = sld(threshold=0.1).change(outputs(u, p, s), {})
    assert torch.equal(gamma != 0, p - s < 0.1)
    half = sld(threshold=0.5, quantile=True).change(outputs(u, p, s), {})
    limit = (p - s).abs().flatten(1).float().quantile(0.5, dim=1).view(-1, 1, 1, 1)
    assert torch.equal(half != 0, p - s < limit)


@given(st.floats(0.05, 1.0), st.sampled_from(["sld", "crg"]))
def test_rules_know_units_of_noise(c, which):
    """Outputs in other units, o = ε / c, give the same γ in ε, at every step of a picture."""
    rule = (
        sld(strength=0.7, threshold=0.2, momentum_scale=0.4, momentum=0.6)
        if which == "sld"
        else CRG(("x",), 1.0, 2.0, 0.0)
    )
    first, second = {}, {}
    for number in range(3):
        u, p, s = three(number)
        own = rule.change(outputs(u, p, s, share=number / 3), first)
        other = rule.change(outputs(u / c, p / c, s / c, unit=c, share=number / 3), second)
        assert (own is None) == (other is None)
        if own is not None:
            torch.testing.assert_close(other * c, own, rtol=1e-4, atol=1e-6)


def test_the_negative_prompt_takes_the_place_of_the_unconditional_output():
    u, p, n = three()
    gamma = NegativePrompt(("x",)).change(outputs(u, p, n), {})
    torch.testing.assert_close(u + 5 * (p - gamma - u), n + 5 * (p - n))


def test_crg_gives_the_concepts_own_picture_back_to_the_unconditional_one_and_leaves_others():
    u, p, s = three()
    both = torch.stack([s[0], u[1]])  # the first is the concept itself, the second nothing
    gamma = CRG(("x",), 1.0, 2.0, 0.0).change(outputs(u, both, s), {})
    torch.testing.assert_close((both - gamma)[0], u[0])
    assert torch.equal((both - gamma)[1], both[1])
    assert CRG(("x",), 1.0, 2.0, 1e9).change(outputs(u, p, s), {}) is None


def test_crg_sums_evidence_over_the_schedule_not_over_calls():
    u, p, s = three()
    rule, coarse, fine = CRG(("x",), 1.0, 2.0, 1e9), {}, {}
    for share in (0.0, 0.5, 1.0):
        rule.change(outputs(u, p, s, share=share), coarse)
    for number in range(11):
        rule.change(outputs(u, p, s, share=number / 10), fine)
    torch.testing.assert_close(coarse["past"], fine["past"])


def test_projectors():
    columns = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = projector(columns)
    torch.testing.assert_close(found @ found, found)
    torch.testing.assert_close(projector(torch.cat([columns, columns[:, :1]], 1)), found)
    torch.testing.assert_close(found @ columns, columns)


def safree(**options):
    return Safree(**{"phrases": ("church",), "alpha": 0.01, "slope": 50.0, "middle": 0.0, "window": 1.0} | options)


@pytest.fixture(scope="module")
def words(sd):
    return Words(Model(sd)), Stream(Model(sd).token_spans()[0], 0)


def test_safrees_triggers_become_orthogonal_to_the_concept(sd, words):
    reading, stream = words
    ids = stream.span.ids(PROMPT)
    edit = safree().edit(reading, stream, ids)
    assert len(edit.positions)
    (row,) = reading.without(stream, ids, [ids])
    new = edit.apply(row.double(), 1.0)
    concept = reading.phrases(stream, ("church",))
    inside = projector(concept.T)
    moved = edit.positions
    assert float((new[moved].double() @ inside).abs().max()) < 1e-4 * float(row[moved].abs().max())
    assert torch.equal(edit.apply(row, 0.0)[moved], row[moved])
    stays = [i for i in range(len(row)) if i not in moved.tolist()]
    assert torch.equal(new[stays], row.double()[stays])


def test_what_lies_in_the_prompt_and_outside_the_concept_is_a_fixed_point():
    g = torch.Generator().manual_seed(1)
    concept, inputs = (torch.randn(8, 2, generator=g, dtype=torch.float64) for _ in range(2))
    outside = inputs - projector(concept) @ inputs
    matrix = (torch.eye(8, dtype=torch.float64) - projector(concept)) @ projector(outside)
    torch.testing.assert_close(matrix @ outside, outside)
    assert abs(beta(outside.T, matrix)) < 1e-12


def test_triggers_are_relative_and_a_lone_token_is_one():
    residuals = torch.diag(torch.tensor([1.0, 1.0, 3.0]))
    assert triggers(residuals, 0.01) == [2]
    assert triggers(residuals[:1], 0.01) == [0]


@pytest.mark.parametrize(("change", "last"), [(0.0, 0), (0.55, 5), (1.0, 10)])
def test_safrees_window_is_a_share_of_the_schedule(change, last):
    assert safree(slope=3.5, middle=5.5, window=0.2).share_of(change) == pytest.approx(last / 50)
    assert safree(slope=3.5, middle=5.5, window=0.2, as_published=True).share_of(change) == pytest.approx(
        (last + 1) / 50
    )


@given(st.floats(-1, 3), st.integers(2, 5))
def test_seots_weakening_multiplies_singular_values(alpha, rows):
    x = torch.randn(rows, 6, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(
        weakening(x, alpha, 2.0) @ x, (u * (s * torch.exp(-alpha * s / 2))) @ v, rtol=1e-6, atol=1e-8
    )


def test_spans_of_names():
    assert positions_of([5, 1, 2, 5, 1], [[1, 2], [9]]) == [1, 2]
    assert positions_of([1, 2], [[]]) == []


# On pipelines


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


# Concept steerers


STEERING = {"iterations": 3, "factor": 2, "k": 4, "keep": ("a dog", "a cat")}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in tiny_families.WHOLE]
)
def test_steering_moves_prompts_one_way_and_negative_prompts_the_other(name):
    case, pipe = tiny_families.CASES[name], tiny_families.pipeline(name)
    picture = {"seed": 5, "steps": 2, "guidance": 4.0, "output": "np"}
    plain = tiny_families.own_picture(name, PROMPT, **picture)
    made = efface.erase(pipe, CHURCH, method="concept-steerers", strength=-5.0, **STEERING)
    with made.attached(pipe):
        called = tiny_families.own_picture(name, PROMPT, **picture)
        negative = " " if name == "qwen-image" else None
        drawn = Model(pipe).draw(
            [PROMPT], seeds=[5], steps=2, guidance=4.0, side=case.side, negative=negative, checked=False
        )
    assert np.abs(called - plain).max() > 1e-5
    assert np.abs(np.asarray(drawn[0], float) / 255 - called).max() <= 1.01 / 255 + 1e-3
    np.testing.assert_array_equal(tiny_families.own_picture(name, PROMPT, **picture), plain)


def test_steering_is_linear_in_its_strength_and_the_direction_is_the_formula(sd):
    sae = SparseAutoencoder(SAEConfig(16, 1, 1))
    layer = middle_layer(Model(sd))
    (x,) = layer_states(Model(sd), layer, ["church"])
    z = (x @ sae.encoder.weight[0]).clamp(min=0)
    torch.testing.assert_close(direction(Model(sd), sae, layer, "church"), z[:, None] * sae.W_dec.detach())
    states = {}
    made = efface.erase(sd, CHURCH, method="concept-steerers", **STEERING)
    for scale in (0.0, 1.0, 2.0):
        with made.attached(sd, scale=scale):
            found = []
            module = sd.text_encoder.get_submodule(layer.partition(".")[2])
            handle = module.register_forward_hook(
                lambda m, a, o, found=found: found.append(o[0] if isinstance(o, tuple) else o)
            )
            Model(sd).encode(["a dog"])
            Model(sd).encode_negative("a dog")
            handle.remove()
            states[scale] = found
    torch.testing.assert_close(
        states[2.0][0] - states[0.0][0], 2 * (states[1.0][0] - states[0.0][0]), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(states[1.0][1] - states[0.0][1], states[0.0][0] - states[1.0][0], rtol=1e-4, atol=1e-5)


def test_a_given_autoencoder_is_read_and_layers_are_checked(sd, tmp_path):
    save_sae(SparseAutoencoder(SAEConfig(16, 32, 4)), tmp_path / "sae")
    made = efface.erase(sd, CHURCH, method="concept-steerers", coder=str(tmp_path / "sae"))
    assert made.tensors()["vector"].shape == (tiny.LENGTH, 16)
    made.save(tmp_path / "g.safetensors")
    assert torch.equal(efface.Erasure.load(tmp_path / "g.safetensors").tensors()["vector"], made.tensors()["vector"])
    with pytest.raises(efface.EffaceError, match="no layer"):
        efface.erase(sd, CHURCH, method="concept-steerers", layer="text_encoder.nothing", coder=str(tmp_path / "sae"))
    with pytest.raises(efface.UsageError, match="trains an autoencoder"):
        efface.erase(sd, CHURCH, method="concept-steerers", keep=[])


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
