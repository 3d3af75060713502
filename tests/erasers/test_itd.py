"""ItD: prompts without the concept's latents keep every bit; the edit is what the formulas say."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch

import efface
import tiny
import tiny_families
from efface.erasers import ERASERS
from efface.erasers.base import published_config
from efface.erasures.text_edit import TextEdit, TextGate, active_latents, change, replacement, strength, told
from efface.errors import EffaceError, UsageError
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.files import save_sae
from efface.sae.text_states import TextSites
from efface.steering.text_latents import edit_of, latents_of, tells_of, unreached
from quick import others_slow

CHURCH = efface.Concept("church", templates=("a {}", "a {} in noto style"))
KEEP = ("a truck", "a cat in noto style", "a dog", "garbage")
QUICK = ("sd1", "sd2", "sdxl", "sd35", "flux-dev", "pixart-alpha")
NAMES = others_slow(tiny_families.CASES, QUICK)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes an ItD erasure of a tiny family, once a set of options."""
    kept = {}

    def run(name, **options):
        key = (name, tuple(sorted(options.items())))
        if key not in kept:
            pipe = tiny_families.pipeline(name)
            latents = 256 if name in QUICK else 4096  # untrained ones tell little
            given = tiny.text_options(pipe, tmp_path_factory.mktemp("coder"), latents) | options
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*do not depend on")
                kept[key] = efface.erase(pipe, CHURCH, method="itd", keep=KEEP, **given)
        return kept[key]

    return run


def states(name, prompts):
    """Text states and pooled text of prompts, each encoded alone."""
    model = efface.Model(tiny_families.pipeline(name))
    return [model.encode([prompt]) for prompt in prompts]


@pytest.mark.parametrize("name", NAMES)
def test_retained_prompts_keep_every_bit_and_the_concepts_do_not(name, made):
    erasure, pipe = made(name), tiny_families.pipeline(name)
    prompts = [*KEEP, *CHURCH.prompts()]
    before = states(name, prompts)
    with erasure.attached(pipe):
        after = states(name, prompts)
    for prompt, one, other in zip(prompts, before, after, strict=True):
        same = torch.equal(one.states, other.states)
        assert same == (prompt in KEEP), prompt
        if prompt in KEEP and one.pooled is not None:
            assert torch.equal(one.pooled, other.pooled)


@pytest.mark.parametrize("name", ["sd1", "sdxl", "flux-dev", "pixart-alpha"])
def test_a_mixed_batch_equals_its_prompts_alone(name, made):
    pipe = tiny_families.pipeline(name)
    model, prompts = efface.Model(pipe), [*KEEP, *CHURCH.prompts()]
    plain = model.encode(prompts).states
    with made(name).attached(pipe):
        batch = model.encode(prompts).states
        alone = states(name, prompts)
    for number, one in enumerate(alone):
        length = min(batch.shape[1], one.states.shape[1])
        torch.testing.assert_close(batch[number, :length], one.states[0, :length], rtol=1e-4, atol=1e-4)
        assert torch.equal(batch[number], plain[number]) == (number < len(KEEP))


def test_the_edit_is_the_sum_over_chosen_latents_in_float64():
    generator = torch.Generator().manual_seed(0)
    sae = SparseAutoencoder(SAEConfig(6, 20, 4, "threshold"), seed=3)
    sae.threshold.fill_(0.2)
    sae.b_dec.data = torch.randn(6, generator=generator)
    chosen = torch.zeros(20, dtype=torch.bool)
    chosen[[2, 5, 11, 17]] = True
    edit = edit_of(sae, chosen, -8.0, least=9.0)
    x = torch.randn(3, 5, 6, generator=generator) * 2
    own = torch.ones(3, 5, dtype=torch.bool)
    own[:, 0] = False
    delta = change(edit, active_latents(edit, x))
    expected = torch.zeros(3, 5, 6, dtype=torch.float64)
    for row in range(3):
        for position in range(5):
            for latent in (2, 5, 11, 17):
                w, b = sae.encoder.weight[latent].double(), sae.encoder.bias[latent].double()
                z = max(0.0, float((w @ (x[row, position].double() - sae.b_dec.double()) + b).detach()))
                expected[row, position] += -9 * (z if z > 0.2 else 0.0) * sae.W_dec[latent].detach().double()
    torch.testing.assert_close(delta.double(), expected, rtol=1e-5, atol=1e-5)
    naive = [sum(float(expected[r, p].square().mean()) for p in range(1, 5)) / 4 for r in range(3)]
    assert strength(delta, own).tolist() == pytest.approx(naive, rel=1e-5)
    tells = torch.full((4,), 0.9)
    assert torch.equal(told(active_latents(edit, x), tells), active_latents(edit, x) * (active_latents(edit, x) > 0.9))
    z = sae.encode(x.flatten(0, 1)).dense(20).view(3, 5, 20)
    kept = own[..., None]
    authors = (torch.where(chosen & kept, -8 * z, z) @ sae.W_dec + sae.b_dec).detach() - x
    torch.testing.assert_close(replacement(sae, edit, x, own).detach(), authors, rtol=1e-5, atol=1e-5)


