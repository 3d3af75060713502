"""The canvas's protocol: its plan, its modes, and a few prompts from the erasures to the table."""

from __future__ import annotations

import json
import random

import pytest

import efface
from efface.api.red_team import RedTeam
from efface.bench import manifest as runs
from efface.bench import table as forms
from efface.bench.protocols.canvas.attack import attack_all
from efface.bench.protocols.canvas.attack_cells import broken_in
from efface.bench.protocols.canvas.estimate import cost
from efface.bench.protocols.canvas.many import NOUNS, survivors, unknown_of
from efface.bench.protocols.canvas.plan import Plan
from efface.bench.protocols.canvas.run import Canvas
from efface.bench.protocols.canvas.targets import (
    KINDS,
    PAIRS,
    SEQUENCES,
    TOGETHER,
    Edit,
    Target,
    concepts_of,
    targets_of,
)
from efface.cli import main
from efface.errors import EffaceError, UsageError
from efface.models.model import Model
from efface.profiles.emoji.concepts import emoji_concepts, remaining_anchor
from efface.profiles.emoji.words import BENCHMARK, STYLES, anchor_of, caption
from efface.redteam.findings import Findings
from efface.redteam.samples import Samples


class Few(Plan):
    """Two objects in two styles."""

    @property
    def concepts(self):
        return {"objects": ("church",), "styles": ("outline",)}

    @property
    def pairs(self):
        return [(o, s) for o in ("church", "sunflower") for s in ("noto", "outline")]


class FewInARow(Few):
    """Two objects, one after the other."""

    @property
    def targets(self):
        edits = (Edit("objects", ("church",)), Edit("objects", ("sunflower",), ("church",)))
        return [Target("sequential", edits[:1]), Target("sequential", edits)]


class FewAtOnce(Plan):
    """Of each list, in one style, two objects that are erased, one that is known, and one that is not."""

    @property
    def pairs(self):
        edits = [target.edits[0] for target in self.targets]
        names = [o for e in edits for o in (*e.names[:2], *e.known[:1], *unknown_of(e)[:1])]
        return [(o, "noto") for o in dict.fromkeys(names)]


@pytest.fixture(scope="module")
def model():
    """The embedded model."""
    return Model(efface.load("emoji"))


def recorded(canvas):
    return canvas.ledger.connection.execute("SELECT key, result FROM units ORDER BY key").fetchall()


def test_the_canvas_protocol_end_to_end(model, tmp_path):
    canvas = Canvas(model, Few(("uce",), seeds=1), tmp_path, sheets=True)
    canvas.run()
    lines = canvas.rows()
    assert [(n.method, n.concepts) for n in lines] == [
        ("", "all objects"), ("", "all styles"), ("uce", "church"), ("uce", "outline"),
    ]  # fmt: skip
    cells = lines[2].cells
    assert (cells["UA"].pictures, cells["IRA"].pictures, cells["CRA"].pictures) == (2, 2, 4)
    assert cells["bytes"] == (tmp_path / "erasures" / "uce-church.safetensors").stat().st_size
    assert cells["peak MB"] > 50
    assert cells["seconds"] > 0 < cells["s a picture"]
    assert lines[0].cells["UA"].pictures == 4
    assert lines[0].cells["UA"].value == pytest.approx(1 - lines[0].cells["IRA"].value)
    assert len(list((tmp_path / "sheets").iterdir())) == 3
    text = forms.markdown(lines)
    assert text.count("\n") == 5
    assert "nan" not in text
    assert cost(model, canvas.plan, tmp_path).missing == 0
    before = recorded(canvas)
    again = Canvas(model, Few(("uce",), seeds=1), tmp_path)
    again.run()
    assert again.rows() == lines
    assert recorded(again) == before
    with pytest.raises(EffaceError, match="holds a run with seeds 1, this one has 2: name another folder"):
        Canvas(model, Few(("uce",), seeds=2), tmp_path)
    assert runs.read(tmp_path).plan["methods"] == ["uce"]
    Canvas(model, Few(("rece",), seeds=1), tmp_path)
    assert runs.read(tmp_path).plan["methods"] == ["uce", "rece"]


