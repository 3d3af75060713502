"""The commands: what they write, what they print for machines, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import tiny
from efface.cli import COMMANDS, main
from efface.erasers import METHODS
from help_text import help_without_torch


@pytest.fixture(scope="module")
def folder(sd, tmp_path_factory):
    """A tiny pipeline on disk."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    sd.save_pretrained(path)
    return str(path)


def run(capsys, *args: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    code = main(list(args))
    out, err = capsys.readouterr()
    return code, out, err


def width_of(path: Path) -> int:
    """Width of a picture on disk."""
    with Image.open(path) as picture:
        return picture.size[0]


def test_help_does_not_import_torch():
    assert all(name in help_without_torch("--help") for name in COMMANDS)
    assert all(name in help_without_torch("erase", "--help") for name in METHODS)


OWN_OPTIONS = {
    "rece": ("--ridge", "--preserve-weight", "--rows", "--epochs"),
    "uce": ("--ridge", "--preserve-weight", "--rows", "--target"),
    "gated": ("--goal", "--margin", "--never-touch", "--prior"),
    "joint": ("--goal", "--weight", "--never-touch", "--prior"),
    "speed": ("--alpha", "--threshold", "--matrices"),
    "oce": ("--erase-weight", "--general-weight", "--matrices"),
    "double-projection": ("--share", "--tolerance", "--rows"),
    "preserve": ("--ridge", "--share", "--rows"),
    "project": ("--tolerance", "--share", "--rows"),
    "saeuron": ("--site", "--gamma", "--mode"),
    "anchored": ("--site", "--latents", "--mode"),
    "itd": ("--coder", "--ratio", "--gain", "--mode"),
    "esd": ("--where", "--eta", "--form", "--iterations", "--rank"),
    "ca": ("--target", "--prior", "--images", "--iterations", "--rank"),
    "sdd": ("--decay", "--clip", "--iterations", "--rank"),
    "doco": ("--warmup", "--critic-lr", "--projection", "--levels"),
    "sculpting": ("--density", "--turnover", "--freeze", "--distil"),
    "kpop": ("--rows", "--key-lr", "--recover"),
    "spm": ("--eta", "--anchors", "--transport", "--cycles"),
    "geom": ("--grid", "--alpha", "--labels", "--captions"),
    "hirm": ("--form", "--encoders", "--length", "--rank"),
    "mace": ("--ridge", "--prior", "--keep-weight", "--timesteps"),
    "receler": ("--locality", "--attack-rows", "--attack-steps", "--rank"),
    "advunlearn": ("--encoders", "--warmup", "--attack-steps", "--fresh"),
    "stereo": ("--rounds", "--strength", "--word-iterations", "--rank"),
    "aegis": ("--attack-lr", "--target-lr", "--most", "--rank"),
    "unsee": ("--forget", "--words", "--retained-images", "--rank"),
    "sld": ("--preset", "--warmup", "--momentum-scale", "--quantile"),
    "negative-prompt": ("--phrases",),
    "safree": ("--alpha", "--window", "--slope"),
    "seot": ("--alpha", "--reference", "--start"),
    "concept-steerers": ("--coder", "--layer", "--factor", "--strength"),
    "crg": ("--threshold", "--precision", "--strength"),
    "eraseflow": ("--beta", "--fresh", "--early", "--late"),
    "sauce": ("--images", "--others", "--coder", "--select", "--count", "--gain"),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_help_lists_its_options_without_torch(method):
    text = help_without_torch("erase", method, "--help")
    for option in (*OWN_OPTIONS[method], "--output", "--preview"):
        assert option in text
    assert ("--keep" in text) == (method not in ("geom", "sauce", *WITHOUT_KEEP))  # which changes no weight


@pytest.fixture
def needed(sd, tmp_path):
    """Options that a method cannot do without on the tiny model."""
    options = tiny.coder_options(sd, tmp_path / "coder")
    named = {"coder", "site", "images", "draw_steps"}
    flags = [text for k in sorted(named) for text in (f"--{k.replace('_', '-')}", str(options[k]))]
    short = ["--iterations", "2", "--draw-steps", "2"]
    text = tiny.text_options(sd, tmp_path / "text")
    own = {
        "itd": ["--coder", text["coder"], "--no-neutral"],
        "saeuron": flags,
        "anchored": flags,
        "gated": ["--margin=-2"],
    }
    own |= {"esd": short, "sdd": short, "kpop": short, "ca": [*short, "--images", "2"]}
    own |= {"doco": [*short, "--images", "2", "--warmup", "1"], "spm": [*short, "--warmup", "0", "--sampled", "2"]}
    own |= {"sculpting": [*short, "--images", "2", "--warmup", "1"]}
    own |= {"hirm": short[:2], "aegis": short}
    own |= {"mace": [*short, "--images", "2"], "receler": [*short, "--attack-steps", "1"], "advunlearn": short}
    own |= {"stereo": [*short, "--rounds", "0"], "eraseflow": short}
    own |= {"unsee": [*short, "--images", "2", "--retained-images", "2", "--batch", "2"]}
    own |= {"concept-steerers": short[:2], "crg": ["--draw-steps", "2", "--images", "2"], "safree": ["--window", "1"]}
    return lambda method: own.get(method, [])


KEEP = ["--keep", "a dog", "a cat"]
WITHOUT_KEEP = ("sld", "negative-prompt")
"""Methods that learn nothing and so retain nothing."""
GUARDS = (*WITHOUT_KEEP, "safree", "seot", "concept-steerers", "crg")
"""Their small files hold how many prompts were retained, not which."""


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("geom", "sauce")])
def test_erase_show_generate(folder, capsys, tmp_path, monkeypatch, needed, method):
    monkeypatch.chdir(tmp_path)
    code, out, _ = run(
        capsys, "erase", method, folder, "church", "garbage truck", "-o", "e.safetensors",
        *([] if method in WITHOUT_KEEP else KEEP), "--preview", "p.png", "--steps", "2", "--json", *needed(method),
    )  # fmt: skip
    assert code == 0
    data = json.loads(out)
    assert data["concepts"] == ["church", "garbage truck"]
    assert data["bytes"] == (tmp_path / "e.safetensors").stat().st_size
    assert width_of(tmp_path / "p.png") > 200

    code, out, _ = run(capsys, "show", "e.safetensors", "--json")
    shown = json.loads(out)
    assert (code, shown["method"], shown["keep"]) == (0, method, [] if method in GUARDS else KEEP[1:])
    assert run(capsys, "show", "e.safetensors")[0] == 0

    code, out, _ = run(
        capsys, "generate", folder, "a church", "a cat", "--erasure", "e.safetensors", "-o", "out.png", "--seeds", "1", "2",
        "--steps", "2", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["pictures"] == 4
    assert width_of(tmp_path / "out.png") > 200


def test_a_method_that_needs_a_detector_says_so(folder, capsys, tmp_path):
    code, _, error = run(
        capsys, "erase", "geom", folder, "church", "-o", str(tmp_path / "e.safetensors"), "--images", "2"
    )
    assert code == 2
    assert "give a detector, such as --judge nudenet" in error


def test_options_reach_the_method(folder, capsys, tmp_path):
    path = str(tmp_path / "e.safetensors")
    run(capsys, "erase", "rece", folder, "church", "-o", path, "--keep", "none", "--epochs", "0", "--ridge", "0.25", "--anchor", "cat",
        "--kind", "style")  # fmt: skip
    shown = json.loads(run(capsys, "show", path, "--json")[1])
    assert shown["config"]["ridge"] == 0.25
    assert shown["config"]["epochs"] == 0
    assert shown["keep"] == []
    assert (shown["concepts"][0]["anchor"], shown["concepts"][0]["kind"]) == ("cat", "style")


def test_concepts_from_a_list(folder, capsys, tmp_path):
    path, names = str(tmp_path / "e.safetensors"), tmp_path / "names.csv"
    names.write_text("church,object,cat\ngarbage truck,,,lorry; truck\n")
    code, out, err = run(capsys, "erase", "gated", folder, "art", "--concepts", str(names), "-o", path, "--keep", "a dog",
                         "--margin=-2", "--prior", "never", "--no-aliases", "--json")  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["concepts"] == ["art", "church", "garbage truck"]
    shown = json.loads(run(capsys, "show", path, "--json")[1])
    assert [c["anchor"] for c in shown["concepts"]] == [None, "cat", " "]  # a preset has its own
    assert shown["concepts"][2]["aliases"][-2:] == ["lorry", "truck"]
    assert "gate of church" in err
    assert "retained weight" in err
    assert run(capsys, "erase", "uce", folder, "-o", path)[0] == 2
    assert run(capsys, "erase", "uce", folder, "--concepts", str(tmp_path / "none"), "-o", path)[0] == 1


def test_prior(folder, capsys):
    first = json.loads(run(capsys, "prior", folder, "--json")[1])
    assert first["bytes"] > 0
    again = json.loads(run(capsys, "prior", folder, "--json")[1])
    assert again["file"] == first["file"]
    assert again["prompts"] == first["prompts"]


def test_keep_from_a_file_and_by_default(folder, capsys, tmp_path):
    path, prompts = str(tmp_path / "e.safetensors"), tmp_path / "keep.txt"
    prompts.write_text("a dog\n\na cat\n")
    run(capsys, "erase", "uce", folder, "church", "-o", path, "--keep", str(prompts))
    assert json.loads(run(capsys, "show", path, "--json")[1])["keep"] == ["a dog", "a cat"]
    _, _, err = run(capsys, "erase", "uce", folder, "church", "-o", path)
    assert "retained" in err
    assert json.loads(run(capsys, "show", path, "--json")[1])["keep"]
    run(capsys, "erase", "uce", folder, "church", "-o", path, "--as-published")
    assert json.loads(run(capsys, "show", path, "--json")[1])["keep"] == []


def test_env(capsys):
    code, out, _ = run(capsys, "env", "--json")
    assert code == 0
    assert json.loads(out)["torch"]


BAD = {
    "no command": ([], 2, ""),
    "unknown command": (["explode"], 2, "unknown"),
    "unknown method": (["erase", "ecer", "MODEL", "church"], 2, "rece, gated, joint, preserve, project, saeuron"),
    "unknown option": (["erase", "rece", "MODEL", "church", "--strength", "2"], 2, "unrecognized options: --strength"),
    "no model": (["generate"], 2, "MODEL is missing"),
    "no number": (["generate", "MODEL", "a cat", "--steps", "x"], 2, "--steps: 'x' is not a whole number"),
    "no value": (["generate", "MODEL", "a cat", "--steps"], 2, "missing value for argument '--steps'"),
    "no choice": (["erase", "rece", "MODEL", "church", "--kind", "thing"], 2, "invalid choice 'thing'"),
    "two files after one --erasure": (
        ["generate", "MODEL", "a cat", "--erasure", "A", "B"],
        2,
        "unrecognized options: B",
    ),
    "unknown judge": (["erase", "rece", "MODEL", "church", "-o", "OUT", "--judge", "nobody"], 2, "judge 'nobody'"),
    "empty concept": (["erase", "rece", "MODEL", " ", "-o", "OUT"], 2, "empty"),
    "no concept": (["erase", "rece", "MODEL"], 2, "no concept"),
    "concept too long": (["erase", "uce", "MODEL", "church " * 20, "-o", "OUT", "--keep", "none"], 1, "would be cut"),
    "no such model": (["erase", "rece", "nowhere/at-all", "church", "-o", "OUT"], 1, "no pipeline could be loaded"),
    "bad number": (["erase", "rece", "MODEL", "church", "-o", "OUT", "--ridge", "-1"], 2, "ridge"),
    "missing folder": (["erase", "rece", "MODEL", "church", "-o", "missing/e.safetensors"], 1, "does not exist"),
    "unwritable": (
        ["erase", "rece", "MODEL", "church", "-o", "DIRECTORY", "--keep", "none"],
        1,
        "could not be written",
    ),
    "no such file": (["show", "missing.safetensors"], 1, "could not be read"),
    "not an erasure": (["show", "NOTHING"], 1, "truncated"),
    "no prompt": (["generate", "MODEL"], 2, "no prompt"),
    "no steps": (["generate", "MODEL", "a cat", "--steps", "0"], 2, "steps"),
    "demo of something else": (["demo", "unicorn"], 2, "unicorn"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(folder, capsys, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "nothing.safetensors").write_bytes(b"abc")
    (tmp_path / "directory").mkdir()
    args, expected, part = BAD[case]
    words = {"MODEL": folder, "OUT": "e.safetensors", "NOTHING": "nothing.safetensors", "DIRECTORY": "directory"}
    code, _, err = run(capsys, *[words.get(arg, arg) for arg in args])
    assert code == expected
    assert part in err
    if part:
        assert len([line for line in err.splitlines() if line.startswith("efface: ")]) == 1
        assert "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["directory", "nothing.safetensors"]


def test_errors_as_json(capsys):
    code, out, _ = run(capsys, "show", "missing.safetensors", "--json")
    assert code == 1
    assert "missing.safetensors" in json.loads(out)["error"]


def test_generate_refuses_an_erasure_of_another_model(folder, capsys, tmp_path):
    import tiny

    tiny.stable_diffusion(seed=3).save_pretrained(tmp_path / "other")
    path = str(tmp_path / "e.safetensors")
    assert run(capsys, "erase", "rece", str(tmp_path / "other"), "church", "-o", path, "--keep", "none")[0] == 0
    code, _, err = run(
        capsys, "generate", folder, "a cat", "--erasure", path, "-o", str(tmp_path / "o.png"), "--steps", "1"
    )
    assert code == 1
    assert "other weights" in err
    assert not (tmp_path / "o.png").exists()


def test_a_warning_of_effaces_own_is_a_sentence_as_its_errors_are():
    import warnings

    from efface.models import model

    main(["--help"])
    own = warnings.formatwarning("the end is left out.", UserWarning, model.__file__, 3)
    assert own == "efface: the end is left out.\n"
    assert "DeprecationWarning" in warnings.formatwarning("old", DeprecationWarning, model.__file__, 3)
    assert "elsewhere.py:3" in warnings.formatwarning("theirs", UserWarning, "/elsewhere.py", 3)
