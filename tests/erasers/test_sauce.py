"""SAUCE: latents of image features turned down, against the autoencoder itself; its life on a vision-language model."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

import efface
import tiny
from efface.cli import main
from efface.erasers import ERASERS
from efface.erasers.base import published_config
from efface.erasures.image_edit import ImageEdit, edits_on
from efface.errors import EffaceError, UsageError
from efface.sae.config import SAETrainConfig
from efface.sae.files import load_sae
from efface.sae.image_statistics import image_statistics
from efface.sae.image_stream import ImageStream
from efface.sae.train import train
from tiny_vlm import logits, patches, tiny_vlm, write_pictures

OPTIONS = {"iterations": 40, "expansion": 4, "k": 4, "count": 3, "gain": 0.0, "gated": False}
RED = patches("red", 3, seed=5)


@pytest.fixture(scope="module")
def vlm():
    return tiny_vlm()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(write_pictures(tmp_path_factory.mktemp("pictures"), {"red": 6, "blue": 6, "green": 6}))


@pytest.fixture(scope="module")
def run(vlm, folder, tmp_path_factory):
    """A folder with the autoencoder of two sites."""
    pictures = [picture for name in ("red", "blue", "green") for picture in patches(name, 6)]
    sites = [vlm.site("projector"), vlm.site("vision_tower.layers.1")]
    place = tmp_path_factory.mktemp("run")
    config = SAETrainConfig(expansion=4, k=4, steps=40, batch=64)
    train(ImageStream(vlm, pictures, sites, count=8), config, place)
    return place


@pytest.fixture(scope="module")
def erasure(vlm, folder, run):
    return efface.erase(vlm, "red", method="sauce", images=folder, coder=str(run), **OPTIONS)


def features_under(erasure, vlm, scale=1.0, site="projector"):
    with erasure.attached(vlm, scale=scale):
        return vlm.features(RED, vlm.site(site))


def hooks_on(vlm):
    """Number of every hook on the network, transformers' own among them."""
    return [(*module._forward_hooks, *module._forward_pre_hooks) for module in vlm.network.modules()]


@pytest.mark.parametrize("site", ["projector", "vision_tower.layers.1"])
@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_the_edit_is_the_difference_of_two_codes(vlm, folder, run, site, scale):
    erasure = efface.erase(vlm, "red", images=folder, coder=str(run), site=site, **OPTIONS | {"gain": -0.5})
    sae = load_sae(run / site).at_inference()
    x = vlm.features(RED, vlm.site(site)).flatten(0, 1)
    z = sae.activations(x)
    edit = erasure.edits[site]
    own = z[:, edit.latents]
    turned = torch.where(own > edit.gate[0], -0.5 * own, own)
    expected = x + scale * (turned - own) @ sae.W_dec[edit.latents]
    assert torch.allclose(features_under(erasure, vlm, scale, site).flatten(0, 1), expected, atol=1e-5)
    assert not torch.equal(expected, x)


def test_latents_are_those_of_saerons_score(vlm, folder, run, erasure):
    sae = load_sae(run / "projector").at_inference()
    means = {}
    for name in ("red", "blue", "green"):
        states = vlm.features(patches(name, 6), vlm.site("projector"))
        z = sae.activations(states)
        means[name] = torch.where(z > sae.threshold, z, 0).mean((0, 1))
    others = (means["blue"] + means["green"]) / 2
    score = means["red"] / means["red"].sum() - others / others.sum()
    assert sorted(erasure.edits["projector"].latents.tolist()) == sorted(score.topk(3).indices.tolist())
    published = efface.erase(vlm, "red", images=folder, coder=str(run), select="mean", **OPTIONS)
    assert sorted(published.edits["projector"].latents.tolist()) == sorted(means["red"].topk(3).indices.tolist())


def test_as_published_the_features_are_the_reconstruction(vlm, folder, run):
    named = {"images": folder, "coder": str(run), "count": 3}
    erasure = efface.erase(vlm, "red", method="sauce", as_published=True, **named)
    assert (erasure.mode, erasure.provenance.config["select"], erasure.provenance.config["gain"]) == (
        "published",
        "mean",
        0.0,
    )
    sae = load_sae(run / "projector").at_inference()
    x = vlm.features(RED, vlm.site("projector")).flatten(0, 1)
    z = sae.encode(x).dense(sae.config.latents)
    z[:, erasure.edits["projector"].latents] = 0
    assert torch.allclose(features_under(erasure, vlm).flatten(0, 1), z @ sae.W_dec + sae.b_dec, atol=1e-5)
    assert published_config(ERASERS.load("sauce"), [efface.Concept("red")], named).count == 3


