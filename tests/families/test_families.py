"""Every family with the real diffusers classes at tiny sizes: encode, sample, erase, attach, remove, save, load.

    pytest -m families                                      all of them
    pytest -m families --write-families docs/families.md    and the table in the documentation

Without a marker only the families of QUICK run.
"""

from __future__ import annotations

import copy
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

import efface
import tiny_families
from efface.closed_form.gram import key_value_gram_of
from efface.closed_form.row_basis import row_basis
from efface.erasures import attached_to
from efface.erasures.guards.turn import is_distilled
from efface.families import family_of
from efface.families.schedule import prediction_of
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.files import save_sae
from efface.sae.harvest import HarvestConfig, capture
from quick import others_slow
from rounding import TEXT, assert_rounded
from tiny_families import CASES, own_picture, pipeline

QUICK = ("sd1", "sdxl-refiner", "sd35", "flux-dev", "pixart-alpha", "acdit")
PROMPTS = ["a church in noto style", "a cat"]
SINGULAR = ("sd3", "sd35", "flux-dev", "flux-schnell", "flux2-dev", "flux2-klein", "lumina2", "qwen-image", "z-image")
"""Their text states are wider than the one layer that reads them."""

pytestmark = [pytest.mark.families, pytest.mark.filterwarnings("ignore:the erasure does not reach")]


