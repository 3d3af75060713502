"""Leaderboards from run folders: rates against loops, paired tests, published rows, and what is refused."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from dataclasses import asdict, replace

import pytest

from efface.bench import leaderboard as tables
from efface.bench import manifest as runs
from efface.bench import published
from efface.bench import table as forms
from efface.bench.ledger import Ledger
from efface.bench.protocols import unlearncanvas
from efface.bench.protocols.canvas.plan import Plan
from efface.bench.protocols.canvas.results import results_of
from efface.bench.table import Count, Mean, Row, with_means
from efface.bench.unit import Setting, sha256_of, units_of
from efface.cli import main
from efface.errors import EffaceError, UsageError
from efface.metrics.rates import Paired, Rate, mcnemar
from small_erasure import text_map

SETTING = Setting("base", "float32", "scheduler", 12, 3.0, None, None, ("object: o-1", "style: s-1"), 1)


def verdict(pair, number, gone, shift):
    """What made-up judges see: erased things are mostly gone, and a few others are wrong."""
    thing, style = pair
    lost = bool({thing, style} & set(gone)) and (number + shift) % 4 > 0
    wrong = (number + 3 * shift) % 7 == 0 and bool(gone)
    label = "blob of paint" if lost or wrong else thing
    sure = 0.99 if number % 3 == 0 else 0.8
    return {
        "object": {"label": label, "score": sure, "intact": (number + shift) % 5 > 0},
        "style": {
            "label": "none" if (lost and style in gone) or number % 11 == 0 else style,
            "score": 0.8,
            "intact": True,
        },
    }


def shown(entry, name):
    """The criterion, naively."""
    return entry["label"] == name and (entry["intact"] or entry["score"] >= 0.95)


def made_up(folder, methods, mode="single", **changes):
    """A finished quick run without pictures; methods differ by how far their verdicts are shifted."""
    plan = Plan(tuple(methods), quick=True, mode=mode)
    setting = replace(SETTING, **changes)
    folder.mkdir(exist_ok=True)
    runs.begin(folder, runs.Record.now("canvas", asdict(plan), {"family": "made up"}, setting))
    (folder / "erasures").mkdir()
    results = results_of(folder, runs.read(folder))
    results.ledger.connection.execute("PRAGMA synchronous = OFF")
    models = [((), (), 0)]
    for k, method in enumerate(methods):
        for i, target in enumerate(plan.targets):
            for j, path in enumerate(results.files(method, target)):
                if not path.exists():
                    text_map(seed=1000 * k + 10 * i + j).save(path)
            models.append((results.files(method, target), target.gone, sum(map(ord, method))))
    for files, gone, shift in models:
        number = 0
        for unit in results.units([sha256_of(path) for path in files]):
            found = []
            for _ in unit.prompts:
                found.append(verdict(plan.pairs[number], number, gone, shift))
                number += 1
            results.ledger.record(unit, found, 1.6)
    return results


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two methods."""
    return made_up(tmp_path_factory.mktemp("run") / "single", ["uce", "rece"])


def test_rates_and_drops_are_those_of_a_loop(run):
    plan = run.plan
    for line in run.rows()[2:]:
        gone, shift = {line.concepts}, sum(map(ord, line.method))
        count = dict.fromkeys(("gone", "kept", "ua", "ira", "was", "cra"), 0)
        for i, pair in enumerate(plan.pairs):
            own, other = ("object", "style") if line.kind == "objects" else ("style", "object")
            side = 0 if line.kind == "objects" else 1
            now, before = verdict(pair, i, gone, shift), verdict(pair, i, (), 0)
            erased = pair[side] in gone
            count["gone" if erased else "kept"] += 1
            count["ua"] += erased and not shown(now[own], pair[side])
            count["ira"] += not erased and shown(now[own], pair[side])
            count["was"] += not erased and shown(before[own], pair[side])
            count["cra"] += shown(now[other], pair[1 - side])
        cells = line.cells
        assert cells["UA"].value == pytest.approx(count["ua"] / count["gone"])
        assert cells["IRA"].value == pytest.approx(count["ira"] / count["kept"])
        assert cells["CRA"].value == pytest.approx(count["cra"] / len(plan.pairs))
        assert cells["IRA drop"].difference == pytest.approx((count["was"] - count["ira"]) / count["kept"])
        assert cells["intact"].pictures == cells["UA"].pictures == count["gone"]
        assert cells["s a picture"] == pytest.approx(1.6 * len(run.units(())) / len(plan.pairs))