@pytest.mark.slow
def test_attacks_may_be_added_to_a_run(model, tmp_path):
    canvas = Canvas(model, Few(("uce",), seeds=1), tmp_path)
    canvas.run()
    before = canvas.rows()
    team = RedTeam(("synonyms", "ring-a-bell"), "quick", Samples(2, sanity=1))
    said = []
    attack_all(canvas, team, progress=lambda done, line: said.append(done))
    assert said == sorted(said)
    assert said[-1] == pytest.approx(1)
    lines = canvas.rows()
    assert len(lines) == len(before)
    for was, now in zip(before, lines, strict=True):
        assert {name: now.cells[name] for name in was.cells} == was.cells
        assert (len(now.cells) > len(was.cells)) == (now.method == "uce")
    found = Findings.load(tmp_path / "attacks" / "uce-church" / "synonyms" / "findings.json")
    cells = lines[2].cells
    assert (cells["ASR synonyms"], cells["synonyms gained"]) == (found.asr, found.gained)
    assert cells["synonyms sanity"].value == min(found.sanity.unerased.value, found.sanity.weak.value)
    assert ("synonyms cost" in cells) == (found.per_success is not None)
    assert "ASR synonyms" in forms.markdown(lines)
    assert broken_in(tmp_path) == [
        f"{name} is broken on {', '.join(names)}: its failures there say nothing about robustness."
        for name, names in broken(tmp_path, ("ring-a-bell", "synonyms")).items()
    ]
    with pytest.raises(UsageError, match="holds another attack"):
        attack_all(canvas, RedTeam(("synonyms",), "canvas", Samples(2)))


def broken(folder, names):
    """Attack -> concepts on which its findings say it is broken, those with any."""
    paths = [(name, stem) for name in names for stem in ("uce-church", "uce-outline")]
    data = [
        (name, json.loads((folder / "attacks" / stem / name / "findings.json").read_text())) for name, stem in paths
    ]
    marked = {name: [d["concept"] for n, d in data if n == name and d["broken"]] for name in names}
    return {name: concepts for name, concepts in marked.items() if concepts}


@pytest.mark.slow
def test_one_after_the_other(model, tmp_path):
    canvas = Canvas(model, FewInARow(("uce",), seeds=1, mode="sequential"), tmp_path)
    canvas.run()
    _, first, both = canvas.rows()
    assert (first.concepts, both.concepts) == ("church", "church, sunflower")
    assert (first.cells["UA"].pictures, both.cells["UA"].pictures) == (2, 4)
    assert both.cells["IRA"].pictures == 0
    assert both.cells["bytes"] > first.cells["bytes"]
    units = {
        len(json.loads(unit)["erasures"]) for (unit,) in canvas.ledger.connection.execute("SELECT unit FROM units")
    }
    assert units == {0, 1, 2}


@pytest.mark.slow
def test_lists_at_once(model, tmp_path):
    plan = FewAtOnce(("joint", "gated"), seeds=1, mode="many", counts=(2,), draws=2)
    canvas = Canvas(model, plan, tmp_path)
    canvas.run()
    rows = canvas.rows()
    names = [(row.method, row.concepts) for row in rows]
    draws = ["2 of 64, draw 0", "2 of 64, draw 1"]
    assert names == [
        ("", "all objects"), *((m, d) for m in ("joint", "gated") for d in draws),
        ("joint", "2 lists of 2"), ("gated", "2 lists of 2"),
    ]  # fmt: skip
    first = rows[1].cells
    assert first["gone"].pictures == 2
    counted = [first[name].pictures for name in ("gone", "kept known", "kept unknown")]
    assert sum(counted) == len(plan.pairs) == first["gone"].pictures + first["style"].pictures
    assert min(counted) > 0
    assert {"kept known drop", "kept unknown drop", "intact", "worst drop", "identical", "seconds"} <= set(first)
    assert first["identical"].value < 1  # one map for every prompt
    gated = canvas.erasure("gated", plan.targets[0].edits[0])
    origin = efface.Erasure.load(gated).provenance
    known = plan.targets[0].edits[0].known
    assert set(origin.keep) == {caption(name, style) for name in known for style in (None, *STYLES)}
    assert origin.config["prior"] == "never"
    assert rows[3].cells["identical"].value == origin.notes["identical"] > 0.9
    remarks = canvas.results.remarks()
    assert len(remarks) == 4
    assert all("suffered" in remark for remark in remarks)
    again = Canvas(model, plan, tmp_path)
    again.run()
    assert again.rows() == rows


