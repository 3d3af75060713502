"""Names of latents on tiny pipelines: what is read, what is written, what resumes, and what erases by it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import efface
import tiny
from efface.cli import main
from efface.concepts.sample import Sample
from efface.erasers.base import Evidence
from efface.erasers.saeuron import extend
from efface.errors import EffaceError, UsageError
from efface.heads.config import HeadConfig
from efface.heads.fit import Accuracy
from efface.heads.labels import labelled_pictures
from efface.models.model import Model
from efface.sae.activity import activity
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.files import load_sae, sae_hash, save_sae
from efface.sae.harvest import HarvestConfig, capture
from efface.sae.latent_names import FILE, LatentNames, load_names, name_latents, names_folder
from efface.sae.share import shared_files

SITE = tiny.SITE
KINDS = {"church": "object", "cat": "object", "dog": "object", "noto": "style", "art": "style"}
CONCEPTS = {
    "object": {name: [f"a {name} in noto style", f"a {name} in art style"] for name in ("church", "cat", "dog")},
    "style": {style: [f"a {name} in {style} style" for name in ("church", "cat", "dog")] for style in ("noto", "art")},
}
CHURCH = efface.Concept("church", templates=("a {}", "a {} in noto style"))
DRAW = HarvestConfig((SITE,), steps=2, guidance=5.0, batch=4)


def samples(seeds=2):
    return [
        Sample(prompt, seed, (concept,))
        for concepts in CONCEPTS.values()
        for concept, prompts in concepts.items()
        for prompt in prompts
        for seed in range(seeds)
    ]


@pytest.fixture(scope="module")
def options(sd, tmp_path_factory):
    """Options of the eraser, with an untrained autoencoder."""
    return tiny.coder_options(sd, tmp_path_factory.mktemp("coder"))


@pytest.fixture(scope="module")
def coder(options):
    return load_sae(options["coder"])


@pytest.fixture
def planted(coder):
    """Names by activations in which latent 3 and 5 are the church's, 10 the cat's, and so on; nothing is drawn."""
    pictures = labelled_pictures(samples(12), list(KINDS))
    generator = torch.Generator().manual_seed(0)
    values = (torch.rand(len(pictures.samples), 64, generator=generator) < 0.1) * torch.rand(64, generator=generator)
    first = torch.arange(len(values)) % 2 == 0
    for concept, latents in {"church": (3, 5), "cat": (10,), "dog": (20,), "noto": (30,), "art": (40,)}.items():
        shown = pictures.labels[:, list(KINDS).index(concept)]
        for part, latent in enumerate(latents):
            half = shown if len(latents) == 1 else shown & (first == bool(part))
            values[:, latent] = half * (1 + torch.rand(len(values), generator=generator))
    return name_latents(values, pictures.labels, KINDS, HeadConfig(), sha256=sae_hash(coder))


def test_pictures_of_one_prompt_and_seed_show_all_that_is_said_of_them():
    pictures = labelled_pictures(samples(), list(KINDS))
    assert len(pictures.samples) == 12
    assert pictures.labels.sum(1).tolist() == [2] * 12
    assert pictures.samples[0].shows == ("church", "noto")
    assert labelled_pictures([], ["a"]).labels.shape == (0, 1)


def test_activity_is_the_mean_over_positions_and_steps(sd, coder, tmp_path):
    model, drawn = Model(sd), samples()[:6]
    found = activity(model, {SITE: coder}, drawn, DRAW, tmp_path)[SITE]
    for number, sample in enumerate(drawn):
        with torch.no_grad():
            means = [
                coder.encode(step.states[SITE][0]).dense(64).mean(0)
                for step in capture(model, [sample.prompt], [sample.seed], DRAW)
            ]
        torch.testing.assert_close(found[number], torch.stack(means).mean(0), atol=1e-5, rtol=1e-4)


def test_a_run_that_was_killed_goes_on_where_it_stopped(sd, coder, tmp_path, monkeypatch):
    model, drawn, saes = Model(sd), samples()[:10], {SITE: coder}
    whole = activity(model, saes, drawn, DRAW, tmp_path / "whole")[SITE]
    pieces = []

    def killed(*args, **kwargs):
        if len(pieces) == 2:
            raise KeyboardInterrupt
        pieces.append(1)
        return capture(*args, **kwargs)

    monkeypatch.setattr("efface.sae.activity.capture", killed)
    with pytest.raises(KeyboardInterrupt):
        activity(model, saes, drawn, DRAW, tmp_path / "broken")
    monkeypatch.setattr("efface.sae.activity.capture", lambda *a, **k: pieces.append(1) or capture(*a, **k))
    assert torch.equal(activity(model, saes, drawn, DRAW, tmp_path / "broken")[SITE], whole)
    assert len(pieces) == 3  # of three pieces none was drawn twice
    activity(model, saes, drawn, DRAW, tmp_path / "broken")
    assert len(pieces) == 3
    other = SparseAutoencoder(SAEConfig(16, 64, 8), seed=4)
    assert not torch.equal(activity(model, {SITE: other}, drawn, DRAW, tmp_path / "broken")[SITE], whole)
    next((tmp_path / "whole").rglob("*.safetensors")).write_bytes(b"broken")
    with pytest.raises(EffaceError, match=r"is truncated|is damaged"):
        activity(model, saes, drawn, DRAW, tmp_path / "whole")


def test_names_come_back_from_their_file(planted, coder, tmp_path):
    planted.save(tmp_path / FILE)
    again = load_names(tmp_path, sae_hash(coder))
    assert again is not None
    assert (again.names, again.accuracy, again.pictures) == (planted.names, planted.accuracy, planted.pictures)
    for kind, head in planted.heads.items():
        for field in dataclasses.fields(head):
            ours, theirs = getattr(head, field.name), getattr(again.heads[kind], field.name)
            assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
    assert load_names(tmp_path / "nowhere", "") is None
    assert names_folder(tmp_path, "unused", SITE) == tmp_path
    (tmp_path / SITE).mkdir()
    assert names_folder(tmp_path, "unused", SITE) == tmp_path / SITE


def test_planted_latents_are_named_and_chosen(planted):
    assert [str(planted.names[i]) for i in (3, 5, 10, 30)] == ["church 1.00", "church 1.00", "cat 1.00", "noto 1.00"]
    assert planted.choose("cat", 0.9) == planted.chosen("cat") == [10]
    assert sorted(planted.choose("church", 0.9)) == [3, 5]
    assert planted.accuracy_on("church").beats_chance
    with pytest.raises(UsageError, match="no latent has a name for 'bee'"):
        planted.choose("bee", 0.9)


@pytest.mark.parametrize("damage", ["a byte", "nothing", "another header", "an index", "a shape", "an accuracy"])
def test_damaged_names_are_refused(planted, coder, tmp_path, damage):
    from efface.io.tensor_file import open_tensors, serialize

    path = tmp_path / FILE
    planted.save(path)
    file = open_tensors(path, "names")
    tensors, metadata = dict(file.tensors), dict(file.metadata)
    if damage == "a byte":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(bytes(data))
    elif damage == "nothing":
        path.write_bytes(b"nothing")
    else:
        header = json.loads(metadata["names"])
        if damage == "another header":
            header["kinds"] = ["object"]
        elif damage == "an accuracy":
            header["kinds"]["object"]["accuracy"][0] = "all"
        elif damage == "an index":
            tensors["0|units"] = tensors["0|units"] + 64
        else:
            tensors["0|bias"] = tensors["0|bias"][:-1]
        path.write_bytes(serialize(tensors, {"names": json.dumps(header)}))
    with pytest.raises(EffaceError, match=r"damaged|truncated"):
        load_names(tmp_path, sae_hash(coder))


def erasure_of(sd, options, **changes):
    return efface.erase(sd, CHURCH, method="saeuron", keep=["a dog", "a cat"], **(options | changes))


def test_saeuron_erases_the_latents_that_the_head_chose_at_all_timesteps(sd, options, planted, tmp_path, draw):
    (tmp_path / SITE).mkdir()
    planted.save(tmp_path / SITE / FILE)
    erasure = erasure_of(sd, options, selection="head", names=str(tmp_path))
    edit = erasure.edits[SITE]
    assert edit.latents.tolist() == [3, 5]
    assert (edit.gate < float("inf")).all()
    noted = erasure.provenance.notes["chosen"]["church"]
    assert sorted((row["latent"], row["levels"]) for row in noted) == [(3, 3), (5, 3)]
    assert erasure_of(sd, options, selection="head", names=str(tmp_path), margin=0.3).edits[SITE].latents.numel() == 1
    plain = draw(sd)
    with erasure.attached(sd):
        draw(sd)
    assert (draw(sd) == plain).all()
    erasure.save(tmp_path / "e.safetensors")
    assert efface.Erasure.load(tmp_path / "e.safetensors").provenance.config["selection"] == "head"
    assert erasure_of(sd, options).edits[SITE].latents.tolist() != [3, 5]


def test_hardening_adds_latents_to_those_of_the_head(sd, options, planted, tmp_path):
    planted.save(tmp_path / FILE)
    erasure = erasure_of(sd, options, selection="head", names=str(tmp_path))
    prompts = ("a church in noto style",)
    evidence = Evidence(
        concept=dataclasses.replace(CHURCH, keep=("a dog",)),
        text=Model(sd).encode(prompts),
        prompts=prompts,
        anchors=("a cat",),
        images=1,
        rounds=1,
    )
    assert {3, 5} < set(extend(Model(sd), erasure, evidence).edits[SITE].latents.tolist())


def test_heads_that_do_not_fit_are_refused_before_anything_is_drawn(sd, options, planted, tmp_path, monkeypatch):
    monkeypatch.setattr("efface.steering.statistics_source.statistics", lambda *a, **k: pytest.fail("it drew"))
    with pytest.raises(UsageError, match=r"holds no sparse head of .*efface sae name"):
        erasure_of(sd, options, selection="head")
    dataclasses.replace(planted, sha256="0" * 64).save(tmp_path / FILE)
    with pytest.raises(EffaceError, match="another autoencoder"):
        erasure_of(sd, options, selection="head", names=str(tmp_path))
    planted.save(tmp_path / FILE)
    with pytest.raises(UsageError, match="no latent has a name for 'bee'"):
        efface.erase(
            sd, "bee", method="saeuron", keep=["a dog"], **options | {"selection": "head", "names": str(tmp_path)}
        )
    for changes in ({"assigned": True}, {"percentile": 99.0}):
        with pytest.raises(UsageError, match="leave one of them out"):
            erasure_of(sd, options, selection="head", **changes)
    with pytest.raises(UsageError, match="margin is 0"):
        erasure_of(sd, options, selection="head", margin=0.0)


def test_a_head_that_tells_nothing_is_said_so(sd, options, planted, tmp_path):
    dataclasses.replace(planted, accuracy=planted.accuracy | {"object": Accuracy(3, 9, 3)}).save(tmp_path / FILE)
    with pytest.warns(
        UserWarning, match=r"does not tell 'church' from the others \(33.3% of 9 held-out pictures right"
    ):
        erasure_of(sd, options, selection="head", names=str(tmp_path))


@pytest.fixture(scope="module")
def run(sd, tmp_path_factory):
    """A model, a run with one autoencoder, and a file of concepts."""
    folder = tmp_path_factory.mktemp("run")
    sd.save_pretrained(folder / "model")
    save_sae(SparseAutoencoder(SAEConfig(16, 64, 8)), folder / "run" / SITE)
    (folder / "concepts.json").write_text(json.dumps(CONCEPTS))
    return folder


def command(run, *words):
    shared = ("--concepts", str(run / "concepts.json"), "--steps", "2", "--guidance", "5", "--json")
    return main([*words[:2], str(run / "model"), *words[2:], *shared])


def test_the_command_names_and_inspect_shows_the_names(run, tmp_path, capsys, monkeypatch):
    assert command(run, "sae", "name", str(run / "run")) == 0
    told = json.loads(capsys.readouterr().out)["sites"][SITE]
    names = LatentNames.load(run / "run" / SITE / FILE)
    assert told["latents"] == len(names.names) == 64
    assert told["pictures"] == 12
    assert told["kinds"]["object"]["concepts"] == 3
    assert told["kinds"]["object"]["chosen"]["cat"] == names.chosen("cat")
    monkeypatch.setattr("efface.sae.activity.capture", lambda *a, **k: pytest.fail("it drew again"))
    assert command(run, "sae", "name", str(run / "run")) == 0
    again = LatentNames.load(run / "run" / SITE / FILE)
    assert again.names == names.names
    assert torch.equal(again.heads["object"].weight, names.heads["object"].weight)
    capsys.readouterr()
    assert Path(SITE, FILE) in shared_files(run / "run", None)
    show = ("sae", "inspect", str(run / "run"), "--site", SITE, "--latents", "3", "7", "-o", str(tmp_path))
    assert command(run, *show) == 0
    told = json.loads(capsys.readouterr().out)["names"]
    assert {int(latent): name["label"] for latent, name in told.items()} == {i: names.names[i].label for i in (3, 7)}
    assert f"<b>{names.names[3]}</b>" in (tmp_path / "index.html").read_text()
    assert f"<h2>{names.names[3].label}</h2>" in (tmp_path / "latent-3.html").read_text()


def test_inspect_without_names_says_how_to_get_them(run, tmp_path, capsys):
    other = tmp_path / "other"
    save_sae(SparseAutoencoder(SAEConfig(16, 64, 8), seed=3), other)
    assert command(run, "sae", "inspect", str(other), "--site", SITE, "-o", str(tmp_path / "pages")) == 0
    captured = capsys.readouterr()
    assert "`efface sae name`" in captured.err
    assert json.loads(captured.out)["names"] == {}


BAD = {
    "a folder of one": (("sae", "name", "run/SITE"), 2, "has no folder for each site"),
    "the package's own": (("sae", "name", "emoji", "--site", SITE), 2, "no folder of yours"),
    "no names": (("sae", "inspect", "run", "--site", SITE, "--names", "nowhere"), 2, "holds no names"),
    "no such latent": (("sae", "inspect", "run", "--site", SITE, "--latents", "64"), 2, "no latent 64"),
    "k of 0": (("sae", "name", "run", "--k", "0"), 2, "k is 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name, run, monkeypatch, capsys):
    words, code, sentence = BAD[name]
    monkeypatch.chdir(run)
    monkeypatch.setattr("efface.sae.activity.capture", lambda *a, **k: pytest.fail("it drew"))
    assert command(run, *(word.replace("SITE", SITE) if word == "run/SITE" else word for word in words)) == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence in error


def test_one_concept_of_a_kind_is_refused_before_anything_is_drawn(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("efface.sae.activity.capture", lambda *a, **k: pytest.fail("it drew"))
    (tmp_path / "one.json").write_text(json.dumps({"object": {"cat": ["a cat"]}}))
    words = ["sae", "name", str(run / "model"), str(run / "run"), "--concepts", str(tmp_path / "one.json")]
    assert main(words) == 2
    assert "'cat' is the only concept of its kind" in capsys.readouterr().err
