"""Files of format 1, as efface 0.1.0 wrote them (`tests/data/format1`): read, shown, attached and exported for good."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

import efface
import tiny
from alive import OlderTextEncoder
from efface.api.red_team import triptychs
from efface.bench import leaderboard, table
from efface.bench.ledger import Ledger
from efface.cli import main
from efface.erasures import ActivationEdit, TextMap, WeightDelta, attached_to
from efface.erasures import file as files
from efface.export import ExportConfig, export
from efface.redteam.findings import Findings
from efface.redteam.search import candidates_of
from efface.redteam.store import RunStore
from efface.sae.files import load_sae, notes_of, sae_hash
from efface.sae.statistics import Statistics

HOME = Path(__file__).parents[1] / "data" / "format1"
KINDS = {
    "uce": TextMap, "uce-two": TextMap, "uce-strong": TextMap, "rece": TextMap, "preserve": TextMap, "project": TextMap,
    "uce-tensor": WeightDelta, "dense": WeightDelta,
    "saeuron": ActivationEdit, "saeuron-exact": ActivationEdit, "saeuron-published": ActivationEdit,
    "anchored": ActivationEdit,
}  # fmt: skip
MADE = json.loads((HOME / "made.json").read_text())
"""What the erasures did on the day they were made."""


@pytest.fixture(scope="module")
def pipe():
    """The model that the files were made for."""
    return efface.load(HOME / "model", device="cpu")


@pytest.fixture(autouse=True)
def _at_home(monkeypatch):
    """Erasures name their autoencoder's folder as it was named when they were made."""
    monkeypatch.chdir(HOME)


def drawn(pipe):
    model = efface.Model(pipe)
    return model.latents(model.encode(["a church in noto style"]), seeds=[0], steps=2, guidance=5.0).double()


def printed(*words):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(list(words)) == 0
    return out.getvalue()


def test_there_is_a_file_of_every_kind():
    assert {path.stem for path in HOME.glob("*.safetensors")} == set(KINDS)
    assert set(KINDS.values()) == {TextMap, WeightDelta, ActivationEdit}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_read_and_shown(name):
    file = HOME / f"{name}.safetensors"
    erasure = efface.Erasure.load(file)
    assert type(erasure) is KINDS[name]
    assert erasure.provenance.concepts[0] == efface.Concept(
        "church",
        anchor="cat",
        aliases=("dog",),
        templates=("a {}", "a {} in noto style"),
        keep=("a truck", "art style"),
    )
    shown = json.loads(printed("show", str(file), "--json"))
    assert shown["sha256"] == MADE["sha256"][name]
    assert shown["kind"] == erasure.kind
    assert shown["format"] == 1
    assert "(file format 1)" in printed("show", str(file))
    assert f"structure {shown['base']['structure'][:12]}" in printed("show", str(file))


@pytest.mark.parametrize("name", KINDS)
def test_a_file_that_is_saved_again_stays_what_it_was(name, tmp_path):
    before = efface.Erasure.load(HOME / f"{name}.safetensors")
    before.save(tmp_path / "again.safetensors")
    header, _ = files.read(tmp_path / "again.safetensors")
    assert header["format"] == 1
    again = efface.Erasure.load(tmp_path / "again.safetensors")
    assert again.provenance == before.provenance
    assert again.digest == before.digest


@pytest.mark.parametrize("name", ["uce", "uce-tensor", "saeuron"])
def test_a_file_is_attached_to_the_same_model_with_other_parts(name, pipe):
    """Compared as it was made: another dtype, another spelling of names, a ControlNet beside it."""
    erasure = efface.Erasure.load(HOME / f"{name}.safetensors")
    other = copy.deepcopy(pipe).to(torch.bfloat16)
    inner = getattr(other.text_encoder, "text_model", None)
    other.text_encoder = OlderTextEncoder(other.text_encoder) if inner is None else inner
    control = ControlNetModel.from_unet(other.unet, conditioning_embedding_out_channels=(4, 8))
    other = StableDiffusionControlNetPipeline.from_pipe(other, controlnet=control)
    with erasure.attached(other):
        assert efface.check(other).intact


