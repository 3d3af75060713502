"""Autoencoders on layers of text encoders: sites, positions, training from prompts, pages."""

from __future__ import annotations

import json
import re

import pytest
import torch

import efface
import tiny
import tiny_families
from efface.cli import main
from efface.errors import EffaceError, UsageError
from efface.families.encoder_layers import layer_paths, usual_layer
from efface.families.prompt_bounds import PromptBounds
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.config import SAETrainConfig
from efface.sae.files import load_sae, notes_of
from efface.sae.harvest import HarvestConfig, capture
from efface.sae.lookup import open_sae
from efface.sae.text_dashboard import pieces_of, text_dashboard, write_text_pages
from efface.sae.text_states import TextSites
from efface.sae.text_stream import TextStream
from efface.sae.train import train
from efface.steering.steer import steer_latent
from quick import others_slow

PROMPTS = ["a church in noto style", "a cat", "a dog in art style", "garbage truck"]
SMALL = SAETrainConfig(latents=64, k=4, steps=6, batch=16, lr=1e-3)
QUICK = ("sd1", "sd2", "sdxl", "sd35", "flux-dev", "pixart-alpha")
NAMES = others_slow(tiny_families.CASES, QUICK)


@pytest.fixture(params=NAMES)
def model(request):
    """The tiny model of a family."""
    return efface.Model(tiny_families.pipeline(request.param))


def test_every_family_has_layers_of_its_text_encoders_as_sites(model):
    sites = model.sites("text_encoder*")
    assert [site.name.partition(".")[0] for site in sites] == list(model.family.text_encoders())
    assert all(site.reads_text for site in sites)
    for name, encoder in model.family.text_encoders().items():
        assert f"{name}.{usual_layer(encoder)}" in {site.name for site in sites}
        assert model.sites(f"{name}.{layer_paths(encoder)[-1]}")[0].name.startswith(f"{name}.")


def test_a_prompts_own_positions_are_its_words_whatever_its_neighbours(model):
    text = TextSites(model, model.sites("text_encoder*"))
    together = text.read(PROMPTS)
    for number, prompt in enumerate(PROMPTS):
        for name, alone in text.read([prompt]).items():
            own, of_batch = alone.own[0], together[name].own[number]
            assert own.any()
            assert int(own.sum()) == int(of_batch.sum())
            assert alone.ids[0, own].tolist() == together[name].ids[number, of_batch].tolist()
    for read in together.values():  # "a cat" is the shortest, and nothing that all begin with is a prompt's own
        lengths = read.own.sum(1)
        assert lengths.argmin() == 1
        firsts = [int(row.int().argmax()) for row in read.own]
        before = {
            tuple(ids[row_first - 1 : row_first].tolist()) for ids, row_first in zip(read.ids, firsts, strict=True)
        }
        assert len(before) == 1


def test_training_reads_prompts_alone_and_writes_todays_files(model, tmp_path, monkeypatch):
    monkeypatch.setattr(efface.Model, "denoise", lambda *args, **kwargs: pytest.fail("a picture was drawn"))
    sites = model.sites("text_encoder*")
    saes = train(TextStream(model, PROMPTS, sites, count=8), SMALL, tmp_path)
    for site in sites:
        width = TextSites(model, [site]).read(["a"])[site.name].states.shape[2]
        loaded = load_sae(tmp_path / site.name)
        assert loaded.config.width == width
        assert torch.equal(loaded.W_dec, saes[site.name].W_dec.cpu())
        assert open_sae(str(tmp_path), site.name)[0].config == loaded.config


def test_rounds_are_the_same_when_asked_for_again_and_padding_is_a_part_of_them():
    model = efface.Model(tiny_families.pipeline("sd1"))
    stream = TextStream(model, PROMPTS, model.sites("text_encoder"), count=4)
    (first,) = stream.round(3).values()
    (again,) = stream.round(3).values()
    assert torch.equal(first, again)
    read = TextSites(model, model.sites("text_encoder")).read(PROMPTS)
    own = int(next(iter(read.values())).own.sum())
    padding = next(iter(read.values())).behind.sum(1).clamp(max=next(iter(read.values())).own.sum(1)).sum()
    assert len(first) == own + int(padding)


@pytest.mark.parametrize("name", ["sd1", "flux-dev"])
def test_what_is_drawn_from_pictures_refuses_layers_of_text(name):
    model = efface.Model(tiny_families.pipeline(name))
    site = model.sites("text_encoder")[0].name
    with pytest.raises(UsageError, match="knows no timestep"):
        next(capture(model, ["a"], [0], HarvestConfig((site,), steps=2)))
    sae = SparseAutoencoder(SAEConfig(16, 32, 4))
    with pytest.raises(UsageError, match="knows no timestep"), steer_latent(model, site, sae, 3):
        pass
    with pytest.raises(UsageError, match="no layer of a text encoder"):
        TextSites(model, [model.sites(tiny_families.CASES[name].site)[0]])
    with pytest.raises(UsageError, match="no text encoder 'text_encoder_9'"):
        model.sites("text_encoder_9")


