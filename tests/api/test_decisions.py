"""What is decided before an erasure is made: the same value before, in its provenance, in its file, on cards."""

from __future__ import annotations

import importlib.util
import json

import pytest

import efface
import tiny
from efface.api.decisions import about_drawing, about_model
from efface.api.erase import plan_erasure
from efface.api.preview import preview_prompts
from efface.cli import main
from efface.concepts.concept import Concept
from efface.erasures.provenance import Provenance
from efface.models.metadata import model_name
from efface.models.model import Model
from efface.models.neighbours import BLANK, neighbours
from efface.models.sampling import Sampling, usual_side
from efface.report.decisions import erasing_rows
from tiny_judges import Spots


@pytest.fixture(scope="module")
def folder(sd, tmp_path_factory):
    """A tiny pipeline on disk."""
    path = tmp_path_factory.mktemp("models") / "tiny-diffusion"
    sd.save_pretrained(path)
    return str(path)


def test_the_plan_is_what_the_file_says(sd, tmp_path):
    plan = plan_erasure(sd, "Van Gogh", epochs=0, preserve_weight=0.1, first_preserve_weight=1.0)  # else they are found
    erasure = plan.run()
    erasure.save(tmp_path / "e.safetensors")
    stored = efface.Erasure.load(tmp_path / "e.safetensors").provenance
    assert stored.notes["decisions"] == plan.decisions == erasure.provenance.notes["decisions"]
    assert erasing_rows(stored.to_json()) == erasing_rows(plan.to_json())
    rows = dict(erasing_rows(plan.to_json()))
    assert rows["concepts"] == "Van Gogh (style, led to art)"
    assert "a style, led to 'art'" in rows["read as"]
    assert "cpu, float32" in rows["model"]
    assert rows["retained"].startswith("16 prompts, other artists or styles")
    assert "regulariser 0.001" in rows["options"]
    assert "epochs 0" in rows["options"]


def test_what_follows_from_the_concepts_is_said_before(sd):
    for name, expected in (("nudity", (0.1, 3, " ")), ("church", (1e-3, 1, "")), ("bin lorry", (1e-3, 1, ""))):
        config = plan_erasure(sd, name, keep=[]).config
        assert (config.regulariser, config.epochs, config.retained) == expected, name


@pytest.mark.parametrize(
    ("concept", "options", "reason"),
    [
        ("church", {}, "what stands beside the concept"),
        ("church", {"keep": ["a dog"]}, "as named"),
        ("church", {"keep": []}, "as asked"),
        ("nudity", {}, "neutral ones"),
        (Concept("church", keep=("a mill",)), {}, "the model's own concepts"),
    ],
)
def test_why_something_is_retained(sd, concept, options, reason):
    assert reason in plan_erasure(sd, concept, method="uce", **options).decisions["retained"]


def test_a_file_of_an_older_efface_is_shown_too(sd):
    erasure = efface.erase(sd, "church", method="uce", keep=["a dog"])
    data = json.loads(json.dumps(erasure.provenance.to_json()))
    del data["notes"]["decisions"]
    rows = dict(erasing_rows(Provenance.from_json(data).to_json()))
    assert rows["concepts"] == "church (object)"
    assert rows["retained"] == "one prompt: a dog"
    assert "model" not in rows


@pytest.mark.parametrize("method", ["uce", "preserve", "project", "rece"])
def test_explicit_concepts_retain_the_blank_prompt(sd, method):
    """RECE has an option of its own for it, and counts it once a concept."""
    plan = plan_erasure(sd, "nudity", method=method)
    assert (BLANK in plan.config.keep) == (method != "rece")
    assert BLANK not in plan_erasure(sd, "church", method=method).config.keep
    assert "(the blank prompt)" in dict(erasing_rows(plan.to_json()))["retained"] or method == "rece"


def test_names_of_models_are_no_paths(sd, folder):
    assert model_name(efface.load(folder, device="cpu")) == "tiny-diffusion"
    for source, name in (
        ("/home/me/models--stabilityai--sdxl-turbo/snapshots/abc", "stabilityai/sdxl-turbo"),
        ("stabilityai/sdxl-turbo", "stabilityai/sdxl-turbo"),
        ("/home/me/sd15", "sd15"),
        ("/home/me/sdxl-turbo.safetensors", "sdxl-turbo"),
        ("", "unnamed"),
    ):
        other = tiny.stable_diffusion()
        other.register_to_config(_name_or_path=source)
        assert model_name(other) == name


def test_every_family_says_where_and_how_large(pipe):
    decisions = about_drawing(pipe, Sampling(steps=3))
    assert decisions["steps"] == 3
    assert (decisions["device"], decisions["dtype"]) == ("cpu", "float32")
    side = usual_side(pipe)
    assert side == decisions["side"]
    with_side = Model(pipe).draw(["a cat"], seeds=[0], steps=1)[0]
    assert with_side.size == (side, side)
    assert json.loads(json.dumps(about_model(pipe))) == about_model(pipe)


def test_a_judge_by_its_short_name(sd, monkeypatch):
    for place in ("efface.judges", "efface.api.smoothing"):
        monkeypatch.setattr(f"{place}.open_judge", lambda spec, **given: Spots())
    erasure = efface.erase(sd, "church", judge="spots", epochs=1, keep=[])
    assert len(erasure.provenance.notes["judged"]) >= 1
    assert erasure.provenance.notes["decisions"]["judge"] == Spots.name
    with pytest.raises(efface.UsageError, match="no judge"):
        efface.erase(sd, "church", judge="own")