@pytest.mark.parametrize(("mode", "rows"), [("pairs", 5), ("sequential", 6), ("together", 2)])
def test_the_other_modes_have_their_rows(tmp_path, mode, rows):
    results = made_up(tmp_path, ["uce"], mode)
    found = tables.finished(tmp_path)
    erased = [line for line in found.rows if line.method and line.name != "mean"]
    assert len(erased) == rows
    assert any(line.name == "mean" for line in found.rows) == (mode == "pairs")
    if mode == "pairs":
        thing, style = results.plan.targets[0].gone
        cells, pairs = erased[0].cells, results.plan.pairs
        assert list(cells)[:4] == ["UA", "OC", "SC", "UP"]
        assert cells["UA"].pictures == 1
        assert cells["OC"].pictures == sum(o == thing and s != style for o, s in pairs)
        assert cells["SC"].pictures == sum(s == style and o != thing for o, s in pairs)
        assert sum(cells[name].pictures for name in ("UA", "OC", "SC", "UP")) == len(pairs)
    if mode == "sequential":
        assert [line.cells["UA"].pictures for line in erased[:3]] == [9, 18, 27]
    results.ledger.close()


def test_two_methods_are_tested_picture_by_picture(run):
    found = tables.leaderboard([run.folder])
    tested = {(c.concept, c.column): c for c in found.comparisons}
    assert len(tested) == 6 * 3 + 2 * 3
    first, second = (sum(map(ord, method)) for method in ("uce", "rece"))
    only_first = only_second = 0
    for i, pair in enumerate(run.plan.pairs):
        if pair[0] != "church":
            a, b = (shown(verdict(pair, i, ["church"], shift)["object"], pair[0]) for shift in (first, second))
            only_first, only_second = only_first + (a and not b), only_second + (b and not a)
    ira = tested["church", "IRA"]
    assert (ira.first, ira.second) == ("uce", "rece")
    assert ira.change.p == pytest.approx(mcnemar(only_first, only_second))
    pooled = [tested[name, "UA"].change.difference for name in run.plan.concepts["objects"]]
    assert tested["all objects", "UA"].change.difference == pytest.approx(sum(pooled) / len(pooled))  # as many of each


def test_runs_stand_side_by_side(run, tmp_path):
    other = made_up(tmp_path / "again", ["uce"])
    elsewhere = made_up(tmp_path / "elsewhere", ["rece"], steps=20)
    found = tables.leaderboard([run.folder, other.folder, elsewhere.folder])
    labels = {label for c in found.comparisons for label in (c.first, c.second)}
    assert labels == {f"uce ({run.folder})", f"rece ({run.folder})", f"uce ({other.folder})"}
    same = [c for c in found.comparisons if {c.first, c.second} == {f"uce ({run.folder})", f"uce ({other.folder})"}]
    assert all(c.change.difference == 0 and c.change.p == 1 for c in same)
    assert any("elsewhere: drawn with other seeds, prompts or settings" in note for note in found.notes)
    text = tables.markdown(found)
    assert text.count("UnlearnCanvas's published rows are not beside these") == 1
    assert "mean | uce | 4 objects" in text
    assert "| uce-church |" not in text
    assert "| uce-church |" in tables.markdown(found, whole=True)
    for results in (other, elsewhere):
        results.ledger.close()