@pytest.fixture(params=others_slow(CASES, QUICK))
def name(request):
    """Short name of a family in CASES."""
    return request.param


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes an erasure of a family by method, once each."""
    kept: dict[tuple[str, str], efface.Erasure] = {}

    def run(name: str, method: str) -> efface.Erasure:
        if (name, method) not in kept:
            concept = efface.Concept("church", anchor="cat", templates=("a {}", "a {} in noto style"))
            options = coder_options(name, tmp_path_factory.mktemp("coder")) if method == "saeuron" else {}
            kept[name, method] = efface.erase(pipeline(name), concept, method=method, keep=["a dog"], **options)
        return kept[name, method]

    return run


def draw(name, guidance=4.0):
    """Two small pictures as float arrays (batch height width 3)."""
    model = efface.Model(pipeline(name))
    text = model.encode(PROMPTS)
    *_, (_, latents) = model.denoise(text, seeds=[0, 1], steps=2, guidance=guidance)
    return model.family.decode(latents).detach().float().numpy()


def coder_options(name, folder):
    """Options of the eraser saeuron, with an untrained autoencoder of the right width that is written to a folder."""
    site = CASES[name].site
    settings = HarvestConfig((site,), steps=2, guidance=4.0)
    states = next(capture(efface.Model(pipeline(name)), ["a cat"], [0], settings)).states[site]
    coder = SparseAutoencoder(SAEConfig(states.shape[-1], 64, 8))
    with torch.no_grad():  # untrained, but about the states' own mean, so that latents tell pictures apart
        coder.b_dec.copy_(states.mean((0, 1)))
    save_sae(coder, folder)
    drawn = {"images": 2, "draw_steps": 2, "guidance": 4.0}
    return {"coder": str(folder), "site": site, "count": 16, "gamma": -20.0, "gain": "normalised"} | drawn


def weights(pipe):
    """A copy of every weight."""
    return {
        f"{n}.{k}": v.clone() for n, c in efface.Model(pipe).components().items() for k, v in c.state_dict().items()
    }


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_pictures_are_the_pipelines_own(name, guidance):
    model = efface.Model(pipeline(name))
    pictures = model.draw(PROMPTS, seeds=[5, 6], steps=3, guidance=guidance, batch=1)
    for prompt, seed, picture in zip(PROMPTS, (5, 6), pictures, strict=True):
        expected = np.asarray(own_picture(name, prompt, seed=seed, steps=3, guidance=guidance), int)
        assert expected.std() > 1
        assert np.abs(np.asarray(picture, int) - expected).max() <= 1


def test_negative_prompts(name):
    model, case = efface.Model(pipeline(name)), CASES[name]
    settings = {"seeds": [5], "steps": 2, "guidance": 5.0}
    if not model.guides(5.0):
        with pytest.raises(efface.UsageError, match="guidance-distilled"):
            model.draw(["a church"], negative="a dog", **settings)
        return
    picture = model.draw(["a church"], negative="a dog", **settings)[0]
    assert np.asarray(picture).tobytes() != np.asarray(model.draw(["a church"], **settings)[0]).tobytes()
    if case.negative:
        expected = own_picture(name, "a church", seed=5, steps=2, guidance=5.0, negative="a dog")
        assert np.abs(np.asarray(picture, int) - np.asarray(expected, int)).max() <= 1


def test_pictures_do_not_depend_on_their_neighbours(name):
    model = efface.Model(pipeline(name))
    settings = {"steps": 2, "guidance": 4.0}
    both = model.draw(["a church in noto style art", "a"], seeds=[1, 2], **settings)
    alone = model.draw(["a"], seeds=[2], **settings)[0]
    assert np.abs(np.asarray(both[1], int) - np.asarray(alone, int)).max() <= 1


def test_where_a_word_stands(name):
    """The positions that edits speak of, against what the text encoder really read."""
    model = efface.Model(pipeline(name))
    prompt = "a church in noto style"
    for span in model.token_spans():
        read: list[list[int]] = []
        # The first table that a text encoder looks anything up in is that of its tokens.
        tables = [part for part in span.encoder.modules() if isinstance(part, torch.nn.Embedding)]
        handles = [t.register_forward_pre_hook(lambda m, a, read=read: read.append(a[0][0].tolist())) for t in tables]
        text = model.encode([prompt])
        for handle in handles:
            handle.remove()
        token = span.ids("a church")[-1]
        assert span.tokenizer.convert_ids_to_tokens([token])[0].strip("Ġ▁").startswith("church")
        found = span.start + span.position("a church", prompt)
        if not span.before:
            assert read[0].index(token) == found - span.start
            continue
        # A language model reads from left to right: another word changes nothing before its own place.
        other = model.encode(["a dog in noto style"])
        rounding = TEXT * torch.finfo(text.states.dtype).eps * text.states.abs().max()
        changed = ((text.states - other.states).abs() > rounding).any(-1)[0].nonzero().flatten()
        assert changed.min() == found


def test_noise_levels(name):
    """What an edit of activations takes for the timestep is what the scheduler says."""
    model = efface.Model(pipeline(name))
    network, seen = model.networks()[0], []
    handle = network.module.register_forward_pre_hook(
        lambda m, a, k: seen.append(network.timestep(a, k)), with_kwargs=True
    )
    steps = list(model.denoise(model.encode(["a cat"]), seeds=[0], steps=3, guidance=4.0))
    handle.remove()
    assert [float(timestep[0]) for timestep in seen] == pytest.approx([timestep for timestep, _ in steps], abs=0.01)


def test_outputs_as_noise_and_as_clean_latents(name):
    model = efface.Model(pipeline(name))
    shape = model.family.latent_shape(None)
    clean, noise = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0)).unbind()
    timestep = torch.tensor([10, 400, 980])
    noisy = model.to_noisy(clean, noise, timestep)
    if prediction_of(model.pipeline.scheduler) == "flow":
        share = timestep.reshape(-1, 1, 1, 1) / 1000
        if not CASES[name].whole:  # these are timesteps of the last block, and those before it are clean
            share = torch.where(last_quarter(shape), share, 0.0)
        torch.testing.assert_close(noisy, (1 - share) * clean + share * noise)
        output = noise - clean
    else:
        plain = DDPMScheduler.from_config(model.pipeline.scheduler.config)
        torch.testing.assert_close(noisy, plain.add_noise(clean, noise, timestep))
        output = model.to_output(clean, noise, timestep)
    torch.testing.assert_close(model.to_noise(output, noisy, timestep), noise, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(model.to_clean(output, noisy, timestep), clean, rtol=1e-3, atol=2e-3)


def last_quarter(shape):
    """True in the lower right quarter of latents (1 1 height width)."""
    mask = torch.zeros(1, 1, *shape[1:], dtype=torch.bool)
    mask[..., shape[1] // 2 :, shape[2] // 2 :] = True
    return mask


def test_sites(name, record):
    model, case = efface.Model(pipeline(name)), CASES[name]
    (site,) = model.sites(case.site)
    seen = []
    handle = site.module.register_forward_hook(lambda module, args, output: seen.append(output))
    text = model.encode(PROMPTS)
    for side in (case.side, (1 + case.whole) * case.side):
        list(model.denoise(text, seeds=[0, 1], steps=1, guidance=1.0, side=side))
    handle.remove()
    states, larger = (site.read(output) for output in (seen[0], seen[-1]))
    _, height, width = model.family.latent_shape(case.side)
    assert states.ndim == 3
    blocks = model.family.blocks
    assert states.shape[1] * blocks >= height * width // 4  # patches of 2 x 2 cells
    # Four times the picture is four times its tokens, and no more of the text's.
    joint = case.whole and larger.shape[1] != 4 * states.shape[1]
    found = "exact on blocks of text and picture" if joint else "exact on blocks of the picture"
    record(name, "sites", found if blocks == 1 else "exact on the block that is drawn, by block and step")
    assert torch.equal(site.read(site.write(seen[0], 2 * states)), 2 * states)
    torch.testing.assert_close(site.read(site.add(seen[0], states)), 2 * states)


@pytest.mark.parametrize("method", ["uce", "rece", "saeuron"])
def test_erase_attach_remove_save_load(name, method, made, tmp_path):
    pipe, erasure = pipeline(name), made(name, method)
    before, plain = weights(pipe), draw(name)
    with erasure.attached(pipe):
        erased = draw(name)
    assert np.isfinite(erased).all()
    assert np.abs(erased - plain).max() > 1e-4
    for key, tensor in weights(pipe).items():
        assert torch.equal(tensor, before[key]), key
    assert np.array_equal(draw(name), plain)
    assert attached_to(pipe) == []
    erasure.save(tmp_path / "e.safetensors")
    with efface.Erasure.load(tmp_path / "e.safetensors").attached(pipe):
        assert np.array_equal(draw(name), erased)


def test_mapped_states_are_folded_weights(name, made, record):
    pipe, erasure = pipeline(name), made(name, "rece")
    with erasure.attached(pipe):
        mapped = draw(name)
    with erasure.attached(pipe, fold=True):
        folded = draw(name)
    np.testing.assert_allclose(folded, mapped, atol=2e-3)
    record(name, "maps", family_of(pipe).exact)
    family = family_of(pipe)
    always, published = (" and ".join(family.unreached(pooled=mapped)) for mapped in (True, False))
    record(name, "unmapped_inputs", always or f"nothing{'; as published, ' if published else ''}{published}")


def test_the_anchor_takes_the_concepts_place(name):
    """With an exact edit, M c = t: every projection reads the anchor where the concept stood."""
    model = efface.Model(pipeline(name))
    concept = efface.Concept("church", anchor="cat", templates=("a {}",))
    erasure = efface.erase(pipeline(name), concept, method="uce", keep=[], rows="last", ridge=1e-9)
    text = model.encode(["a church", "a cat"])
    church, cat = model.projection_inputs(text)
    for span in model.token_spans():
        c = church[span.start + span.position("a church")]
        t = cat[span.start + span.position("a cat")]
        assert_rounded(erasure.map(c), t, 2 * TEXT)


def test_two_attached_erasures_do_not_change_what_is_erased_next(name, made):
    """Text states of an erasure in the making come from the unedited model, whatever is attached."""
    pipe = pipeline(name)
    concept = efface.Concept("dog", anchor="cat")
    alone = efface.erase(pipe, concept, method="rece", keep=[])
    with made(name, "uce").attached(pipe):
        beside = efface.erase(pipe, concept, method="rece", keep=[])
    assert torch.equal(alone.u, beside.u)


def test_the_surrogate_that_inverts_s(name, record):
    concept = efface.Concept("church", anchor="cat")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the condition number")  # as random weights happen to be
        erasure = efface.erase(pipeline(name), concept, method="rece", derivation="1st", keep=[])
    assert erasure.u.isfinite().all()
    s = key_value_gram_of(efface.Model(pipeline(name)))
    singular = row_basis(s).shape[1] < len(s)
    assert singular == (name in SINGULAR)
    record(name, "1st", "in the basis of rows that the entry reads" if singular else "exact")


@pytest.mark.filterwarnings("ignore:the model was distilled", "ignore:a guard acts through guidance")
def test_guards(name, record):
    pipe, concept = pipeline(name), efface.Concept("church", anchor="cat", templates=("a {}",))
    if not CASES[name].whole:
        with pytest.raises(efface.EffaceError, match="this one is a guard"):
            efface.erase(pipe, concept, method="sld", preset="max").attach(pipe)
        record(name, "guards", "refused")
        return
    plain = draw(name)
    with efface.erase(pipe, concept, method="sld", preset="max", warmup=0.0).attached(pipe):
        guarded = draw(name)
    assert np.isfinite(guarded).all()
    assert np.array_equal(draw(name), plain)
    assert np.abs(guarded - plain).max() > 1e-4
    distilled = is_distilled(efface.Model(pipe))
    try:
        on_text = efface.erase(pipe, concept, method="safree", window=1.0, slope=50.0, middle=0.0)
    except efface.EffaceError:
        text = "refused"
    else:
        with on_text.attached(pipe):
            assert np.abs(draw(name) - plain).max() > 1e-6
        text = "exact"
    output = "approximate, since distilled with guidance" if distilled else "exact"
    record(name, "guards", f"{output}; on text {text}")


@pytest.mark.usefixtures("bfloat16")
def test_half_precision_of_the_same_model(name, made):
    half = copy.deepcopy(pipeline(name)).to(torch.bfloat16)
    model = efface.Model(half)
    with made(name, "rece").attached(half):
        *_, (_, latents) = model.denoise(model.encode(["a church"]), seeds=[0], steps=2, guidance=4.0)
    assert latents.isfinite().all()


def test_a_lora_on_the_projections_is_mapped_and_not_folded(name, made):
    from peft import LoraConfig, inject_adapter_in_model

    pipe = copy.deepcopy(pipeline(name))
    erasure = made(name, "rece")
    network = efface.Model(pipe).networks()[0]
    targets = [p.name.removeprefix(f"{network.name}.") for p in efface.Model(pipe).text_projections()]
    with erasure.attached(pipe):
        # Loaded after the erasure: the map must still act before the adapter's own path.
        inject_adapter_in_model(LoraConfig(r=2, target_modules=targets, init_lora_weights=False), network.module)
        before = latents_of(pipe, name)
    plain = latents_of(pipe, name)
    with erasure.attached(pipe):
        np.testing.assert_array_equal(latents_of(pipe, name), before)
    assert np.abs(before - plain).max() > 1e-5
    with pytest.raises(efface.EffaceError, match="LoRA"):
        erasure.attach(pipe, fold=True)


def latents_of(pipe, name):
    """Latents of one picture after two steps."""
    model = efface.Model(pipe)
    *_, (_, latents) = model.denoise(model.encode(["a church"]), seeds=[0], steps=2, guidance=4.0)
    return latents.numpy()


def test_pixart_with_the_resolution_as_an_input():
    torch.manual_seed(0)
    pipe = tiny_families.pixart(cells=128)
    picture = efface.Model(pipe).draw(["a cat"], seeds=[3], steps=2, guidance=4.0, side=16)[0]
    expected = pipe(
        "a cat", generator=torch.Generator().manual_seed(3), num_inference_steps=2, guidance_scale=4.0, height=16, width=16,
        use_resolution_binning=False,
    ).images[0]  # fmt: skip
    assert np.abs(np.asarray(picture, int) - np.asarray(expected, int)).max() <= 1


def test_a_pipeline_without_its_text_encoder_says_so():
    pipe = tiny_families.flux()
    pipe.register_modules(text_encoder_2=None)
    with pytest.raises(efface.EffaceError, match="no text_encoder_2"):
        efface.Model(pipe).encode(["a cat"])


def test_stable_diffusion_3_without_t5():
    pipe = tiny_families.sd3(with_t5=False)
    model = efface.Model(pipe)
    text = model.encode(["a church"])
    assert text.states.shape[1] == text.mask.shape[1]
    erasure = efface.erase(pipe, efface.Concept("church", anchor="cat"), method="uce", keep=["a dog"])
    assert erasure.u.isfinite().all()


def test_an_unknown_pipeline_says_what_it_is_and_what_to_do():
    class Denoiser(torch.nn.Module):
        pass

    unknown = SimpleNamespace(components={"transformer": Denoiser()}, transformer=Denoiser())
    with pytest.raises(efface.EffaceError, match=r"transformer is a Denoiser.*docs/families.md") as error:
        efface.Model(unknown)
    assert "\n" not in str(error.value)


def test_a_family_of_ones_own(monkeypatch):
    from efface import families

    class Mine(family_of(pipeline("sd1")).__class__):
        name = "mine"

    monkeypatch.setattr(families, "REGISTERED", [])
    families.register(Mine)
    assert efface.Model(pipeline("sd1")).family.name == "mine"