def test_exact_mode_asks_the_autoencoders_own_rule(vlm, folder, run):
    erasure = efface.erase(vlm, "red", images=folder, coder=str(run), mode="exact", **OPTIONS)
    sae, edit = load_sae(run / "projector").at_inference(), erasure.edits["projector"]
    x = vlm.features(RED, vlm.site("projector")).flatten(0, 1)
    own = sae.encode(x).dense(sae.config.latents)[:, edit.latents]
    expected = x - torch.where(own > edit.gate[0], own, 0) @ sae.W_dec[edit.latents]
    assert torch.allclose(features_under(erasure, vlm).flatten(0, 1), expected, atol=1e-5)


def test_taken_off_every_bit_is_back(vlm, erasure):
    weights = {name: p.clone() for name, p in vlm.network.named_parameters()}
    before = logits(vlm, RED)
    hooks = hooks_on(vlm)
    erasure.attach(vlm)
    erasure.attach(vlm)
    after = logits(vlm, RED)
    assert not torch.equal(after, before)
    erasure.remove(vlm)
    assert torch.equal(logits(vlm, RED), after)
    erasure.remove(vlm)
    assert torch.equal(logits(vlm, RED), before)
    assert edits_on(vlm) == []
    assert all(torch.equal(p, weights[name]) for name, p in vlm.network.named_parameters())
    assert hooks_on(vlm) == hooks
    with pytest.raises(EffaceError, match="nothing to remove"):
        erasure.remove(vlm)


def test_scale_nothing_leaves_every_bit_and_another_scale_is_refused(vlm, erasure):
    before = logits(vlm, RED)
    with erasure.attached(vlm, scale=0):
        assert torch.equal(logits(vlm, RED), before)
        with pytest.raises(EffaceError, match="already attached with scale 0"):
            erasure.attach(vlm)
    for scale in (-1, float("nan")):
        with pytest.raises(UsageError, match="scale"):
            erasure.attach(vlm, scale=scale)
    with pytest.raises(UsageError, match="without folding"):
        erasure.attach(vlm, fold=True)


def test_a_picture_without_the_latents_keeps_every_bit(vlm, erasure):
    edit = erasure.edits["projector"]
    deaf = replace(erasure, edits={"projector": edit._replace(gate=torch.full_like(edit.gate, 1e6))})
    before = logits(vlm, RED)
    with deaf.attached(vlm):
        assert torch.equal(logits(vlm, RED), before)


@pytest.fixture(scope="module")
def gated(vlm, folder, run):
    return efface.erase(vlm, "red", images=folder, coder=str(run), **OPTIONS | {"gated": True})


def naive_discriminant(own, others):
    """Fisher's direction by an inverse, with a tenth of the mean variance in place of a tenth of the covariance."""
    rows = torch.cat([own - own.mean(0), others - others.mean(0)])
    covariance = sum(torch.outer(row, row) for row in rows) / len(rows)
    covariance = 0.9 * covariance + 0.1 * covariance.trace() / len(covariance) * torch.eye(len(covariance)).double()
    direction = covariance.inverse() @ (own.mean(0) - others.mean(0))
    return direction / direction.norm()


def test_the_gate_is_fishers_discriminant_of_the_mean_features(vlm, gated):
    means = {n: vlm.features(patches(n, 6), vlm.site("projector")).double().mean(1) for n in ("red", "blue", "green")}
    own, others = means["red"], torch.cat([means["blue"], means["green"]])
    found = gated.gates["projector"]
    assert torch.allclose(found.directions[0], naive_discriminant(own, others).float(), atol=1e-4)
    held = {"own": [], "others": []}
    for fold in range(5):
        inside = [torch.tensor([i for i in range(len(rows)) if i % 5 != fold]) for rows in (own, others)]
        direction = naive_discriminant(own[inside[0]], others[inside[1]])
        for name, rows in (("own", own), ("others", others)):
            held[name] += [float(rows[i] @ direction) for i in range(len(rows)) if i % 5 == fold]
    high, low = (torch.tensor(held[name]).double() for name in ("own", "others"))
    spreads = (high.mean() - low.mean()) / (high.std(correction=0) + low.std(correction=0))
    assert float(found.thresholds[0]) == pytest.approx(
        float(low.mean() + spreads * low.std(correction=0)), rel=1e-3, abs=1e-4
    )


