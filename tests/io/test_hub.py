"""Sharing: the same folder here and on a Hub, through the real client and a server on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

import efface
import tiny
from efface.api.share import push, save_folder
from efface.errors import EffaceError, UsageError
from efface.io.hub import autoencoder_folder, erasure_file
from efface.sae.lookup import open_sae
from local_hub import local_hub

AUDIT = {
    "judge": "canvas-object-2", "steps": 12, "guidance": 3.0, "seconds": 1.0, "certificate": None, "seeds": [0],
    "groups": {"concept": {
        "prompts": ["a church"], "pictures": 4, "distance": 0.25, "change": None, "intact": None,
        "shown_before": {"value": 1.0, "low": 0.5, "high": 1.0, "pictures": 4},
        "shown_after": {"value": 0.0, "low": 0.0, "high": 0.5, "pictures": 4},
    }},
}  # fmt: skip


@pytest.fixture(scope="module")
def file(sd, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "church.safetensors"
    efface.erase(sd, efface.Concept("church", anchor="cat"), method="uce", keep=["a dog"]).save(path)
    return path


@pytest.fixture
def audit(tmp_path):
    folder = tmp_path / "audit"
    folder.mkdir()
    (folder / "card.json").write_text(json.dumps(AUDIT))
    (folder / "card.html").write_text("<!doctype html>")
    return folder


@pytest.fixture(scope="module")
def coders(sd, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    tiny.coder_options(sd, folder / tiny.SITE)
    (folder / "state.safetensors").write_bytes(b"not to be shared")
    return folder


def test_a_folder_holds_the_erasure_its_card_and_its_audit(file, audit, tmp_path):
    folder = save_folder(file, tmp_path / "shared", audit=audit, licence="cc-by-4.0")
    names = {"README.md", "erasure.safetensors", "card.html", "card.json"}
    assert {p.name for p in folder.iterdir()} == names
    assert (folder / "erasure.safetensors").read_bytes() == file.read_bytes()
    card = (folder / "README.md").read_text()
    from huggingface_hub import ModelCard

    head = ModelCard(card).data
    assert (head.library_name, head.license) == ("efface", "cc-by-4.0")
    assert "uce" in head.tags
    for said in (
        "church",
        "| 100.0% (50.0% to 100.0%) | 0.0% (0.0% to 50.0%) |",
        "canvas-object-2",
        f"{file.stat().st_size:,} bytes",
    ):
        assert said in card
    assert "Not audited" in (save_folder(file, tmp_path / "plain") / "README.md").read_text()


def test_a_saved_folder_is_read_again(sd, file, tmp_path):
    erasure = efface.Erasure.from_pretrained(file)
    erasure.save_pretrained(tmp_path / "shared")
    again = efface.Erasure.from_pretrained(tmp_path / "shared")
    assert torch.equal(again.u, erasure.u)
    assert again.provenance == erasure.provenance


def test_autoencoders_share_what_an_eraser_needs_and_nothing_else(coders, tmp_path):
    folder = save_folder(coders, tmp_path / "shared")
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files == {"README.md", f"{tiny.SITE}/cfg.json", f"{tiny.SITE}/sae.safetensors"}
    assert open_sae(str(folder), tiny.SITE)[1] == open_sae(str(coders), tiny.SITE)[1]
    assert "| 16 | 64 | 8 |" in (folder / "README.md").read_text()


def run(code, hub, home):
    """Python with a Hub's address, which the client reads when it is imported."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)


def test_a_hub_gives_back_what_was_pushed(file, audit, coders, tmp_path):
    code = f"""
import efface
from efface.cli import main
from efface.sae.lookup import open_sae
assert main(["push", {str(file)!r}, "someone/church-gone", "--audit", {str(audit)!r}, "--private"]) == 0
assert main(["push", {str(coders)!r}, "someone/coders"]) == 0
assert main(["show", "someone/church-gone"]) == 0
here, there = efface.Erasure.load({str(file)!r}), efface.Erasure.from_pretrained("someone/church-gone")
assert (here.u == there.u).all() and here.provenance == there.provenance
assert open_sae("someone/coders", {tiny.SITE!r})[1] == open_sae({str(coders)!r}, {tiny.SITE!r})[1]
assert main(["show", "someone/nothing"]) == 1
"""
    with local_hub() as hub:
        done = run(code, hub, tmp_path)
        assert done.returncode == 0, done.stderr
        assert hub.files["someone/church-gone"]["erasure.safetensors"] == file.read_bytes()
        assert set(hub.files["someone/coders"]) >= {"README.md", f"{tiny.SITE}/sae.safetensors"}
        assert not any("state" in name for name in hub.files["someone/coders"])
        assert hub.private == {"someone/church-gone": True, "someone/coders": False}
    assert "someone/church-gone" in done.stdout
    assert "'someone/nothing' is no file or folder here, and the Hub answered: " in done.stderr


def test_what_cannot_be_shared_is_refused_in_a_sentence(file, tmp_path):
    with pytest.raises(UsageError, match="OWNER/NAME"):
        push(file, "nowhere")
    with pytest.raises(EffaceError, match="efface audit"):
        save_folder(file, tmp_path / "a", audit=tmp_path)
    with pytest.raises(EffaceError, match="no autoencoder"):
        save_folder(tmp_path, tmp_path / "b")
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(EffaceError):
        save_folder(tmp_path / "x.safetensors", tmp_path / "c")
    assert not (tmp_path / "c").exists()
    (tmp_path / "card.json").write_text('{"cards": []}')  # of several erasures
    with pytest.raises(EffaceError, match="audit of one erasure"):
        save_folder(file, tmp_path / "d", audit=tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "cfg.json").write_text("{")
    (tmp_path / "bad" / "sae.safetensors").write_bytes(b"x")
    with pytest.raises(EffaceError):
        save_folder(tmp_path / "bad", tmp_path / "e")
    with pytest.raises(EffaceError, match="could not be made"):
        save_folder(file, tmp_path / "x.safetensors" / "under")
    assert (
        erasure_file("runs/church.safetensors").name == "church.safetensors"
    )  # a missing file is never asked of a Hub
    assert autoencoder_folder("./nowhere").name == "nowhere"
