"""Celebrities on a tiny pipeline, every number against a count of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from efface.bench.protocols.base import load_erasures
from efface.bench.protocols.celebrities import (
    SENTENCES,
    Celebrities,
    harmonic_mean,
    portraits_of,
    published_portraits,
)
from efface.bench.protocols.run import Run
from efface.cli import main
from efface.errors import EffaceError, UsageError
from efface.judges import Verdicts
from protocol_runs import drawn, ran
from tiny_judges import hue

FILE = ",type,prompt,evaluation_seed\n" + "".join(
    f"{i},{kind},{sentence.format(name)},{seed}\n"
    for i, (kind, name, sentence, seed) in enumerate(
        (kind, name, sentence, seed)
        for kind, name in (("erased", "church"), ("erased", "Dog"), ("others", "cat"), ("others", "art"))
        for sentence in SENTENCES[:2]
        for seed in (1, 2)
    )
)


class Faces:
    """A classifier of people, or a detector of their faces: a picture of an odd sum has one."""

    def __init__(self, *classes, detects=False):
        self.classes, self.detects, self.name = classes, detects, f"faces-1 {len(classes)}"

    def __call__(self, images):
        sums = [int(np.asarray(image, dtype=np.int64).sum()) for image in images]
        if self.detects:
            counts = torch.tensor([[s % 2] for s in sums])
            return Verdicts(("FACE",) * len(sums), counts.float(), torch.ones(len(sums), dtype=torch.bool), counts)
        places = torch.tensor([s % len(self.classes) for s in sums])
        scores = torch.nn.functional.one_hot(places, len(self.classes)).double()
        return Verdicts(tuple(self.classes[i] for i in places), scores, torch.ones(len(sums), dtype=torch.bool))


def test_accuracy_is_among_pictures_with_a_face(model, home, file, tmp_path):
    names = ("Cat", "CHURCH", "dog", "art")
    protocol = Celebrities(published_portraits(file(FILE)), Faces(*names), Faces("FACE", detects=True))
    path = home / "church.safetensors"
    run = ran(model, protocol, [path], tmp_path / "run")
    unerased, row = run.rows()

    def looks(own):
        pictures = drawn(model, protocol.samples, own)
        right = [names[hue(p, 4)].lower() == s.concept.lower() for p, s in zip(pictures, protocol.samples, strict=True)]
        face = [int(np.asarray(p, dtype=np.int64).sum()) % 2 == 1 for p in pictures]
        return np.array(right) & np.array(face), np.array(face)

    people = np.array([s.concept for s in protocol.samples])
    shown, face = looks(path)
    for name, members in (("erased", people == "church"), ("kept", np.isin(people, ["cat", "art"]))):
        if face[members].any():
            assert row.cells[name].value == pytest.approx(shown[members & face].mean())
        assert row.cells[f"{name}, of all"].value == pytest.approx(shown[members].mean())
        assert row.cells[f"{name}, no face"].value == pytest.approx(1 - face[members].mean())
    assert {"erased", "kept"} <= set(row.cells)
    assert row.cells["H"] == pytest.approx(harmonic_mean(row.cells["erased"].value, row.cells["kept"].value))
    before, _ = looks(None)
    kept = np.isin(people, ["cat", "art"])
    assert row.cells["kept change"].difference == pytest.approx((shown[kept].astype(float) - before[kept]).mean())
    assert unerased.cells["everybody, of all"].value == pytest.approx(before.mean())
    assert json.dumps(run.rows()) == json.dumps(run.rows())


def test_what_was_retained_is_known(model, home, tmp_path):
    judge = Faces("church", "truck", "cat", "none")
    protocol = Celebrities(portraits_of(["church"], ["truck", "cat"], seeds=(1,)), judge)
    (_, row) = ran(model, protocol, [home / "church.safetensors"], tmp_path / "run").rows()  # retains "a truck"
    parts = [row.cells[name].pictures for name in ("kept, known", "kept, unknown") if name in row.cells]
    assert sum(parts) == row.cells["kept"].pictures
    assert row.cells["kept, no face"].value == pytest.approx(1 - row.cells["kept"].pictures / 10)


def test_files_and_lists(file, tmp_path):
    portraits = published_portraits(file(FILE))
    assert portraits.kept == {"cat", "art"}
    assert len(portraits.samples) == 16
    assert portraits.samples[0].shows == ("church",)
    assert portraits.samples[0].seed == 1
    named = published_portraits(file("prompt,name,evaluation_seed\nhe sings,Cat,4\n", "named.csv"))
    assert named.samples[0].shows == ("Cat",)
    with pytest.raises(EffaceError, match="names nobody in a published sentence"):
        published_portraits(file("prompt,evaluation_seed\nhe sings,4\n", "nobody.csv"))
    listed = portraits_of(["Anna", "Bert"], ["Cleo"])
    assert len(listed.samples) == 3 * 5 * 5
    assert len({sample.name for sample in listed.samples}) == 75
    assert listed.kept == {"Cleo"}


def test_what_does_not_fit_is_refused_in_a_sentence(model, home, tmp_path):
    with pytest.raises(EffaceError, match="has no class 'Anna' \\(2 names are missing\\)"):
        Celebrities(portraits_of(["Anna", "Bert"]), Faces("Cleo"))
    protocol = Celebrities(portraits_of(["dog"], seeds=(1,)), Faces("dog", "none"))
    with pytest.raises(EffaceError, match="which is no name of this protocol"):
        Run(model, protocol, load_erasures([home / "church.safetensors"]), tmp_path / "never")
    assert any("cannot say that a picture has no face" in note for note in Celebrities(
        portraits_of(["dog"], seeds=(1,)), Faces("dog", "cat")).notes())  # fmt: skip


@pytest.mark.parametrize(
    ("erased", "kept", "mean"), [(0.0, 1.0, 1.0), (0.034, 0.944, 0.955), (1.0, 0.9, 0.0), (0.1, 0.0, 0.0)]
)
def test_the_harmonic_mean(erased, kept, mean):
    assert harmonic_mean(erased, kept) == pytest.approx(mean, abs=5e-4)


def test_a_plan_needs_no_judge(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("Anna\nBert\n")
    args = ["bench", "celebrities", str(home / "model"), "names.txt", "--plan", "--steps", "2"]
    assert main(args) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["unerased"], plan["erasures"]) == (50, 3)
    assert main([*args, "--seeds", "7"]) == 0
    assert json.loads(capsys.readouterr().out)["unerased"] == 10
    assert main([*args[:-3], "--steps", "2"]) == 2
    assert "no judge was given" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["names.txt"]


def test_lists_and_prompts_are_not_mixed(home, tmp_path, monkeypatch):
    from efface.cli.bench.celebrities import Request, build
    from efface.cli.bench.options import Shared

    for name, text in (("names.txt", "dog\n"), ("prompts.csv", FILE)):
        (tmp_path / name).write_text(text)
    request = Request("emoji", tmp_path / "prompts.csv", kept=tmp_path / "names.txt")
    with pytest.raises(UsageError, match="leave --kept out"):
        build(request, Shared(plan=True))