@pytest.mark.slow
def test_a_list_that_is_refused_is_a_result(model, tmp_path):
    plan = FewAtOnce(("gated", "uce"), seeds=1, mode="many", counts=(2,))
    canvas = Canvas(model, plan, tmp_path, {"gated": {"margin": 1.9}})
    canvas.run()
    assert [row.method for row in canvas.rows()] == ["", "uce"]
    refused, other = canvas.results.remarks()
    assert refused.startswith("gated, 2 of 64, draw 0: refused, the text encoder does not tell")
    assert "suffered" in other
    again = Canvas(model, plan, tmp_path)  # by other options it may be
    again.run()
    assert [row.method for row in again.rows()] == ["", "gated", "uce"]
    with pytest.raises(UsageError, match="margin"):
        Canvas(model, plan, tmp_path / "other", {"gated": {"margin": 5.0}}).run()


def test_draws_are_nested_and_what_survives_is_halved():
    plan = Plan(("joint",), seeds=1, mode="many", draws=2)
    edits = [target.edits[0] for target in plan.targets]
    assert [len(edit.names) for edit in edits] == [k for k in (1, 5, 10, 20, 40) for _ in range(2)]
    order = list(NOUNS)
    random.Random(1).shuffle(order)
    for edit in edits[1::2]:
        assert edit.names == tuple(order[: len(edit.names)])
        known, unknown = edit.known, unknown_of(edit)
        naming = ["clinking beer mugs"] if "beer mug" in edit.names and "clinking beer mugs" not in edit.names else []
        assert sorted((*edit.names, *known, *unknown, *naming)) == sorted(NOUNS)
        assert len(known) - len(unknown) in (0, 1)
    assert plan.pictures == 64 * 3 * (1 + 10)
    assert Plan(("joint",), mode="many", quick=True).pictures == 64 * (1 + 2)
    fields = {"counts": (63,)}, {"counts": (0,)}, {"draws": 0}
    for wrong in fields:
        with pytest.raises(UsageError, match="expected"):
            Plan(("joint",), mode="many", **wrong)
    with pytest.raises(UsageError, match="of the mode many"):
        Plan(("joint",), counts=(3,))
    assert "counts" not in Plan(("uce",)).to_json()  # as in folders from before


def test_what_names_an_erased_object_is_no_survivor():
    assert "clinking beer mugs" not in survivors(("beer mug",))
    assert len(survivors(("beer mug",))) == len(NOUNS) - 2
    assert len(survivors(("clinking beer mugs",))) == len(NOUNS) - 1


def test_the_plan_counts_its_pictures():
    assert Plan(("uce", "rece"), seeds=2).pictures == 360 * (1 + 2 * 29)
    assert Plan(("uce",), seeds=5).pictures == 900 * 30
    assert Plan(("uce",), mode="pairs").pictures == 360 * 21
    assert Plan(("uce",), mode="sequential").pictures == 360 * 13
    assert Plan(("uce",), mode="together").pictures == 360 * 3
    quick = Plan(("uce",), quick=True)
    assert quick.pictures == len(quick.pairs) * (1 + 4 + 2)


