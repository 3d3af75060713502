"""The one criterion, case by case; samples and their even choice."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from efface.concepts.concept import Concept
from efface.concepts.sample import SEEDS, Sample, evenly_spaced
from efface.errors import UsageError
from efface.judges.base import Verdicts
from efface.judges.criterion import criterion_for, recorded_as_shown, verdicts_on

PICTURE = Image.new("RGB", (8, 8))


class Classifier:
    name, classes, detects = "classifier-1", ("church", "cat"), False

    def __init__(self, score: float, intact: bool):
        self.score, self.intact = score, intact

    def __call__(self, images):
        scores = torch.tensor([[self.score, 1 - self.score]] * len(images), dtype=torch.double)
        labels = tuple(self.classes[i] for i in scores.argmax(1).tolist())
        return Verdicts(labels, scores, torch.tensor([self.intact] * len(images)))


class Detector:
    name, classes, detects = "detector-1", ("CAT", "DOG"), True

    def __init__(self, cats: int, dogs: int):
        self.counts = torch.tensor([cats, dogs])

    def __call__(self, images):
        counts = self.counts.repeat(len(images), 1)
        labels = tuple(self.classes[i] for i in counts.argmax(1).tolist())
        return Verdicts(labels, counts / 4, torch.ones(len(images), dtype=torch.bool), counts)


@pytest.mark.parametrize(
    ("score", "intact", "shown"),
    [(0.6, True, True), (0.6, False, False), (0.96, False, True), (0.4, True, False), (0.04, True, False)],
)
def test_a_classifier_must_name_it_in_a_picture_that_is_intact_or_beyond_doubt(score, intact, shown):
    judge = Classifier(score, intact)
    (verdict,) = criterion_for(judge, Concept("church"))([PICTURE])
    assert (verdict.shown, verdict.score, verdict.intact) == (shown, score, intact)
    recorded = {"label": verdict.label, "score": max(score, 1 - score), "intact": intact}
    assert recorded_as_shown(recorded, "church") == shown


@pytest.mark.parametrize(
    ("cats", "dogs", "name", "shown"),
    [(1, 0, "CAT", True), (0, 2, "CAT", False), (0, 2, "nudity", True), (0, 0, "nudity", False), (0, 2, None, True)],
)
def test_a_detector_must_find_the_class_or_anything_where_it_has_none(cats, dogs, name, shown):
    (verdict,) = verdicts_on(Detector(cats, dogs), [PICTURE], [name])
    assert verdict.shown == shown
    if name in (None, "CAT"):
        found = {n: c for n, c in (("CAT", cats), ("DOG", dogs)) if c}
        assert recorded_as_shown({"label": "CAT", "score": 1.0, "intact": True, "counts": found}, name) == shown


def test_each_picture_is_asked_for_its_own_concept():
    verdicts = verdicts_on(Classifier(0.7, True), [PICTURE] * 3, ["church", "cat", None])
    assert [v.shown for v in verdicts] == [True, False, False]
    assert verdicts_on(Classifier(0.7, True), [], []) == []


def test_a_concept_that_a_classifier_does_not_know_is_refused():
    with pytest.raises(UsageError, match=r"classifier-1 has no class 'dog': give one .* or a detector"):
        criterion_for(Classifier(0.5, True), "dog")
    criterion_for(Detector(0, 0), "dog")


@given(st.lists(st.integers(), max_size=30), st.integers(1, 40))
def test_evenly_spaced(items, count):
    chosen = evenly_spaced(items, count)
    assert len(chosen) == min(count, len(items))
    assert chosen == items or chosen == [items[int(k * len(items) / count)] for k in range(count)]
    repeated = evenly_spaced(items, count, repeat=True)
    assert len(repeated) == (count if items else 0)
    assert set(repeated) <= set(items)
    assert evenly_spaced(items, None) == items


def test_samples_go_through_json_and_seeds_never_meet():
    sample = Sample("a church in noto style", 3, shows=("church", "noto"), guidance=5.0, name="a-3")
    assert Sample.from_json(json.loads(json.dumps(asdict(sample)))) == sample
    assert (sample.concept, Sample("a").concept) == ("church", None)
    assert sorted(SEEDS) == list(SEEDS)
    assert len(set(SEEDS)) == len(SEEDS)