def test_pictures_before_a_closed_gate_keep_every_bit(vlm, gated, tmp_path):
    edit = gated.edits["projector"]
    gated = replace(
        gated, edits={"projector": edit._replace(gate=torch.zeros_like(edit.gate))}
    )  # active in any picture
    erasure = replace(gated, gates={})
    both = [*RED, *patches("blue", 3, seed=5)]
    opens = gated.gates["projector"].opens(vlm.features(both, vlm.site("projector")))
    assert opens.tolist() == [True] * 3 + [False] * 3
    before = logits(vlm, both)
    with erasure.attached(vlm):
        always = logits(vlm, both)
    with gated.attached(vlm):
        after = logits(vlm, both)
    assert torch.equal(after[3:], before[3:])
    assert torch.equal(after[:3], always[:3])
    assert not torch.equal(always[3:], before[3:])
    gated.save(tmp_path / "red.safetensors")
    loaded = efface.Erasure.load(tmp_path / "red.safetensors")
    assert loaded.digest == gated.digest
    assert torch.equal(features_under(loaded, vlm), features_under(gated, vlm))
    tensors = gated.tensors()
    tensors["projector|thresholds"] = torch.zeros(2)
    with pytest.raises(EffaceError, match="the gate of 'projector' holds"):
        ImageEdit.check(tensors, 32)


def test_several_concepts_open_it_each(vlm, folder, run):
    erasure = efface.erase(vlm, ["red", "blue"], images=folder, coder=str(run), **OPTIONS | {"gated": True})
    some = [patches(name, 1, seed=5)[0] for name in ("red", "blue", "green")]
    opens = erasure.gates["projector"].opens(vlm.features(some, vlm.site("projector")))
    assert opens.tolist() == [True, True, False]


def test_a_saved_erasure_is_the_same(vlm, erasure, tmp_path):
    size = erasure.save(tmp_path / "red.safetensors")
    loaded = efface.Erasure.load(tmp_path / "red.safetensors")
    assert size < 20_000
    assert isinstance(loaded, ImageEdit)
    assert loaded.digest == erasure.digest
    assert torch.equal(features_under(loaded, vlm), features_under(erasure, vlm))
    with erasure.attached(vlm), pytest.raises(EffaceError, match="scale"):
        loaded.attach(vlm, scale=2)
    assert loaded.summary()["kind"] == "image-edit"


def test_a_published_one_finds_its_autoencoder_again(vlm, folder, run, tmp_path):
    erasure = efface.erase(vlm, "red", method="sauce", as_published=True, images=folder, coder=str(run), count=3)
    erasure.save(tmp_path / "red.safetensors")
    loaded = efface.Erasure.load(tmp_path / "red.safetensors")
    assert torch.allclose(features_under(loaded, vlm), features_under(erasure, vlm), atol=1e-6)


@pytest.mark.parametrize("part", ["gate", "encoder", "levels"])
def test_a_damaged_one_is_refused(erasure, part):
    tensors = erasure.tensors()
    tensors[f"projector|{part}"] = torch.cat([tensors[f"projector|{part}"]] * 2)
    with pytest.raises(EffaceError, match="make the erasure again"):
        ImageEdit.check(tensors, 32)


def test_two_compose_and_come_off_in_any_order(vlm, folder, run, erasure):
    other = efface.erase(vlm, "blue", images=folder, coder=str(run), **OPTIONS)
    x, before = features_under(erasure, vlm), logits(vlm, RED)
    erasure.attach(vlm)
    other.attach(vlm)
    assert [a.erasure.names for a in edits_on(vlm)] == ["'red'", "'blue'"]
    both = logits(vlm, RED)
    erasure.remove(vlm)
    other.remove(vlm)
    assert torch.equal(logits(vlm, RED), before)
    at_once = efface.erase(vlm, ["red", "blue"], images=folder, coder=str(run), **OPTIONS)
    chosen = {*erasure.edits["projector"].latents.tolist(), *other.edits["projector"].latents.tolist()}
    assert {*at_once.edits["projector"].latents.tolist()} == chosen
    assert not torch.equal(both, before)
    assert torch.equal(features_under(erasure, vlm), x)


def test_a_copied_network_has_it_and_loses_it_alone(vlm, erasure):
    before = logits(vlm, RED)
    erasure.attach(vlm)
    after, copied = logits(vlm, RED), efface.VisionLanguageModel(copy.deepcopy(vlm.network), vlm.processor)
    erasure.remove(vlm)
    assert torch.equal(logits(vlm, RED), before)
    assert torch.equal(logits(copied, RED), after)
    erasure.remove(copied)
    assert torch.equal(logits(copied, RED), before)