def test_a_new_erasure_of_the_old_model_is_of_format_2(pipe, tmp_path):
    made = efface.erase(pipe, "church", method="uce", keep=[])
    made.save(tmp_path / "e.safetensors")
    shown = json.loads(printed("show", str(tmp_path / "e.safetensors"), "--json"))
    assert shown["format"] == 2
    assert list(shown["base"]["encoders"]) == ["text_encoder"]
    assert "8 tensors of unet, text_encoder" in printed("show", str(tmp_path / "e.safetensors"))
    assert efface.Erasure.load(tmp_path / "e.safetensors").provenance == made.provenance


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_attached_and_does_what_it_did(name, pipe):
    erasure = efface.Erasure.load(HOME / f"{name}.safetensors")
    plain = drawn(pipe)
    with erasure.attached(pipe):
        effect = float((drawn(pipe) - plain).abs().mean())
    assert torch.equal(drawn(pipe), plain)
    assert attached_to(pipe) == []
    # Other kernels may round otherwise; a latent at its gate may then fall to the other side.
    assert effect == pytest.approx(MADE["effect"][name], rel=0.02)
    assert effect > 1e-4


def test_a_file_is_refused_by_another_model():
    other = tiny.stable_diffusion(seed=1)
    with pytest.raises(efface.EffaceError, match="another model"):
        efface.Erasure.load(HOME / "uce.safetensors").attach(other)


@pytest.mark.parametrize(
    ("name", "to"),
    [("uce", "lora"), ("rece", "diffusers"), ("uce-tensor", "diff"), ("dense", "component"), ("uce-two", "peft")],
)
def test_a_file_is_exported(name, to, pipe, tmp_path):
    output = tmp_path / ("out" if to in ("diffusers", "component", "peft") else "out.safetensors")
    done = export(
        efface.Erasure.load(HOME / f"{name}.safetensors"), pipe, output, ExportConfig(to, steps=2, pictures=True)
    )
    assert done.path.exists()
    assert done.difference is not None
    assert done.effect is not None
    assert done.effect.mean > done.difference.mean


def test_a_shared_folder_is_read():
    erasure = efface.Erasure.from_pretrained(HOME / "shared")
    assert erasure.summary()["sha256"] == MADE["sha256"]["uce-strong"]


def test_an_audit_is_shared_again(tmp_path):
    efface.Erasure.load(HOME / "uce-strong.safetensors").save_pretrained(tmp_path / "again", audit=HOME / "audit")
    assert (tmp_path / "again" / "card.json").read_bytes() == (HOME / "audit" / "card.json").read_bytes()
    assert "| concept |" in (tmp_path / "again" / "README.md").read_text()


def test_an_autoencoder_is_read():
    folder = HOME / "sae" / tiny.SITE
    sae = load_sae(folder)
    assert sae_hash(sae) == MADE["autoencoder"]
    assert notes_of(folder)["site"] == tiny.SITE
    x = torch.linspace(-2, 2, 3 * sae.config.width).reshape(3, -1)
    torch.testing.assert_close(load_sae(HOME / "saelens")(x), sae(x))
    stats = Statistics.load(folder / "statistics.safetensors")
    assert stats.concepts == ("church", "dog", "")
    assert stats.means.shape[2] == sae.config.latents


def test_an_erasure_is_made_with_a_stored_autoencoder_and_its_statistics(pipe):
    made = efface.erase(pipe, "church", method="saeuron", coder="sae", site=tiny.SITE, count=2, gamma=-20.0)
    assert made.summary()["tensors"] == efface.Erasure.load(HOME / "saeuron.safetensors").summary()["tensors"]


@pytest.mark.parametrize("run", ["bench", "canvas"])
def test_a_table_is_read_from_a_run(run, tmp_path):
    folder = shutil.copytree(HOME / run, tmp_path / run)  # SQLite writes beside what it reads
    assert table.markdown(leaderboard.finished(folder).rows) == MADE["table"][run]
    ledger = Ledger(folder / "ledger.sqlite")
    (first, *_) = ledger.unerased()
    assert len(ledger.result(first)) == len(first.prompts)
    ledger.close()


def test_findings_are_read():
    for name in ("ring-a-bell", "inversion"):
        folder = HOME / "attack" / name
        findings = Findings.load(folder / "findings.json")
        assert findings.complete
        assert findings.attack == name
        assert [str(rate) for rate in (findings.pre_asr, findings.gained, findings.asr)] == MADE["attack"][name]
        images = triptychs(findings, folder)
        assert all(isinstance(t.erased, type(images[0].original)) for t in images)
        assert np.asarray(images[0].original).shape == (16, 16, 3)
        found = candidates_of(RunStore(folder, None), findings.samples)
        assert len(found) == len(findings.samples)
    assert all(candidate.tensors() for candidate in found), "the second attack finds embeddings, which the folder holds"
