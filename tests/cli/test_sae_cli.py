"""The commands of `efface sae`, on the real embedded model with very small numbers."""

from __future__ import annotations

import json
import re

import pytest

from efface.cli import main
from efface.profiles.emoji.sae_data import SITES

TINY = ("--steps", "2", "--images", "4", "--iterations", "3", "--vectors", "64", "--latents", "64", "--k", "4")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a very short run, with statistics of two objects."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["sae", "train", "emoji", "-o", str(folder), *TINY, "--no-quality", "--json"]) == 0
    concepts = folder / "concepts.json"
    concepts.write_text(json.dumps({"object": {"cat": ["a cat in noto style"], "dog": ["a dog in noto style"]}}))
    args = [
        "sae",
        "features",
        "emoji",
        str(folder),
        "--concepts",
        str(concepts),
        "--steps",
        "2",
        "--seeds",
        "1",
        "--json",
    ]
    assert main(args) == 0
    return folder


def test_train_writes_a_folder_a_site(trained):
    sites = sorted(p.parent.name for p in trained.glob("*/cfg.json"))
    assert sites == list(SITES)
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 2]
    assert all((trained / site / "statistics.safetensors").exists() for site in sites)
    assert (trained / "curve.png").stat().st_size > 500


def test_erase_with_the_run(trained, tmp_path, capsys):
    out = tmp_path / "cat.safetensors"
    args = ["erase", "saeuron", "emoji", "cat", "--coder", str(trained), "-o", str(out), "--json"]
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["bytes"] == out.stat().st_size < 200_000
    assert main(["show", str(out), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["kind"] == "activation"
    assert shown["config"]["coders"][SITES[0]]["sha256"]
    assert shown["notes"]["chosen"]["cat"][0]["score"] > 0


def test_inspect_writes_pages_without_links_to_a_server(trained, tmp_path):
    concepts = str(trained / "concepts.json")
    args = [
        "sae",
        "inspect",
        "emoji",
        str(trained),
        "--concepts",
        concepts,
        "--steps",
        "2",
        "-o",
        str(tmp_path),
        "--json",
    ]
    assert main(args) == 0
    index = (tmp_path / "index.html").read_text()
    assert "http" not in index
    for link in set(re.findall(r'href="([^"]+)"', index)):
        assert (tmp_path / link).exists(), link
    assert re.search(r"data:image/png;base64,", index)


def test_steer_writes_before_and_after(trained, tmp_path):
    args = ["sae", "steer", "emoji", "3", "a cat in noto style", "--coder", str(trained), "--add", "5", "--steps", "2"]
    assert main([*args, "--region", "0", "0", "0.5", "1", "-o", str(tmp_path / "s.png")]) == 0
    assert (tmp_path / "s.png").stat().st_size > 1000


def test_harvest_says_its_cost_resumes_and_trains(tmp_path, capsys):
    args = ["sae", "harvest", "emoji", "--images", "4", "--steps", "2", "--shard", "2", "-o", str(tmp_path), "--json"]
    assert main([*args, "--estimate"]) == 0
    cost = json.loads(capsys.readouterr().out)
    assert cost["vectors"] == 4 * 2 * 36
    assert cost["bytes"] == 3 * 4 * 2 * 36 * 160 * 2
    assert main(args) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["written"] == 2
    shards = sorted(tmp_path.glob("*/shard-*"))
    kept = [p.read_bytes() for p in shards]
    shards[1].unlink()
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["written"] == 1
    assert [p.read_bytes() for p in shards] == kept
    run = ["sae", "train", "emoji", "--shards", first["folder"], "-o", str(tmp_path / "run"), *TINY, "--json"]
    assert main(run) == 0
    shards[0].write_bytes(b"broken")
    assert main([*run[:-1], "--iterations", "9", "-o", str(tmp_path / "other")]) == 1
    assert "is damaged" in capsys.readouterr().err


BAD = {
    "no such command": (["sae", "learn"], 2, "is unknown"),
    "no such site": (["sae", "sites", "emoji", "up_blocks.1.atentions.0"], 2, "did you mean"),
    "no prompts": (["sae", "train", "emoji", "--prompts", "nowhere.txt"], 2, "is not a file"),
    "no coder": (["erase", "saeuron", "emoji", "cat", "--coder", "nowhere"], 1, "holds no autoencoder"),
    "no run": (["sae", "features", "emoji", "nowhere"], 2, "holds no autoencoders"),
    "k above the latents": (["sae", "train", "emoji", "--latents", "8", "--k", "9"], 2, "expected 1 to 8"),
    "no harvest": (["sae", "train", "emoji", "--shards", "nowhere"], 1, "holds no harvest"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args, code, sentence = BAD[name]
    assert main(args) == code
    error = capsys.readouterr().err
    assert sentence in error.replace("\n", " ")
    assert "Traceback" not in error