def test_another_model_is_refused(erasure):
    other = tiny_vlm(1)
    with pytest.raises(EffaceError, match="made for another model: this one has other weights"):
        erasure.attach(other)
    with pytest.warns(UserWarning, match="because of force"):
        erasure.attach(other, force=True)
    erasure.remove(other)
    with pytest.raises(EffaceError, match="projector of other names or shapes; make an erasure"):
        erasure.attach(tiny_vlm(0, layer=[-2, -3]), force=True)


def test_methods_and_models_of_different_kinds_are_refused(vlm, erasure, folder):
    pipe = tiny.stable_diffusion()
    with pytest.raises(EffaceError, match="StableDiffusionPipeline is none"):
        erasure.attach(pipe)
    with pytest.raises(EffaceError, match="sauce edits vision-language models"):
        efface.erase(pipe, "red", method="sauce", images=folder)
    for method in ("uce", "saeuron", "esd", "sld"):
        with pytest.raises(EffaceError, match=f"{method} edits models that draw pictures"):
            efface.erase(vlm, "red", method=method)
    with pytest.raises(UsageError, match="judge"):
        efface.erase(vlm, "red", images=folder, judge="nudenet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "name a folder of them"),
        ({"images": "PICTURES/nowhere"}, "is no folder"),
        ({"images": "PICTURES/red"}, "no pictures without red"),
        ({"images": "PICTURES", "mode": "exact"}, "mode exact needs the autoencoder"),
        ({"images": "PICTURES", "site": "vision_tower.layers.3"}, "changes nothing"),
        ({"images": "PICTURES", "count": 0}, "count is 0"),
        ({"images": "PICTURES", "wrong": 0}, "the option 'wrong' is unknown"),
    ],
)
def test_what_cannot_be_is_refused(vlm, folder, options, message):
    given = {
        name: value.replace("PICTURES", folder) if isinstance(value, str) else value for name, value in options.items()
    }
    with pytest.raises(EffaceError, match=message):
        efface.erase(vlm, "red", method="sauce", **given)
    with pytest.raises(UsageError, match="no pictures of 'violet'"):
        efface.erase(vlm, "violet", method="sauce", images=folder)


def test_pictures_from_two_folders_are_those_of_one(vlm, folder, run, erasure, tmp_path):
    write_pictures(tmp_path, {"blue": 6, "green": 6})
    other = efface.erase(vlm, "red", images=f"{folder}/red", others=str(tmp_path), coder=str(run), **OPTIONS)
    assert torch.equal(other.edits["projector"].latents, erasure.edits["projector"].latents)
    assert torch.equal(other.edits["projector"].gate, erasure.edits["projector"].gate)


def test_statistics_need_a_picture_of_each(vlm, run):
    with pytest.raises(UsageError, match="no picture of 'blue'"):
        image_statistics(vlm, vlm.site("projector"), load_sae(run / "projector"), {"red": RED, "blue": []})


def test_the_command_line_trains_erases_and_asks(vlm, folder, tmp_path, capsys):
    model = str(tmp_path / "model")
    vlm.network.save_pretrained(model)
    vlm.processor.save_pretrained(model)
    sae, file = str(tmp_path / "sae"), str(tmp_path / "red.safetensors")
    few = ["--iterations", "20", "--expansion", "4", "--k", "4"]
    assert main(["sae", "train", model, "--pictures", folder, "-o", sae, "--vectors", "64", *few, "--json"]) == 0
    erase = ["erase", "sauce", model, "red", "--images", folder, "--coder", sae, "--count", "3"]
    assert main([*erase, "-o", file, "--json"]) == 0
    assert main([*erase, "--plan"]) == 0
    capsys.readouterr()
    asked = write_pictures(tmp_path / "asked", {"red": 2, "blue": 2}, seed=9, style="flat")
    assert main(["audit", model, "--erasure", file, "--images", str(asked), "-o", str(tmp_path / "card")]) == 0
    assert "erased: named" in capsys.readouterr().out
    assert (tmp_path / "card" / "answers.json").is_file()
    for words, message in (
        (["audit", model, "--erasure", file], "name --images"),
        (
            ["audit", "emoji", "--erasure", file, "--images", str(asked)],
            "images are of audits of a vision-language model",
        ),
        (["erase", "uce", model, "red"], "uce edits models that draw pictures"),
        (["sae", "train", model], "draws no pictures"),
    ):
        assert main(words) != 0
        assert message in " ".join(capsys.readouterr().err.split())
