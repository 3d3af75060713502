"""The audit of a checkpoint against its base: on a tiny pipeline, by the command, and on a planted control."""

from __future__ import annotations

import copy
import json

import pytest
import torch

import efface
import tiny
from attacked import CHURCH, Field
from efface.api.checkpoint import audit_checkpoint, named_samples, weights_digest
from efface.cli import main
from efface.concepts.sample import Sample
from efface.errors import UsageError
from efface.judges import Verdicts
from efface.judges.likeness import NearestPictureJudge
from efface.models.sampling import Sampling

FEW = Sampling(steps=2, guidance=5.0)


@pytest.fixture(scope="module")
def samples(sd):
    """Of two classes, as the judge of the field sees the base's own pictures."""
    judge = Field(sd).judge
    drawn = [Sample(prompt, seed) for prompt in ("a church", "a cat", "a dog in noto style") for seed in range(3)]
    images = efface.Model(sd).draw([s.prompt for s in drawn], seeds=[s.seed for s in drawn], steps=2, guidance=5.0)
    labels = judge(images).labels
    labels = labels if len(set(labels)) > 1 else ("church", "other", *labels[2:])
    return judge, [Sample(s.prompt, s.seed, shows=(label,)) for s, label in zip(drawn, labels, strict=True)]


def test_a_model_does_not_fool_itself(sd, samples, tmp_path):
    judge, some = samples
    weights = {k: v.clone() for k, v in sd.unet.state_dict().items()}
    audit = audit_checkpoint(sd, sd, some, judge=judge, sampling=FEW, fine_tune=2, folder=tmp_path)
    assert not audit.candidate.flagged
    assert (audit.candidate.same, audit.candidate.lost, audit.candidate.gap) == (len(some), 0, 0)
    assert set(audit.harmless) == {"bfloat16", "one more step", "fine-tuned"}
    assert not any(found.flagged for found in audit.harmless.values())
    assert json.loads((tmp_path / "checkpoint.json").read_text())["flagged"] is False
    assert all(torch.equal(v, weights[k]) for k, v in sd.unet.state_dict().items())
    assert not any(m._forward_hooks for m in sd.unet.modules())
    again = audit_checkpoint(sd, sd, some, judge=judge, sampling=FEW, fine_tune=2, folder=tmp_path)
    assert again.candidate == audit.candidate


def test_a_small_change_of_weights_is_drawn_anew(sd):
    first = weights_digest(sd)
    bias = sd.unet.conv_out.bias
    kept = bias.detach().clone()
    try:
        with torch.no_grad():
            bias[0] += 1e-6
        assert weights_digest(sd) != first
    finally:
        with torch.no_grad():
            bias.copy_(kept)
    assert weights_digest(sd) == first
    with efface.erase(sd, CHURCH, method="uce", keep=[]).attached(sd):
        assert weights_digest(sd) != first


def test_another_model_looks_different(sd, samples):
    judge, some = samples
    other = copy.deepcopy(tiny.stable_diffusion(seed=1))
    audit = audit_checkpoint(sd, other, some, judge=judge, sampling=FEW, fine_tune=0)
    assert audit.candidate.same < len(some)
    assert not audit.candidate.flagged
    assert "fine-tuned" not in audit.harmless


def test_what_is_refused(sd, samples):
    judge, some = samples

    class Detector:
        name, classes, detects = "detector-1", ("gun",), True

        def __call__(self, images):
            return Verdicts((), torch.zeros(0, 1), torch.zeros(0, dtype=torch.bool))

    for options, message in (
        ({"samples": []}, "nothing to draw"),
        ({"samples": [Sample("a church")]}, "does not say"),
        ({"samples": [Sample("a dragon", shows=("dragon",))]}, "no class 'dragon'"),
        ({"judge": Detector()}, "its right and wrong cannot be counted"),
    ):
        with pytest.raises(UsageError, match=message):
            audit_checkpoint(sd, sd, **({"samples": some, "judge": judge, "sampling": FEW} | options))
    with pytest.raises(UsageError, match="names no class"):
        named_samples(["a dragon"], judge, range(2))
    assert [s.concept for s in named_samples(["A Church"], judge, range(2))] == ["church"] * 2


def test_the_nearest_picture(sd):
    images = efface.Model(sd).draw(["a church", "a cat"], seeds=[0, 1], steps=2)
    judge = NearestPictureJudge(images, ["church", "cat"])
    assert judge(images).labels == ("church", "cat")
    assert judge.judge_others(images, [0, 1]).labels == ("cat", "church")  # without themselves
    with pytest.raises(UsageError, match="one for each"):
        NearestPictureJudge(images, ["church", "church"])


def test_the_command(capsys, tmp_path):
    code = main([
        "audit", "emoji", "--base", "emoji", "--prompt", "a church", "--prompt", "a cat", "--seeds", "1", "--steps", "2", "-o",
        str(tmp_path), "--json",
    ])  # fmt: skip
    printed = capsys.readouterr()
    assert code == 0, printed.err
    data = json.loads(printed.out)
    assert data["flagged"] is False
    assert data["candidate"]["same"] == 2
    for wrong in (["--erasure", "x.safetensors"], ["--attacks", "synonyms"]):
        assert main(["audit", "emoji", "--base", "emoji", *wrong]) == 2
    assert main(["audit", "emoji", "--prompt", "a church"]) == 2
    assert main(["audit", "emoji", "--base", "emoji", "--prompt", "a dragon"]) == 2
