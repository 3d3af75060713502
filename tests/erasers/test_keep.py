"""What is retained against the user's intention, and weights that leave an edit undefined: refused, or warned of."""

from __future__ import annotations

import json

import pytest

import efface
from efface.cli import main
from efface.concepts.concept import Concept
from efface.concepts.retained import naming
from efface.models.model import Model

CHURCH = efface.Concept("church", anchor="cat")
NAMED = {
    "the name": ("church", ["a church", "church in noto style", "Church"], ["a cat", "churchyard cat"]),
    "plural": ("church", ["two churches"], []),
    "singular of a plural": ("Dogs", ["a dog", "dogs"], ["dogma"]),
    "irregular": ("woman", ["women"], ["a man"]),
    "ends in y": ("butterfly", ["butterflies"], ["a fly"]),
    "several words": ("golf ball", ["the golf-ball", "golf balls"], ["a ball", "golf"]),
    "ends in s": ("glass", ["glasses", "a glass"], ["glas", "grass"]),
    "possessive": ("church", ["the church's bell"], []),
    "accents": ("café", ["a cafe"], []),
    "an apostrophe": ("Georgia O'Keeffe", ["art by Georgia O’Keeffe"], ["Georgia"]),
    "dots": ("A.J.Casson", ["in the style of A.J. Casson"], ["Casson"]),
    "other letters": ("日本", ["日本 の 猫"], ["猫"]),
}


@pytest.mark.parametrize("case", NAMED)
def test_prompts_that_name_a_concept(case):
    name, yes, no = NAMED[case]
    assert naming([*yes, *no], [efface.Concept(name)]) == yes


def test_aliases_name_it_too():
    assert naming(["a chapel", "a house"], [efface.Concept("church", aliases=("chapel",))]) == ["a chapel"]


@pytest.mark.parametrize("method", ["uce", "rece", "preserve", "project"])
def test_a_retained_prompt_that_names_the_concept_is_left_out_and_said(sd, method):
    with pytest.warns(UserWarning, match=r"'a church' would retain what is to be erased \('church'\): left out"):
        erasure = efface.erase(sd, CHURCH, method=method, keep=["a dog", "a church"])
    assert erasure.provenance.keep == ("a dog",)
    with pytest.warns(UserWarning, match=r"'a church' would retain what is to be erased \('church'\): left out"):
        efface.erase(sd, [Concept("cat", "object"), CHURCH], method=method, keep=["a dog", "a church"])
    same = efface.erase(sd, CHURCH, method=method, keep=["a dog"])
    assert (erasure.u == same.u).all()
    assert (erasure.v == same.v).all()


def test_a_retained_prompt_that_is_cut_is_said(sd):
    long = "a cat in noto style in art style in art style"
    rest = Model(sd).truncated(long)
    assert rest
    with pytest.warns(UserWarning, match=f"is longer than the model reads: {rest!r} is left out"):
        erasure = efface.erase(sd, CHURCH, method="uce", keep=[long, "a dog"])
    assert erasure.provenance.keep == (long, "a dog")


def test_one_text_is_no_list(sd):
    with pytest.raises(efface.EffaceError, match=r"write keep=\['a dog'\]"):
        efface.erase(sd, CHURCH, method="uce", keep="a dog")


RIDGES = [("uce", "ridge"), ("rece", "ridge"), ("rece", "first_ridge"), ("preserve", "ridge"), ("anchored", "ridge")]


@pytest.mark.parametrize(("method", "field"), RIDGES)
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_an_edit_without_a_ridge_is_refused(sd, method, field, value):
    with pytest.raises(efface.EffaceError, match=f"^{field} is .*; expected a finite number above 0"):
        efface.erase(sd, CHURCH, method=method, keep=["a dog"], **{field: value})


FILES = {
    "lines": ("keep.txt", "a dog\n\na cat\na dog\n", "keep.txt"),
    "a byte order mark": ("keep.txt", "\ufeffa dog\na cat\n", "keep.txt"),
    "a column of prompts": ("keep.csv", "case_number,prompt\n0,a dog\n1,a cat\n2,a dog\n", "keep.csv"),
    "another column": (
        "artists.csv",
        ",case_number,prompt,evaluation_seed,artist\n0,0,by a dog,1,a dog\n1,1,of a dog,2,a dog\n2,2,by a cat,3,a cat\n",
        "artists.csv:artist",
    ),
}


@pytest.fixture(scope="module")
def folder(sd, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    sd.save_pretrained(path)
    return str(path)


@pytest.mark.parametrize("case", FILES)
def test_prompts_from_files(folder, tmp_path, case):
    name, text, spec = FILES[case]
    (tmp_path / name).write_text(text)
    words = [
        "erase",
        "uce",
        folder,
        "church",
        "-o",
        str(tmp_path / "e.safetensors"),
        "--keep",
        str(tmp_path / spec),
        "art",
    ]
    assert main(words) == 0
    assert efface.Erasure.load(tmp_path / "e.safetensors").provenance.keep == ("a dog", "a cat", "art")


REFUSED = {
    "no such file": ("missing.csv", None, "is not a file"),
    "no such column": ("keep.csv:artist", b"prompt\na dog\n", "no column 'artist'"),
    "no prompts": ("keep.csv", b"artist\na dog\n", "no column 'prompt'"),
    "malformed": ("keep.csv", b"prompt,seed\na dog,1\na,b,c,d\n", "malformed"),
    "no text": ("keep.txt", b"\xff\xfe\x00", "save it as UTF-8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_files_that_cannot_be_read(folder, tmp_path, capsys, case):
    spec, data, sentence = REFUSED[case]
    if data is not None:
        (tmp_path / spec.split(":")[0]).write_bytes(data)
    words = [
        "erase",
        "uce",
        folder,
        "church",
        "-o",
        str(tmp_path / "e.safetensors"),
        "--keep",
        str(tmp_path / spec),
        "--json",
    ]
    assert main(words) in (1, 2)
    assert sentence in json.loads(capsys.readouterr().out)["error"]
    assert not (tmp_path / "e.safetensors").exists()


def test_the_command_says_what_it_leaves_out(folder, tmp_path):
    path = tmp_path / "e.safetensors"
    with pytest.warns(UserWarning, match="'a church' would retain what is to be erased"):
        assert main(["erase", "uce", folder, "church", "-o", str(path), "--keep", "a dog", "a church"]) == 0
    assert efface.Erasure.load(path).provenance.keep == ("a dog",)