@pytest.mark.parametrize("mode", ["single", "pairs", "sequential", "together", "many"])
@pytest.mark.parametrize("quick", [False, True])
def test_every_row_has_prompts_of_what_it_erases_and_of_what_it_keeps(mode, quick):
    plan = Plan(("uce",), quick=quick, mode=mode)
    labels = {}
    for target in plan.targets:
        if target.kind == "pairs":
            assert target.gone in plan.pairs
        else:
            side = 0 if target.kind == "objects" else 1
            assert set(target.gone) <= {pair[side] for pair in plan.pairs}
            assert {pair[side] for pair in plan.pairs} - set(target.gone)
        for edit in target.edits:
            assert labels.setdefault(edit.label, edit) == edit  # a file name says what is in it
    titles = [target.title for target in plan.targets]
    assert len(set(titles)) == len(titles)


def test_one_concept_alone_is_the_canvass_own():
    assert concepts_of(Edit("objects", ("church",))) == emoji_concepts("church")
    assert concepts_of(Edit("styles", ("noto",))) == emoji_concepts("noto")


@pytest.mark.parametrize(
    "target", [t for mode in ("sequential", "together") for t in targets_of(mode, {}, quick=False)]
)
def test_nothing_that_is_gone_is_kept_or_takes_anothers_place(target):
    side = 0 if target.kind == "objects" else 1
    for edit in target.edits:
        gone = {*edit.before, *edit.names}
        for concept in concepts_of(edit):
            spoken = {caption(o, s): (o, s) for o in BENCHMARK for s in STYLES}
            assert not {spoken[text][side] for text in concept.keep if text in spoken} & gone
            assert not {spoken[text][side] for text in concept.neutral if text in spoken} & gone
            assert len(concept.neutral) == len(concept.templates)
            assert {text for text in spoken if spoken[text][side] not in gone} <= set(concept.keep)


def test_anchors_that_are_gone_are_followed_to_one_that_is_left():
    line = ["blob"]
    while anchor_of(line[-1]) not in line:
        line.append(anchor_of(line[-1]))
        assert remaining_anchor("blob", line[:-1], STYLES) == line[-1]
    assert remaining_anchor("blob", line, STYLES) == next(
        s for s in STYLES if s not in line
    )  # the anchors have come round
    assert all(
        remaining_anchor(name, names, KINDS[kind]) not in names for kind, names in TOGETHER.items() for name in names
    )
    assert all(len(set(names)) == 6 for names in SEQUENCES.values())


def test_a_pair_is_erased_in_its_style_alone():
    (concept,) = concepts_of(Edit("pairs", ("apple", "noto")))
    assert concept.prompts() == [caption("apple", "noto")]
    assert concept.neutral == (caption("apple", anchor_of("noto")),)
    assert caption("apple", "noto") not in concept.keep
    assert {caption("apple", "blob"), caption("rose", "noto"), caption("apple")} <= set(concept.keep)
    assert len({thing for thing, _ in PAIRS}) == 20
    assert len({style for _, style in PAIRS}) == 9


def test_the_cost_is_of_what_is_missing(model, tmp_path):
    plan = Few(("uce",), seeds=1)
    before = cost(model, plan, tmp_path / "run", sheets=True)
    assert (before.unerased, before.erased, before.erasures, before.missing) == (4, 8, 2, 12)
    assert not (tmp_path / "run").exists()
    assert before.seconds == pytest.approx(12 * before.seconds_each)
    halved = cost(model, plan, tmp_path / "run", devices=2)
    assert halved.seconds == pytest.approx(6 * halved.seconds_each)
    assert halved.bytes < before.bytes < 12 * 20_000


def test_bad_options(capsys):
    assert main(["bench", "canvas", "--method", "ecer"]) == 2
    assert main(["bench", "canvas", "--seeds", "0", "--plan"]) == 2
    assert main(["bench", "canvas", "--counts", "5", "--plan"]) == 2
    assert main(["bench", "canvas", "--mode", "many", "--counts", "70", "--plan"]) == 2
    assert main(["bench", "canvas", "--engine", "ray", "--workers", "0", "--plan"]) == 2
    assert "workers is 0" in capsys.readouterr().err