def test_a_layer_that_is_called_past_its_encoder_is_refused():
    bounds = PromptBounds(tiny.tokenizer())
    bounds(None, (), {"input_ids": torch.tensor([[0, 5, 1, 1]])})
    assert bounds.of(torch.zeros(1, 4, 2)).inside(4, 1).tolist() == [[False, True, True, False]]
    with pytest.raises(EffaceError, match="itself"):
        bounds.of(torch.zeros(2, 4, 2))


@pytest.mark.parametrize(
    ("ids", "mask", "own"),
    [
        ([[0, 5, 6, 1, 1, 1]], None, "-xxx--"),
        ([[0, 5, 6, 1, 1, 1]], [[1, 1, 1, 1, 0, 0]], "-xxx--"),
        ([[9, 9, 0, 5, 6, 1]], [[0, 0, 1, 1, 1, 1]], "---xxx"),
        ([[0, 1, 1, 1, 1, 1]], None, "-x----"),
    ],
    ids=["padded with end tokens", "by its mask", "padded on the left", "empty"],
)
def test_where_a_prompt_lies(ids, mask, own):
    bounds = PromptBounds(tiny.tokenizer())
    bounds(None, (torch.tensor(ids),), {} if mask is None else {"attention_mask": torch.tensor(mask)})
    found = bounds.of(torch.zeros(1, 6, 2)).inside(6, 1)[0].tolist()
    assert "".join("x" if inside else "-" for inside in found) == own


@pytest.mark.parametrize("name", ["sd1", "pixart-alpha"])
def test_pages_mark_the_words_that_a_latent_is_active_at(name, tmp_path):
    model = efface.Model(tiny_families.pipeline(name))
    (site, *_) = model.sites("text_encoder")
    text = TextSites(model, [site])
    shows = {"a church": ("church",), "a cat": ("cat",), "a dog": ("dog",)}
    read = text.read(list(shows))[site.name]
    church = read.states[0, read.own[0]][1]  # "a", "church", the end
    others = torch.cat([read.states[0, read.own[0]][[0, 2]], *(read.states[i, read.own[i]] for i in (1, 2))])
    direction = church - others.mean(0)
    sae = SparseAutoencoder(SAEConfig(len(church), 32, 32))
    with torch.no_grad():  # latent 7 is active where a state is that of "church"
        sae.encoder.weight.zero_()
        sae.encoder.weight[7] = direction
        sae.encoder.bias.zero_()
        sae.encoder.bias[7] = -(others @ direction).max()
        sae.encoder.bias[3] = 1.0  # everywhere
    dashboard = text_dashboard(text, sae, shows)
    strongest = dashboard.strongest[7][0]
    assert strongest.prompt == "a church"
    assert strongest.pieces[max(range(len(strongest.pieces)), key=strongest.activations.__getitem__)] == " church"
    assert dashboard.best("church", 1) == [7]
    assert dashboard.concepts_of(7, 1)[0][0] == "church"
    index = write_text_pages(dashboard, [7, 8], tmp_path)
    assert "never active" in (tmp_path / "latent-8.html").read_text()
    assert re.search(r'rgba\(220,20,30,0.75\)" title="[^"]+"> church<', (tmp_path / "latent-7.html").read_text())
    assert all((tmp_path / link).exists() for link in re.findall(r'href="([^"]+)"', index.read_text()))


def test_pieces_of_words_have_a_space_before_their_first():
    tok = tiny.tokenizer()
    assert "".join(pieces_of(tok, tok("a church xy", add_special_tokens=False).input_ids)) == " a church xy"
    t5 = tiny_families.t5_tokenizer()
    assert "".join(pieces_of(t5, t5("a church xy", add_special_tokens=False).input_ids)).split() == [
        "a",
        "church",
        "xy",
    ]


def test_the_commands_on_the_embedded_model(tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(["a church in noto style", "a cat", "a dog in blob style"]))
    run = tmp_path / "run"
    args = ["sae", "train", "emoji", "--site", "text_encoder", "--prompts", str(prompts), "-o", str(run), "--json"]
    small = ["--iterations", "3", "--vectors", "16", "--latents", "64", "--k", "4", "--images", "6"]
    assert main([*args, *small, "--plan"]) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] >= 1
    assert not run.exists()
    assert main([*args, *small]) == 0
    (site,) = json.loads(capsys.readouterr().out)["sites"]
    assert site == "text_encoder.encoder.layers.2"
    assert notes_of(run / site)["text"]["prompts"] == 3
    concepts = tmp_path / "concepts.json"
    concepts.write_text(json.dumps({"object": {"cat": ["a cat"], "dog": ["a dog"]}}))
    pages = ["sae", "inspect", "emoji", str(run), "--site", "text_encoder", "--concepts", str(concepts)]
    assert main([*pages, "-o", str(tmp_path / "pages")]) == 0
    assert (tmp_path / "pages/index.html").exists()
    capsys.readouterr()
    assert main(["sae", "sites", "emoji", "--json"]) == 0
    assert site in json.loads(capsys.readouterr().out)["sites"]
    assert main([*args, *small, "--site", "text_encoder", "*attn2"]) == 2
    assert "two runs" in capsys.readouterr().err