def test_the_gate_is_monotone_in_its_threshold(made):
    name = "sd1"
    erasure, pipe = made(name), tiny_families.pipeline(name)
    prompts = [*KEEP, *CHURCH.prompts(), "church", "a church art"]
    before = states(name, prompts)
    edited = []
    for threshold in (0.0, 1e-3, 1e-1, 1e2, 1e9):
        gates = {s: TextGate(threshold, gate.begin, gate.tells) for s, gate in erasure.gates.items()}
        with TextEdit(erasure.provenance, erasure.edits, gates=gates).attached(pipe):
            after = states(name, prompts)
        edited.append(
            {p for p, a, b in zip(prompts, before, after, strict=True) if not torch.equal(a.states, b.states)}
        )
    assert all(more >= less for more, less in itertools.pairwise(edited))
    assert edited[0]
    assert not edited[-1]


def test_the_papers_latents_are_those_of_no_retained_prompt_and_unite(tmp_path):
    pipe = tiny.stable_diffusion()
    options = tiny.text_options(pipe, tmp_path) | {"ratio": float("inf"), "aliases": False}
    keep = ["a truck", "garbage"]
    one, other, both = (
        efface.erase(pipe, names, method="itd", keep=keep, **options)
        for names in ([CHURCH], [efface.Concept("cat")], [CHURCH, efface.Concept("cat")])
    )
    (site,) = both.edits
    latents = [set(e.edits[site].latents.tolist()) for e in (one, other, both)]
    assert latents[0] | latents[1] == latents[2]
    model = efface.Model(pipe)
    sae = both.saes[site]
    spared = latents_of(TextSites(model, model.sites(site)), {site: sae}, keep, None)[site]
    assert not (spared.share[both.edits[site].latents] > 0).any()


def test_as_published_gives_the_authors_values():
    config = published_config(ERASERS.load("itd"), [CHURCH], {})
    assert (config.mode, config.gain, config.latents, config.retained_latents) == ("published", -8.0, 128, 128)
    assert (config.ratio, config.certainty, config.aliases, config.neutral) == (float("inf"), 0.0, False, False)
    assert published_config(ERASERS.load("itd"), [efface.Concept("noto", kind="style")], {}).latents == 256


def test_the_authors_threshold_is_a_little_below_the_weakest_of_the_concepts_prompts(made):
    erasure, pipe = made("sd1", mode="published"), tiny_families.pipeline("sd1")
    (site,) = erasure.edits
    edit, sae = erasure.edits[site], erasure.saes[site]
    model = efface.Model(pipe)
    read = TextSites(model, model.sites(site)).read(CHURCH.prompts())[site]
    squares = replacement(sae, edit, read.states, read.own | read.behind).square().mean((1, 2))
    assert erasure.gates[site].threshold == pytest.approx(0.99 * float(squares.min()), rel=1e-4)


