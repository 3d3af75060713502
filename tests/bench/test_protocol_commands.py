"""`efface bench`, the commands of protocols."""

from __future__ import annotations

import csv
import io
import json
import pickle
from functools import partial

import pytest

import tiny_judges
from efface.bench.protocols.base import load_erasures
from efface.bench.protocols.run import watchers
from efface.cli import main
from efface.cli.bench import artists, celebrities, coco, common, i2p, imagenette, unlearncanvas
from efface.cli.bench import prompts as prompts_command
from efface.cli.bench.options import Shared
from protocol_runs import ARTISTS_FILE, CELEBRITIES_FILE, COCO_FILE, FEW, I2P_FILE, IMAGENETTE_FILE, PROMPTS_FILE


def command(capsys, *args):
    """Exit code, standard output and standard error of `efface bench …`."""
    code = main(["bench", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


def commands(home, judges, real, tmp_path):
    """What each protocol is called with, and a column that its last line has."""
    texts = {
        "celebrities": CELEBRITIES_FILE,
        "i2p": I2P_FILE,
        "imagenette": IMAGENETTE_FILE,
        "artists": ARTISTS_FILE,
        "coco": COCO_FILE,
        "prompts": PROMPTS_FILE,
    }
    files = {name: tmp_path / f"{name}.csv" for name in texts}
    for name, text in texts.items():
        files[name].write_text(text)
    church, dogs = home / "church.safetensors", home / "Dogs.safetensors"
    styles = f"clip:{judges['clip']}:Van_Gogh,Crayon"
    return {
        "i2p": (["--judge", "canvas-style", "--erasure", church], "noto"),
        "celebrities": (["--judge", f"clip:{judges['clip']}:church,dog,cat,none", "--erasure", church], "erased, of all"),
        "imagenette": (["--judge", f"classifier:{judges['classifier']}", "--erasure", church], "erased"),
        "artists": (["--lpips", "alex", *tiny_judges.lpips(tmp_path), "--as-published", "--erasure", church], "LPIPS_e"),
        "coco": (["--clip", judges["clip"], "--features", "canvas-object", "--pictures", real, "--erasure", church], "FID"),
        "prompts": (["--judge", f"clip:{judges['clip']}:a,b", "--judge", "canvas-object", "--erasure", church], "distance"),
        "unlearncanvas": (["--style-judge", styles, "--object-judge", f"clip:{judges['clip']}:Dogs,Cats", "--styles", "Van_Gogh",
                           "Crayon", "--objects", "Dogs", "Cats", "--seeds", "188", "--erasure", dogs], "CRA"),
    }, files  # fmt: skip


def test_every_protocol_has_a_command(home, judges, real, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases, files = commands(home, judges, real, tmp_path)
    args: list = []
    for name, (options, column) in cases.items():
        positional = [home / "model", *([files[name]] if name in files else [])]
        args = [name, *positional, *options, "--steps", "2", "--json"]
        code, out, err = command(capsys, *args)
        assert code == 0, err
        data = json.loads(out)
        assert data["protocol"] == name
        assert column in data["rows"][-1]["cells"]
        assert data["rows"][-1]["method"] == "uce"
        assert any("steps 2, published: " in note for note in data["notes"])
        assert "still to draw: about" in err
        assert json.loads((tmp_path / f"{name}-run" / "table.json").read_text()) == data
        assert all(data["seen_by"].values())
        # The second time nothing is drawn, and the table is the same.
        code, out, err = command(capsys, *args)
        assert json.loads(out) == data
        assert "0 still to draw" in err
    plan = json.loads(command(capsys, *args, "--plan", "--gpus", "4")[1])
    assert (plan["missing"], plan["devices"], plan["erasures"]) == (0, 4, 1)


def test_a_plan_needs_neither_judges_nor_erasures(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(capsys, "unlearncanvas", home / "model", "--plan", "--gpus", "8", "--steps", "2")
    plan = json.loads(out)
    assert (code, plan["erased"], plan["missing"], plan["devices"]) == (0, 357_000, 362_100, 8)
    assert plan["seconds"] == pytest.approx(plan["missing"] * plan["seconds_each"] / 8)
    assert "on 8 devices" in err
    assert list(tmp_path.iterdir()) == []


def test_forms_and_malformed_rows_on_the_command_line(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "p.csv"
    path.write_text("prompt,seed,class\na church, and more,5,church\na dog,x,dog\na cat,6,cat\n")
    args = ["prompts", home / "model", path, "--steps", "2", "--guidance", "1"]
    code, _, err = command(capsys, *args)
    assert code == 1
    assert "has 1 malformed row (line 3 has the seed 'x'" in err
    code, out, err = command(capsys, *args, "--skip-malformed", "--judge", "canvas-style")
    assert code == 0
    assert out.startswith("| erasure | method | concepts | canvas-style: noto |")
    assert "- p.csv: 1 malformed rows were read all the same, in lines 2" in out
    assert "- p.csv: 1 malformed rows were left out, in lines 3" in out
    assert "- canvas-style: canvas-style-" in out
    assert "- guidance 1, published: 7.5" in out
    code, out, _ = command(capsys, *args, "--skip-malformed", "--judge", "canvas-style", "--format", "csv")
    assert next(csv.DictReader(io.StringIO(out)))["seen by"].startswith("distance: pixels-1; canvas-style: ")


BAD = {
    "no judge": (["imagenette", "MODEL", "FILE"], 2, "no judge was given"),
    "no judges": (["unlearncanvas", "MODEL"], 2, "a judge is missing"),
    "unknown judge": (["i2p", "MODEL", "FILE", "--judge", "oracle"], 2, "the judge 'oracle' is unknown"),
    "no file": (["i2p", "MODEL", "missing.csv", "--judge", "canvas-style"], 1, "could not be read"),
    "no class": (["imagenette", "MODEL", "FILE", "--judge", "canvas-object"], 1, "no column 'class'"),
    "no features": (["coco", "MODEL", "FILE"], 2, "neither a CLIP nor features"),
    "half of FID": (["unlearncanvas", "MODEL", "--plan", "--data", "."], 2, "FID needs both"),
    "twice": (["prompts", "MODEL", "FILE", "--erasure", "E", "--erasure", "E"], 2, "name it once"),
    "concepts": (["prompts", "MODEL", "FILE", "--erasure", "E", "--concept", "a", "--concept", "b"], 2, "2 concepts"),
    "no erasure": (["prompts", "MODEL", "FILE", "--erasure", "FILE"], 1, "safetensors"),
    "no artist": (["artists", "MODEL", "ARTISTS", "--erasure", "E"], 1, "erases dog, which is no artist"),
    "no steps": (["prompts", "MODEL", "FILE", "--steps", "0"], 2, "steps is 0"),
    "no limit": (["prompts", "MODEL", "FILE", "--limit", "0"], 2, "limit is 0"),
    "no such style": (["unlearncanvas", "MODEL", "--plan", "--styles", "Noto"], 1, "'Noto' is no style"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(home, tmp_path, capsys, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    words = {
        "MODEL": home / "model",
        "FILE": tmp_path / "p.csv",
        "ARTISTS": tmp_path / "a.csv",
        "E": home / "dog.safetensors",
    }
    words["FILE"].write_text(PROMPTS_FILE)
    words["ARTISTS"].write_text(ARTISTS_FILE)
    args, expected, part = BAD[case]
    code, _, err = command(capsys, *(words.get(arg, arg) for arg in args))
    assert code == expected
    assert part in err
    assert len([line for line in err.splitlines() if line.startswith("efface: ")]) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "p.csv"]


def test_requests_open_the_same_judges_in_another_process(home, judges, real, tmp_path):
    cases, files = commands(home, judges, real, tmp_path)
    modules = {
        "artists": artists,
        "celebrities": celebrities,
        "coco": coco,
        "i2p": i2p,
        "imagenette": imagenette,
        "prompts": prompts_command,
    }
    church = (home / "church.safetensors",)
    shared = Shared(erasure=church, output=tmp_path / "run", save_images=tmp_path / "kept", steps=2)
    options = {
        "artists": {},
        "celebrities": {"judge": f"clip:{judges['clip']}:church,dog,cat,none"},
        "coco": {"clip": judges["clip"]},
        "i2p": {"judge": "canvas-style"},
        "imagenette": {"judge": f"classifier:{judges['classifier']}"},
        "prompts": {"judge": ("canvas-style", "canvas-style")},
    }
    for name, module in modules.items():
        request = module.Request(str(home / "model"), files[name], **options[name])
        sent = pickle.loads(pickle.dumps(partial(common._watchers, request, shared, module.build)))
        protocol = module.build(request, shared)
        own = watchers(protocol, load_erasures(church), tmp_path / "run", FEW, tmp_path / "kept")
        assert {k: o.name for k, o in sent().items()} == {k: o.name for k, o in own.items()}
    assert set(cases) == {*modules, unlearncanvas.__name__.rpartition(".")[2]}


def test_help_lists_every_option_without_torch():
    from help_text import help_without_torch

    assert "unlearncanvas" in help_without_torch("bench", "--help")
    for name in ("unlearncanvas", "celebrities", "i2p", "imagenette", "artists", "coco", "prompts"):
        text = help_without_torch("bench", name, "--help")
        assert all(
            option in text for option in ("--erasure", "--plan", "--gpus", "--save-images", "--engine", "--format")
        )
