"""The options that every command on a model shares: in its help, where they lead, and which contradict each other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

import efface
from efface.attacks import ATTACKS
from efface.cli import COMMANDS, main
from efface.cli.bench import PROTOCOLS
from efface.cli.judge import COMMANDS as JUDGING
from efface.cli.sae import COMMANDS as SAE
from efface.erasers import ERASERS

CHOICES = {"erase": ERASERS, "attack": ATTACKS, "harden": ATTACKS, "sae": SAE, "judge": JUDGING, "bench": PROTOCOLS}
"""Command -> what its first word chooses."""
WITHOUT_MODEL = {("show",), ("push",), ("env",), ("policies",), ("judge", "look"), ("bench", "table")}
EVERY = [
    words
    for name in COMMANDS
    for words in ([(name, choice) for choice in CHOICES[name]] if name in CHOICES else [(name,)])
    if words not in WITHOUT_MODEL
]
"""Every command of the registries, those of plugins too, but those that load no model."""
SHARED = ("--device", "--dtype", "--offload", "--side", "--width", "--height", "--batch", "--config", "--variant")
WITHOUT_SEED = {("sae", "sites"), ("prior",)}
"""What draws nothing."""


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_on_a_model_has_the_shared_options(words, capsys):
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    own = () if words in WITHOUT_SEED else ("--seed",)
    lacking = [option for option in (*SHARED, *own) if not re.search(rf"{option}(?![\w-])", text)]
    assert not lacking


class LoadError(Exception):
    """What a command asks of the loader."""


@pytest.fixture
def asked(monkeypatch):
    """Runs a command up to where it loads its model; returns the model's name and the loader's arguments."""

    def load(name, **options):
        raise LoadError(str(name), options)

    monkeypatch.setattr("efface.models.load.load", load)

    def run(*args):
        with pytest.raises(LoadError) as stopped:
            main(list(args))
        return stopped.value.args

    return run


@pytest.fixture(scope="module")
def erasure(sd, tmp_path_factory):
    path = tmp_path_factory.mktemp("erasure") / "e.safetensors"
    efface.erase(sd, "church", method="uce", keep=["a dog"]).save(path)
    return str(path)


OPENED = {
    "demo": ("demo",),
    "erase": ("erase", "rece", "MODEL", "church", "-o", "OUT/e.safetensors"),
    "erase, its own seed": ("erase", "saeuron", "MODEL", "church", "-o", "OUT/e.safetensors"),
    "generate": ("generate", "MODEL", "a cat"),
    "prior": ("prior", "MODEL"),
    "export": ("export", "ERASURE", "MODEL", "--to", "lora", "-o", "OUT/l.safetensors"),
    "audit": ("audit", "MODEL", "--erasure", "ERASURE"),
    "attack": ("attack", "p4d", "MODEL", "--erasure", "ERASURE"),
    "harden": ("harden", "p4d", "MODEL", "--erasure", "ERASURE", "-o", "OUT/h.safetensors"),
    "sae sites": ("sae", "sites", "MODEL"),
    "sae harvest": ("sae", "harvest", "MODEL"),
    "sae train": ("sae", "train", "MODEL"),
    "sae features": ("sae", "features", "MODEL", "CODER"),
    "sae inspect": ("sae", "inspect", "MODEL"),
    "sae steer": ("sae", "steer", "MODEL", "3", "a cat"),
    "bench canvas": ("bench", "canvas"),
    "bench prompts": ("bench", "prompts", "MODEL", "PROMPTS"),
}


TEXT_ONLY = {"erase", "export", "prior"}
"""Commands of these that read a model's text alone."""


@pytest.mark.parametrize("name", OPENED)
def test_the_options_reach_the_loader(name, asked, erasure, tmp_path):
    (tmp_path / "prompts.csv").write_text("prompt\na cat\n")
    places = {"ERASURE": erasure, "PROMPTS": str(tmp_path / "prompts.csv")}
    words = [places.get(word, word.replace("OUT", str(tmp_path))) for word in OPENED[name]]
    options = ["--device", "cuda:1", "--dtype", "bfloat16", "--offload", "group", "--config", "C", "--variant", "fp16"]
    seed = [] if (*name.split(),) in WITHOUT_SEED else ["--seed", "7"]
    model, loading = asked(*words, *options, "--width", "64", "--height", "32", "--batch", "2", *seed)
    assert model == ("MODEL" if "MODEL" in words else "emoji")
    expected = {"device": "cuda:1", "dtype": "bfloat16", "offload": "group", "config": "C", "variant": "fp16"}
    assert loading == expected | ({"text_only": True} if name in TEXT_ONLY else {})


CONTRADICTIONS = {
    "a side and a width": (("--side", "64", "--width", "64"), "--side was given beside"),
    "a width alone": (("--width", "64"), "go together"),
    "no pictures at a time": (("--batch", "0"), "batch is 0"),
    "offload on the processor": (
        ("--device", "cpu", "--offload", "model"),
        "offload is 'model', but the device is cpu",
    ),
    "no such device": (("--device", "gpu"), "'gpu' is unknown"),
    "no such precision": (("--dtype", "float8"), "invalid choice 'float8'"),
    "a config for a folder": (("--config", "there"), "config is 'there'"),
    "a side between cells": (("--side", "33"), "expected a multiple of 2"),
    "a variant that is not there": (("--variant", "bf16"), "no pipeline could be loaded"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_refused_in_a_sentence(name, sd, tmp_path, capsys):
    sd.save_pretrained(tmp_path / "model")
    options, sentence = CONTRADICTIONS[name]
    code = main(["generate", str(tmp_path / "model"), "a cat", "--steps", "1", "-o", str(tmp_path / "p.png"), *options])
    said = " ".join(capsys.readouterr().err.split())
    assert code in (1, 2)
    assert sentence in said
    assert "Traceback" not in said
    assert not (tmp_path / "p.png").exists()


def test_the_size_reaches_the_pictures(sd, tmp_path, capsys):
    sd.save_pretrained(tmp_path / "model")
    picture = tmp_path / "p.png"
    options = ["--width", "32", "--height", "16", "--dtype", "float32", "--batch", "1", "--seed", "3"]
    assert main(["generate", str(tmp_path / "model"), "a cat", "--steps", "1", "-o", str(picture), *options]) == 0
    with Image.open(picture) as image:
        assert image.size == (32, 16)


def test_memory_that_ran_out_is_a_sentence(monkeypatch, capsys):
    def load(name, **options):
        raise MemoryError("not enough memory: you tried to allocate 8589934592 bytes")

    monkeypatch.setattr("efface.models.load.load", load)
    assert main(["sae", "sites", "emoji"]) == 1
    assert "memory ran out" in capsys.readouterr().err


def test_a_methods_own_options_keep_their_meaning(asked, tmp_path, erasure):
    """A method's batch is not the pictures' batch, and its seed is."""
    from efface.cli.attack import Request
    from efface.cli.attack_options import parse

    words = ["relapse", "M", "--erasure", erasure, "--batch", "2", "--relapse-batch", "3", "--seed", "5"]
    _, _, model, options = parse("attack", "", Request, words)
    assert (model.batch, options) == (2, {"batch": 3, "seed": 5})
    assert Path(erasure).exists()
