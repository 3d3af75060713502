"""Judges that say why: verdicts are sums of a few named parts, made on pictures of a tiny model and with real judges."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
import tiny_judges
from efface.cli import main
from efface.errors import EffaceError, UsageError
from efface.heads.config import HeadConfig
from efface.heads.dictionary import codes_of, factorise
from efface.heads.fit import fit_head, held_out, measure_accuracy
from efface.heads.names import Kind, names_of
from efface.io import embedded
from efface.judges import Judge, Verdicts, open_judge
from efface.judges.criterion import criterion_for
from efface.judges.named import NamedJudge, NamedParts, with_features

CLASSES = ("red", "green", "blue")


class Colours:
    """A judge whose features are the mean levels of each colour and its opposite, and that finds dark pictures not intact."""

    name, classes, detects = "colours-1", CLASSES, False

    def __call__(self, images):
        levels = self.levels(images)
        labels = tuple(self.classes[i] for i in levels.argmax(1))
        return Verdicts(labels, levels.softmax(1), levels.amax(1) > 0.3)

    def features(self, images):
        levels = self.levels(images) - 0.5
        return torch.cat([levels, levels.roll(1, 1) * 0.3], 1)

    def levels(self, images):
        means = [np.asarray(image, dtype=float).mean((0, 1)) / 255 for image in images]
        return torch.from_numpy(np.reshape(means, (-1, 3)))


def picture(colour, seed, second=None):
    """A noisy picture of a colour, or of two."""
    generator = np.random.default_rng(seed)
    levels = generator.integers(0, 60, (8, 8, 3))
    for one in (colour, second):
        if one is not None:
            levels[..., one] += generator.integers(120, 190)
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def parts_of(images, labels, k=10, base="colours"):
    """Parts made of pictures and labels as `api.named_judge` makes them."""
    judge = Colours()
    read = judge.features(images)
    out = held_out(labels)
    dictionary = factorise(read[~out], 8)
    codes = codes_of(read, dictionary)
    head = fit_head(codes[~out], labels[~out], CLASSES, HeadConfig(k=k))
    return NamedParts(
        base=base,
        base_name=judge.name,
        kind="colour",
        dictionary=dictionary,
        head=head,
        names=tuple(names_of(codes, [Kind(labels, head)])),
        accuracy=measure_accuracy(head, codes[out], labels[out]),
    )


@pytest.fixture(scope="module")
def single():
    """Pictures of one colour each, and their parts."""
    images = [picture(i % 3, i) for i in range(90)]
    labels = torch.nn.functional.one_hot(torch.arange(90) % 3, 3).bool()
    return images, labels, parts_of(images, labels, k=3)


@pytest.fixture(scope="module")
def double():
    """Pictures of one or two colours, and their parts."""
    pairs = [(i % 3, (i + 1) % 3 if i % 2 else None) for i in range(120)]
    images = [picture(first, i, second) for i, (first, second) in enumerate(pairs)]
    labels = torch.tensor([[c in pair for c in range(3)] for pair in pairs])
    return images, labels, parts_of(images, labels, k=4)


def test_a_verdict_is_the_sum_that_is_told(single):
    images, labels, parts = single
    judge = NamedJudge(parts, Colours())
    assert isinstance(judge, Judge)
    verdicts = judge(images)
    assert verdicts.labels == tuple(CLASSES[i] for i in labels.int().argmax(1))
    logits = torch.stack([torch.tensor([judge.explain([i], c)[0].logit for c in CLASSES]) for i in images[:12]])
    torch.testing.assert_close(logits.softmax(1), verdicts.scores[:12], atol=1e-6, rtol=0)
    for why, label in zip(judge.explain(images), verdicts.labels, strict=True):
        assert why.label == label
        assert why.logit == pytest.approx(why.bias + sum(c.value for c in why.contributions), abs=1e-6)
        assert 1 <= len(why.contributions) <= 3
        assert [abs(c.value) for c in why.contributions] == sorted(
            (abs(c.value) for c in why.contributions), reverse=True
        )


def test_what_is_told_is_named(single):
    images, _, parts = single
    why = NamedJudge(parts, Colours()).explain(images[:1])[0]
    first = why.contributions[0]
    assert first.name.label == "red"
    assert str(first) == f"{first.value:+.2f} {first.name} (part {first.part})"
    assert str(why) == f"red {why.logit:+.2f} = {' '.join(map(str, why.contributions))} {why.bias:+.2f} bias"


def test_of_several_concepts_in_a_picture_each_is_found(double):
    images, labels, parts = double
    judge = NamedJudge(parts, Colours())
    assert judge.detects
    verdicts = judge(images)
    assert (verdicts.counts.bool() == labels).all(1).float().mean() >= 0.95
    criterion = criterion_for(judge, "green")
    shown = torch.tensor([verdict.shown for verdict in criterion(images)])
    assert torch.equal(shown, verdicts.counts[:, 1] > 0)


def test_whether_a_picture_is_intact_is_what_the_judge_below_says(single):
    images, _, parts = single
    dark = Image.new("RGB", (8, 8), (30, 5, 5))
    assert NamedJudge(parts, Colours())([images[0], dark]).intact.tolist() == [True, False]


def test_no_pictures_have_no_verdicts(single):
    _, _, parts = single
    judge = NamedJudge(parts, Colours())
    assert judge([]).scores.shape == (0, 3)
    assert judge.explain([]) == []


def test_a_verdict_depends_on_no_other_picture(single):
    images, _, parts = single
    judge = NamedJudge(parts, Colours())
    alone = torch.cat([judge([image]).scores for image in images[:6]])
    torch.testing.assert_close(judge(images).scores[:6], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["single", "double"])
def test_the_file_comes_back(kind, request, tmp_path):
    images, _, parts = request.getfixturevalue(kind)
    parts.save(tmp_path / "j.safetensors")
    again = NamedJudge.open(str(tmp_path / "j.safetensors"), lambda spec: {"colours": Colours()}[spec])
    judge = NamedJudge(parts, Colours())
    assert again.name == judge.name
    assert torch.equal(again(images).scores, judge(images).scores)
    assert again.explain(images[:3]) == judge.explain(images[:3])
    assert again.parts.accuracy == parts.accuracy


def test_files_that_are_none_are_refused(single, tmp_path):
    _, _, parts = single
    path = tmp_path / "j.safetensors"
    parts.save(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(EffaceError, match="altered or damaged"):
        open_judge(f"named:{path}")
    dataclasses.replace(parts, dictionary=-parts.dictionary).save(path)
    with pytest.raises(EffaceError, match=r"its dictionary is none.*efface judge make"):
        open_judge(f"named:{path}")
    with pytest.raises(EffaceError, match="could not be read"):
        open_judge(f"named:{tmp_path / 'nowhere'}")
    with pytest.raises(UsageError, match=r"not of the form named:FILE"):
        open_judge("named")


def test_another_judge_below_or_one_without_features_is_refused(single):
    _, _, parts = single
    with pytest.raises(EffaceError, match="was made on 'colours-0'"):
        NamedJudge(dataclasses.replace(parts, base_name="colours-0"), Colours())
    with pytest.raises(UsageError, match="has no features"):
        with_features(tiny_judges.Spots())
    with pytest.raises(UsageError, match="has no class 'pink'"):
        NamedJudge(parts, Colours()).explain([picture(0, 0)], "pink")


CONCEPTS = {
    "object": {name: [f"a {name} in noto style", f"a {name} in art style"] for name in ("church", "cat", "dog")},
    "style": {style: [f"a {name} in {style} style" for name in ("church", "cat")] for style in ("noto", "art")},
}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """A tiny model, a tiny CLIP and a file of concepts."""
    folder = tmp_path_factory.mktemp("studio")
    tiny.stable_diffusion().save_pretrained(folder / "model")
    tiny_judges.clip(folder / "clip")
    (folder / "concepts.json").write_text(json.dumps(CONCEPTS))
    return folder


EMBEDDED = next(name for name, (_, what) in embedded.judges().items() if what == "object")


@pytest.mark.parametrize("base", [EMBEDDED, "clip:clip:church,cat"])
def test_the_command_makes_a_judge_and_another_asks_it(studio, base, monkeypatch, capsys):
    monkeypatch.chdir(studio)
    words = [
        "judge",
        "make",
        "model",
        base,
        "--concepts",
        "concepts.json",
        "--steps",
        "2",
        "-o",
        "j.safetensors",
        "--json",
    ]
    assert main([*words, "--kind", "object"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["classes"] == ["church", "cat", "dog"]
    first, drawn = open_judge(told["judge"]), sorted(Path("j/pictures").iterdir())
    assert len(drawn) == 12
    monkeypatch.setattr("efface.models.model.Model.draw", lambda *a, **k: pytest.fail("it drew again"))
    assert main([*words, "--kind", "object"]) == 0
    assert open_judge(told["judge"]).name == first.name
    capsys.readouterr()
    files = [str(path) for path in drawn[:2]]
    assert main(["judge", "look", told["judge"], *files, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["pictures"]
    judge = open_judge(told["judge"])
    assert isinstance(judge, NamedJudge)
    for row, file in zip(found, files, strict=True):
        why = judge.explain([Image.open(file)])[0]
        assert (row["label"], row["why"]["logit"]) == (why.label, why.logit)
        assert len(row["why"]["contributions"]) <= 10
    assert main(["judge", "look", told["judge"], *files, "--concept", "dog"]) == 0
    assert "dog" in capsys.readouterr().out


def test_the_kind_is_the_one_that_the_judge_knows(studio, monkeypatch, capsys):
    monkeypatch.chdir(studio)
    words = ["judge", "make", "model", "--concepts", "concepts.json", "--steps", "1", "-o", "k.safetensors", "--json"]
    assert main([*words, "clip:clip:noto,art"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "style"
    assert main([*words, "clip:clip:house,tree"]) == 2
    assert "name one of the kinds object, style" in capsys.readouterr().err
    assert main([*words, "clip:clip:noto,art", "--parts", "0"]) == 2
    assert "parts is 0" in capsys.readouterr().err
    assert main([*words, "clip:clip:noto,art", "--kind", "place"]) == 2
    assert "no concepts of the kind 'place'" in capsys.readouterr().err


def test_any_judge_looks_and_those_that_cannot_say_why_say_so(studio, monkeypatch, capsys):
    monkeypatch.chdir(studio)
    picture(0, 0).save("red.png")
    assert main(["judge", "look", EMBEDDED, "red.png", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["pictures"][0]
    assert row["label"] in open_judge(EMBEDDED).classes
    assert "why" not in row
    assert main(["judge", "look", EMBEDDED, "red.png", "--concept", "cat"]) == 2
    assert "does not say why" in capsys.readouterr().err
    assert main(["judge", "look", EMBEDDED, "concepts.json"]) == 1
    assert "expected a picture" in capsys.readouterr().err
    assert main(["judge", "look", EMBEDDED, "nowhere.png"]) == 1
    assert main(["judge", "make", "model", "smooth:0.1:nudenet"]) in (1, 2)
