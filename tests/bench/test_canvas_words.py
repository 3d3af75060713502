"""What a run of the canvas's protocol asks beside its own prompts: other words, two objects in a picture, places alone."""

from __future__ import annotations

import json

import pytest

import efface
from efface.bench.protocols.canvas import words
from efface.bench.protocols.canvas.plan import Plan
from efface.bench.protocols.canvas.run import Canvas
from efface.bench.protocols.canvas.targets import PAIRS, Edit, Target
from efface.bench.protocols.canvas.word_cells import cells_of, file_of
from efface.models.model import Model
from efface.profiles.emoji.exam import Exam
from efface.profiles.emoji.shares import Figures, Share
from efface.profiles.emoji.words import object_class


class OneStyle(Plan):
    """One style, erased from two pictures."""

    @property
    def targets(self):
        return [Target("single", (Edit("styles", ("noto",)),))]

    @property
    def pairs(self):
        return [("church", "noto"), ("cat", "blob")]


@pytest.fixture(scope="module")
def model():
    """The embedded model."""
    return Model(efface.load("emoji"))


def shares(**known):
    return Figures(**dict.fromkeys(Figures._fields, Share(0, 0)) | known)


def keep(folder, stem, figures):
    file_of(folder, stem).parent.mkdir(exist_ok=True)
    file_of(folder, stem).write_text(json.dumps(figures._asdict()))


def test_cells_are_those_that_enough_pictures_stand_behind(tmp_path):
    assert cells_of(tmp_path, "uce-church") == {}
    found = shares(
        ua_synonyms=Share(27, 30), ua_descriptions=Share(9, 19), gone=Share(24, 25), in_picture=Share(20, 25),
        identical=Share(0, 60),
    )  # fmt: skip
    keep(tmp_path, "uce-church", found)
    cells = cells_of(tmp_path, "uce-church")
    assert {name: (cell.value, cell.pictures) for name, cell in cells.items()} == {
        "UA synonyms": (0.9, 30), "in picture": (0.8, 25), "identical": (0.0, 60),
    }  # fmt: skip
    assert cells["UA synonyms"].low < 0.9 < cells["UA synonyms"].high
    keep(tmp_path, "uce-church", found._replace(gone=Share(20, 25)))  # the church is still there too often
    assert "in picture" not in cells_of(tmp_path, "uce-church")


def test_what_is_asked_is_counted_and_never_the_name_again(model):
    plan = Plan(("uce", "rece"), quick=True)
    exam = words.exam_of(model, plan)
    church, noto = exam.asked("church"), exam.asked("noto")
    assert {a.role for a in church} == {"synonym", "description", "scene"}
    held = object_class("church")
    assert len(church) == 9 * len((*held.heldout_synonyms, *held.heldout_descriptions)) + 24
    assert noto == []
    concepts = [target.gone[0] for target in plan.targets]
    own = sum(len(exam.asked(name)) for name in concepts)
    assert words.pictures_of(plan, exam) == 3 * own + (1 + 2 * len(concepts)) * len(exam.shared)


@pytest.mark.slow
def test_a_run_is_asked_once(model, tmp_path, monkeypatch):
    monkeypatch.setattr(words, "exam_of", lambda model, plan: Exam(model, PAIRS[:10], 1, scenes=1, named=False))
    canvas = Canvas(model, OneStyle(("uce",), seeds=1), tmp_path)
    canvas.run()
    words.ask_all(canvas)
    row = canvas.rows()[-1]
    assert row.cells["identical"].pictures == 20
    assert row.cells["identical"].value == 0.0  # a linear map moves every prompt
    made = file_of(tmp_path, row.name).stat().st_mtime_ns
    words.ask_all(canvas)
    assert file_of(tmp_path, row.name).stat().st_mtime_ns == made