def test_the_command(run, capsys, tmp_path):
    assert main(["bench", "table", str(run.folder), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["runs"][0]["plan"]["methods"] == ["uce", "rece"]
    assert data["runs"][0]["setting"]["steps"] == 12
    assert forms.from_json(data["runs"][0]["lines"])[2].cells["UA"] == run.rows()[2].cells["UA"]
    assert data["published"] == []
    assert main(["bench", "table", str(run.folder), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["run"] for row in rows} == {str(run.folder)}
    assert [row["concepts"] for row in rows if row["erasure"] == "mean"] == ["4 objects", "2 styles"] * 2
    assert main(["bench", "table", str(run.folder)]) == 0
    assert "exact McNemar p" in capsys.readouterr().out
    assert main(["bench", "table"]) == 2
    assert main(["bench", "table", str(run.folder), str(run.folder)]) == 2
    assert "each once" in capsys.readouterr().err


def test_what_is_no_finished_run_is_refused(tmp_path, run):
    with pytest.raises(EffaceError, match="expected a run folder"):
        tables.finished(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(EffaceError, match="damaged"):
        tables.finished(tmp_path)
    data = json.loads((run.folder / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(data | {"format": 99}))
    with pytest.raises(EffaceError, match="format 99"):
        tables.finished(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(data | {"plan": data["plan"] | {"dance": 1}}))
    with pytest.raises(EffaceError, match="another version"):
        tables.finished(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps(data))
    with pytest.raises(EffaceError, match="run the protocol to its end first"):
        tables.finished(tmp_path)
    with pytest.raises(UsageError, match="0 run folders"):
        tables.leaderboard([])


def unlearncanvas_run(folder, wording="official", **changes):
    """A folder as the protocol leaves it, with made-up numbers."""
    samples = unlearncanvas.Plan(wording).samples
    setting = replace(
        SETTING,
        **{"steps": 100, "guidance": 9.0, "judges": ("style: unlearncanvas-style", "object: unlearncanvas-object")}
        | changes,
    )
    folder.mkdir()
    with contextlib.closing(Ledger(folder / "ledger.sqlite")) as ledger:
        ledger.connection.execute("PRAGMA synchronous = OFF")
        for unit in units_of(setting, (), [(s.prompt, s.seed) for s in samples], batch=100):
            ledger.record(unit, [], 0.0)
    lines = [Row("esd-1", "uce", "Van Gogh", {"UA": Rate(0.5, 0.4, 0.6, 100)}, "styles")]
    data = {"protocol": "unlearncanvas", "drawing": {"steps": setting.steps}, "rows": forms.as_json(lines)}
    (folder / "table.json").write_text(json.dumps(data))


def test_published_rows_stand_beside_the_same_protocol_alone(tmp_path):
    unlearncanvas_run(tmp_path / "official")
    found = tables.leaderboard([tmp_path / "official"])
    assert found.notes == []
    assert {line.method for line in found.published} == {
        row.method for row in published.ROWS if row.wording == "official"
    }
    text = tables.markdown(found)
    assert "| published | ESD | 50 styles | 98.6% | 81.0% | 94.0% | 65.55 | 6,163 |" in text
    assert tables.as_json(found)["published"][0]["cells"]["UA"]["value"] == pytest.approx(0.9858)
    unlearncanvas_run(tmp_path / "saeuron", "saeuron")
    theirs = tables.leaderboard([tmp_path / "saeuron"])
    assert {line.method for line in theirs.published} == {"SAeUron (v3)"}
    assert any("second-hand: UA 87.2, IRA 85.6, CRA 74.1" in note for note in theirs.notes)
    unlearncanvas_run(tmp_path / "other", steps=50, side=256)
    (note,) = tables.leaderboard([tmp_path / "other"]).notes
    assert "steps 50 instead of 100, pixels 256 instead of 512" in note
    with contextlib.closing(Ledger(tmp_path / "official" / "ledger.sqlite")) as ledger:
        units = ledger.unerased()
    assert "other prompts or seeds" in published.difference("unlearncanvas", units[:-1])
    assert published.rows_for("i2p", units) == []
    (tmp_path / "other" / "table.json").write_text("{}")
    with pytest.raises(EffaceError, match="damaged"):
        tables.finished(tmp_path / "other")


def test_lines_come_back_from_json():
    cells = {
        "a": Rate(0.5, 0.4, 0.6, 9),
        "b": Mean(3.0, 1.0, 4.0, 2),
        "c": Paired(0.1, 0.0, 0.2, 0.5),
        "d": Count(3, 2),
        "e": 7,
        "f": 1.5,
    }
    lines = [Row("x", "uce", "church", cells, "objects"), Row("y", "uce", "cat", cells, "objects")]
    assert forms.from_json(json.loads(json.dumps(forms.as_json(lines)))) == lines
    mean = with_means(lines)[2]
    assert forms.markdown(forms.from_json(forms.as_json([mean]))) == forms.markdown([mean])