def test_every_prompt_of_the_concept_is_told_if_any_latent_can():
    peaks = torch.tensor([[9.0, 0.0, 0.2], [0.0, 2.0, 0.3], [0.1, 0.0, 0.0]])
    floor = torch.tensor([1.0, 1.0, 0.1])
    tells = tells_of(peaks, floor, 0.5)
    assert ((peaks > tells).any(1)).tolist() == [True, True, False]
    assert (tells >= floor).all()
    assert tells_of(torch.tensor([[9.0], [2.0]]), torch.ones(1), 0.5).tolist() == [1.0]


def test_hardening_adds_what_was_found(tmp_path):
    from efface.erasers.base import Evidence

    pipe = tiny.stable_diffusion()
    options = tiny.text_options(pipe, tmp_path) | {"ratio": 1.0, "margin": 1.0}
    erasure = efface.erase(pipe, CHURCH, method="itd", keep=KEEP, **options)
    model = efface.Model(pipe)
    found = Evidence(CHURCH, model.encode(["art"]), ("art",), ("a cat",), images=1, rounds=1)
    harder = ERASERS.load("itd").extend(model, erasure, found)
    before = model.encode(["art"]).states
    with erasure.attached(pipe):
        assert torch.equal(model.encode(["art"]).states, before)
    with harder.attached(pipe):
        assert not torch.equal(model.encode(["art"]).states, before)


def test_states_given_past_the_encoder_are_said_to_be(made):
    pipe = tiny.stable_diffusion()
    erasure = made("sd1")
    states = efface.Model(pipe).encode(["a church"]).states
    call = {"prompt_embeds": states, "num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "latent"}
    with erasure.attached(pipe, force=True), pytest.warns(UserWarning, match="prompt_embeds were given"):
        pipe(**call)


def test_text_that_no_site_reaches_is_said(tmp_path):
    pipe = tiny.stable_diffusion_xl()
    model = efface.Model(pipe)
    assert not unreached(model, model.sites("text_encoder*"))
    assert "pooled text" in unreached(model, model.sites("text_encoder"))
    options = tiny.text_options(pipe, tmp_path) | {"sites": ("text_encoder",)}
    with pytest.warns(UserWarning, match="may come back"):
        efface.erase(pipe, CHURCH, method="itd", keep=KEEP, **options)


def test_what_cannot_serve_is_refused(tmp_path):
    pipe = tiny.stable_diffusion()
    options = tiny.text_options(pipe, tmp_path / "run")
    with pytest.raises(EffaceError, match="none were given"):
        efface.erase(pipe, CHURCH, method="itd", keep=[], **options)
    always = SparseAutoencoder(SAEConfig(16, 2, 2))
    with torch.no_grad():
        always.encoder.bias.fill_(1e3)
    save_sae(always, tmp_path / "always")
    with pytest.raises(EffaceError, match="tells the concept's prompts"):
        efface.erase(
            pipe, CHURCH, method="itd", keep=KEEP, coder=str(tmp_path / "always"), ratio=float("inf"), neutral=False
        )
    with pytest.raises(EffaceError, match="no autoencoder"):
        efface.erase(pipe, CHURCH, method="itd", keep=KEEP, coder=str(tmp_path))
    with pytest.raises(UsageError, match="certainty"):
        efface.erase(pipe, CHURCH, method="itd", keep=KEEP, **options, certainty=1.0)
    save_sae(SparseAutoencoder(SAEConfig(16, 32, 4, reads="difference")), tmp_path / "difference")
    with pytest.raises(EffaceError, match="output − input"):
        efface.erase(pipe, CHURCH, method="itd", keep=KEEP, coder=str(tmp_path / "difference"), neutral=False)


def test_the_embedded_autoencoder_erases_by_name_and_leaves_captions_alone():
    from efface.profiles.base import profile_of

    pipe = efface.load("emoji")
    erasure = efface.erase(pipe, "church", method="itd")
    model = efface.Model(pipe)
    captions = list(profile_of(pipe).concepts("church")[0].keep[::20])
    before, named = model.encode(captions).states, model.encode(["a church", "a church in noto style"]).states
    with erasure.attached(pipe):
        assert torch.equal(model.encode(captions).states, before)
        moved = (model.encode(["a church", "a church in noto style"]).states - named).flatten(1).norm(dim=1)
    assert (moved > 0.1 * named.flatten(1).norm(dim=1)).all()