def test_a_judge_that_nobody_asks_is_said(sd):
    plan = plan_erasure(sd, "church", method="uce", judge=Spots(), keep=[])
    assert "is not asked" in plan.decisions["judge"]


@pytest.mark.skipif(importlib.util.find_spec("nudenet") is None, reason="needs the extra nudenet")
def test_rece_is_validated_by_nudenet(folder, tmp_path, capsys):
    """As its paper does; a tiny model shows nothing, so the first stage is kept."""
    path = tmp_path / "n.safetensors"
    args = ["erase", "rece", folder, "nudity", "--judge", "nudenet", "-o", str(path), "--keep", "none"]
    assert main(args) == 0
    erasure = efface.Erasure.load(path)
    assert erasure.provenance.notes["judged"][0] == 0.0
    assert "nudenet" in erasure.provenance.notes["decisions"]["judge"]
    assert "nudenet" in capsys.readouterr().err


def test_previews_show_every_concept(sd):
    erasure = efface.erase(sd, ["church", "dog", "cat", "truck", "noto"], method="uce", keep=["art", " "])
    assert preview_prompts(erasure) == ["church", "dog", "cat", "truck", "noto", "art"]
    one = efface.erase(sd, Concept("church", templates=("a {}", "the {}")), method="uce", keep=[])
    assert preview_prompts(one) == ["a church", "the church"]


def test_neighbours_are_no_other_names_of_what_is_erased(sd):
    concepts = [Concept("church"), Concept("mosque")]
    found = neighbours(Model(sd), concepts[0], 64, concepts)
    assert len(found) == 64
    assert not {"church", "mosque", "chapel", "cathedral", "steeple", "building"} & set(found)
    styles = neighbours(Model(sd), Concept("Claude Monet", "style"), 16)
    assert len(styles) == 16
    assert not [name for name in styles if "onet" in name]


COMMANDS = {
    "erase": ("erase", "rece", "MODEL", "church", "-o", "DIR/new.safetensors"),
    "audit": ("audit", "MODEL", "--erasure", "FILE", "--seeds", "1", "--steps", "2", "-o", "DIR/card"),
    "attack": ("attack", "synonyms", "MODEL", "--erasure", "FILE", "--judge", "JUDGE", "--steps", "2", "-o", "DIR/a"),
    "harden": (
        "harden", "synonyms", "MODEL", "--erasure", "FILE", "--judge", "JUDGE", "--steps", "2", "-o", "DIR/h.safetensors"
    ),
    "sae train": ("sae", "train", "MODEL", "--sites", "unet.mid_block", "--prompts", "DIR/prompts.txt", "-o", "DIR/sae"),
    "bench prompts": ("bench", "prompts", "MODEL", "DIR/prompts.csv", "--steps", "2", "-o", "DIR/run"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_plan_says_what_would_be_done_and_does_nothing(command, sd, folder, tmp_path, capsys, monkeypatch):
    for place in ("efface.judges", "efface.api.smoothing"):
        monkeypatch.setattr(f"{place}.open_judge", lambda spec, **given: Spots())
    efface.erase(sd, "church", method="uce", keep=[]).save(tmp_path / "e.safetensors")
    (tmp_path / "prompts.txt").write_text("a church\na cat\n")
    (tmp_path / "prompts.csv").write_text("prompt\na church\na cat\n")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    replaced = {"MODEL": folder, "FILE": str(tmp_path / "e.safetensors"), "JUDGE": "spots"}
    args = [replaced.get(word, word).replace("DIR", str(tmp_path)) for word in COMMANDS[command]]
    monkeypatch.chdir(tmp_path)
    assert main([*args, "--plan", "--json"]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert data["model_bytes"] > 0
    assert "tiny-diffusion on cpu, float32, 16 x 16 pixels" in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert {"pictures", "seconds"} <= data.keys() or command.startswith("bench")


def test_a_plan_of_hardening_says_how_long_is_trained(sd, folder, tmp_path, capsys, monkeypatch):
    for place in ("efface.judges", "efface.api.smoothing"):
        monkeypatch.setattr(f"{place}.open_judge", lambda spec, **given: Spots())
    path = tmp_path / "e.safetensors"
    efface.erase(sd, "church", method="aegis", keep=[], iterations=2, draw_steps=2).save(path)
    args = ["harden", "synonyms", folder, "--erasure", str(path), "--judge", "spots", "--rounds", "4", "--plan"]
    assert main([*args, "--json", "-o", str(tmp_path / "out.safetensors")]) == 0
    assert json.loads(capsys.readouterr().out)["training_steps"] == 8
    assert main([*args, "-o", str(tmp_path / "out.safetensors")]) == 0
    assert "8 steps at most" in capsys.readouterr().out
    args[1] = "relapse"
    assert main([*args, "-o", str(tmp_path / "out.safetensors")]) == 2
    assert "relapse finds no prompt" in " ".join(capsys.readouterr().err.split())


def test_commands_say_how_names_are_read(sd, folder, tmp_path, capsys, monkeypatch):
    for place in ("efface.judges", "efface.api.smoothing"):
        monkeypatch.setattr(f"{place}.open_judge", lambda spec, **given: Spots())
    efface.erase(sd, "church", method="uce", keep=[]).save(tmp_path / "e.safetensors")
    args = ["synonyms", folder, "Van Gogh", "--erasure", str(tmp_path / "e.safetensors"), "--judge", "spots", "--plan"]
    for command in ("attack", "harden"):
        assert main([command, *args, "-o", str(tmp_path / "out.safetensors")]) == 0
        assert "'Van Gogh' is read as Vincent van Gogh" in " ".join(capsys.readouterr().err.split())
