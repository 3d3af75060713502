"""The suite that every attack must pass: a row of `attacked.SMALL` is all that a new one adds."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import efface
from attacked import CHURCH, SMALL, Field
from efface.attacks import ATTACKS, LEAKS, configured
from efface.attacks.base import text_of
from efface.attacks.vocabulary import tokens_of
from efface.concepts.concept import own_words
from efface.concepts.sample import Sample
from efface.erasures import attached_to
from efface.errors import EffaceError, UsageError
from efface.judges.criterion import Verdict
from efface.metrics.rates import rate
from efface.models.sampling import Sampling
from efface.redteam.findings import Findings, Sanity
from efface.redteam.result import SampleResult
from efface.redteam.run import open_store, run
from efface.redteam.samples import Samples
from efface.redteam.search import candidates_of
from efface.redteam.store import RunStore

TEXTUAL = [row for row in SMALL if row not in ("ring-a-bell-soft", "pund", "inversion", *LEAKS)]
SEARCHING = ["ring-a-bell", "unlearndiff", "unlearndiff-suffix", "p4d-n", "mma"]


@pytest.fixture(scope="module")
def field(sd):
    return Field(sd)


@pytest.fixture(scope="module")
def found(field):
    """Findings of every row, each made once."""
    made = {}
    return lambda row: made[row] if row in made else made.setdefault(row, field.run(row))


def timeless(findings: Findings, costs: bool = True) -> dict:
    """Findings as JSON without what a clock says, and without the other costs where they may differ."""
    data = json.loads(json.dumps(findings.to_json()))
    for entry in data["samples"]:
        entry["cost"] = entry["cost"] | {"seconds": 0} if costs else {}
        entry["trace"] = [point if costs else point | {"evaluations": 0} for point in entry["trace"]]
    for point in data["curve"]:
        point["evaluations"] = point["evaluations"] if costs else 0
    return data | {"per_success": None, "cost": None}


def test_every_attack_is_in_the_suite():
    assert {name for name, _ in SMALL.values()} == set(ATTACKS.builtin) == set(ATTACKS.described())
    for name in ATTACKS.builtin:
        attack = ATTACKS.load(name)
        assert {"canvas", "quick"} <= set(attack.budgets)
        assert configured(name) == attack.config()
        assert "seed" in {f.name for f in dataclasses.fields(attack.config)}


@pytest.mark.parametrize("row", SMALL)
def test_findings(field, found, row):
    findings = found(row)
    assert findings.complete
    assert len(findings.samples) == findings.planned == 2
    assert findings.pre_asr.value == 0
    assert findings.gained.value == findings.asr.value
    assert all(t.trace and t.cost.denoiser > 0 for t in findings.samples)
    assert findings.curve[-1].done <= 1
    assert 0 <= findings.area <= 1
    scores = [(not t.after.shown, -t.after.score) for t in findings.samples]
    assert scores == sorted(scores)
    assert (findings.per_success is None) == (findings.gained.value == 0)
    assert attached_to(field.pipe) == []


@pytest.mark.parametrize("row", SMALL)
def test_findings_survive_json(found, row, tmp_path):
    findings = found(row)
    findings.save(tmp_path / "findings.json")
    assert Findings.load(tmp_path / "findings.json") == findings
    assert json.loads((tmp_path / "findings.json").read_text())["asr"]["pictures"] == 2


@pytest.mark.parametrize("row", SMALL)
def test_the_same_again(field, found, row):
    before = {k: v.clone() for k, v in field.pipe.unet.state_dict().items()}
    assert timeless(field.run(row)) == timeless(found(row))
    assert all(torch.equal(v, before[k]) for k, v in field.pipe.unet.state_dict().items())
    assert all(p.requires_grad for p in field.pipe.unet.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in field.pipe.unet.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in field.pipe.text_encoder.modules())


@pytest.mark.parametrize("row", SMALL)
def test_stopped_and_resumed(field, found, row, tmp_path):
    """Stopped after every judged round, and gone on with."""
    stops = []

    def stop(done, line):
        if done < 1:
            stops.append(done)
            raise KeyboardInterrupt

    for _ in range(10):
        try:
            findings = field.run(row, tmp_path, progress=stop)
        except KeyboardInterrupt:
            so_far = Findings.load(tmp_path / "findings.json")
            assert so_far.samples
            assert not so_far.complete  # best so far, and no end: nobody may take it for the attack's result
        else:
            break
    assert stops == sorted(set(stops))
    assert bool(stops) == (row not in ("checkpoint", *LEAKS))  # which have one look at every sample
    # What a search prepares before its first round is prepared, and paid, again.
    assert timeless(findings, costs=False) == timeless(found(row), costs=False)
    assert not list(tmp_path.glob("*-open*"))
    assert (tmp_path / "pictures" / "000-attacked.png").exists()
    assert_drawn_again(field, row, findings, tmp_path)


def assert_drawn_again(field, row, findings, folder):
    """What was found gives the picture that was judged; relapse found another model, the audit has a judge of its own, and
    leaks find no prompt."""
    candidates = candidates_of(RunStore(folder, None), findings.samples)
    for t, candidate in zip(findings.samples, candidates, strict=True):
        assert (row in TEXTUAL) == (t.text is not None)
        if row not in ("relapse-lora", "relapse-full", "checkpoint", *LEAKS):
            with field.erased.attached() as model:
                pictures = model.sample(text_of(model, [candidate]), seeds=[t.sample.seed], **field.plan.settings)
            assert field.judge(pictures).scores[0, 0].item() == pytest.approx(t.after.score, abs=0.02)


@pytest.mark.parametrize("row", ["unlearndiff", "ring-a-bell"])
def test_samples_side_by_side_find_what_each_finds_alone(field, found, row):
    alone = dataclasses.replace(field.plan, batch=1)
    other = Field(field.pipe, field.erasure)
    other.plan = alone
    assert [(t.number, t.ids) for t in other.run(row).samples] == [(t.number, t.ids) for t in found(row).samples]


@pytest.mark.parametrize("row", SEARCHING)
@pytest.mark.parametrize("vocabulary", ["words", "all"])
def test_a_search_uses_no_word_of_the_concept(field, row, vocabulary):
    tokenizer = field.pipe.tokenizer
    for t in field.run(row, vocabulary=vocabulary).samples:
        own = tokens_of(field.model, t.sample.prompt) if row.startswith("unlearndiff") else []
        free = t.ids[len(own) :] if row == "unlearndiff-suffix" else t.ids[: len(t.ids) - len(own)]
        assert [*free, *own] == list(t.ids) if row != "unlearndiff-suffix" else [*own, *free] == list(t.ids)
        texts = {text.strip() for text in tokenizer.batch_decode([[i] for i in free])}
        assert not texts & own_words(CHURCH)
        assert not set(free) & set(tokenizer.all_special_ids)
        if vocabulary == "words":
            assert t.retokenizes
            assert tokens_of(field.model, t.text) == list(t.ids)


def test_what_does_not_survive_is_reported(field):
    letters = tokens_of(field.model, "xq")  # two tokens without a space between them
    assert len(letters) == 2
    from efface.attacks.vocabulary import retokenizes, spelled

    assert retokenizes(field.model, letters)
    assert not retokenizes(field.model, letters[::-1])
    assert spelled(field.model, letters) == "xq"


def test_a_folder_of_another_attack_is_refused(field, tmp_path):
    field.run("synonyms", tmp_path)
    with pytest.raises(UsageError, match="another attack"):
        field.run("synonyms", tmp_path, most=3)
    with pytest.raises(UsageError, match="another attack"):
        field.run("checkpoint", tmp_path)


def test_a_damaged_page_is_refused(field, tmp_path):
    field.run("synonyms", tmp_path)
    page = tmp_path / "search-000.safetensors"
    page.write_bytes(page.read_bytes()[:-5])
    with pytest.raises(EffaceError, match="damaged"):
        field.run("synonyms", tmp_path)


BAD = {
    "ring-a-bell": [{"population": 3}, {"length": 0}, {"length": 99}, {"vector": "missing.npy", "mode": "soft"}],
    "unlearndiff": [{"timesteps": 0}, {"length": 99}],
    "p4d": [{"iterations": 0}, {"length": 99}],
    "pund": [{"every": 0}],
    "inversion": [{"images": 0}],
    "mma": [{"candidates": 0}, {"length": 99}],
    "relapse": [{"rank": 0}, {"harmless": ("a church",)}],
    "synonyms": [{"most": 0}],
    "checkpoint": [{"same": 0.0}],
    "leak-sr": [{"reduction": 1}, {"reduction": 3}, {"reduction": 16}],
    "leak-img2img": [{"strength": 0.0}, {"strength": 1.0}, {"strength": 0.1}, {"reduction": 0}],
    "leak-inpaint": [{"hidden": 1.0}],
    "leak-begun": [{"share": 0.0}],
    "leak-noise": [{"eta": -1.0}],
}


@pytest.mark.parametrize(("name", "options"), [(n, o) for n, rows in BAD.items() for o in rows], ids=str)
def test_bad_options(field, name, options):
    with pytest.raises(EffaceError, match=r"expected|must be at least|the model reads|could not be read|no harmless"):
        next(ATTACKS.load(name).search(field.problem(), configured(name, **options), None))


def test_bad_requests(sd, field):
    with pytest.raises(UsageError, match="unknown"):
        configured("guessing")
    with pytest.raises(UsageError, match="no budget"):
        configured("mma", "endless")
    with pytest.raises(UsageError, match="option"):
        configured("mma", speed=1)
    with pytest.raises(UsageError, match="no judge"):
        efface.attack(sd, field.erasure)
    with pytest.raises(UsageError, match="no class 'dragon'"):
        efface.attack(sd, field.erasure, efface.Concept("dragon"), judge=field.judge)
    with pytest.raises(UsageError, match="names 11 concepts"):
        efface.attack(sd, field.erasure, "unsafe", judge=field.judge)
    with pytest.raises(UsageError, match="no concept"):
        efface.attack(sd, [], judge=field.judge)


def test_nothing_to_bring_back(field):
    setup = dataclasses.replace(field.setup("checkpoint"), concept=efface.Concept("other", templates=("a {}",)))
    with pytest.raises(EffaceError, match="in none of 2 pictures"):
        run(setup, open_store(setup, None))


GONE = Verdict(shown=False, label="other", score=0.1, intact=True)
THERE = Verdict(shown=True, label="church", score=0.9, intact=True)


def findings_of(*results: SampleResult) -> Findings:
    return Findings(
        attack="mma",
        config={},
        concept="church",
        erasures=(),
        judge="j",
        settings={},
        samples=results,
        planned=len(results),
    )


def test_findings_of_format_1_are_read():
    """As earlier versions wrote them: records were lists, and the sample's fields stood among the result's."""
    old = {
        "format": 1, "attack": "mma", "config": {"seed": 0}, "concept": "church", "erasures": [{"method": "uce"}],
        "judge": "j", "settings": {"steps": 2}, "dropped": 1, "planned": 1, "searching": 0, "attempted": "concept",
        "sanity": [[1.0, 0.5, 1.0, 2], None, 0.5], "notes": {},
        "tries": [{
            "number": 0, "prompt": "a church", "seed": 40_000, "before": list(GONE), "after": list(THERE), "text": "x y",
            "ids": [3, 4], "survives": True, "tensors": None, "cost": [7, 2, 0.5], "looks": [[1.0, 9, True, 0.9]],
        }],
    }  # fmt: skip
    findings = Findings.from_json(old)
    (result,) = findings.samples
    assert result.sample == Sample("a church", 40_000, shows=("church",))
    assert (result.before, result.after, result.retokenizes) == (GONE, THERE, True)
    assert (result.cost.denoiser, result.trace[0].evaluations, result.ids) == (7, 9, (3, 4))
    assert findings.sanity == Sanity(rate([True, True])._replace(low=0.5, high=1.0), None, 0.5)
    assert findings.complete
    assert Findings.from_json(json.loads(json.dumps(findings.to_json()))) == findings
    for broken in (old | {"tries": [{}]}, old | {"tries": 3}, old | {"format": 3}):
        with pytest.raises(EffaceError, match=r"damaged|update efface"):
            Findings.from_json(broken)


def shown(*hits: bool) -> list[SampleResult]:
    return [SampleResult(n, Sample(f"prompt {n}"), GONE, THERE if hit else GONE) for n, hit in enumerate(hits)]


def test_rates_tell_what_the_attack_did_from_what_was_there():
    there = [SampleResult(2, Sample("c"), THERE, THERE), SampleResult(3, Sample("d"), THERE, GONE, text="x")]
    findings = findings_of(*shown(True, False), *there)
    assert (findings.pre_asr.value, findings.gained.value, findings.asr.value) == (0.5, 0.25, 0.75)
    every = dataclasses.replace(findings, attempted="every")
    assert every.asr.value == 0.5  # an attacked prompt that draws nothing is no success


@pytest.mark.parametrize(
    ("unerased", "weak", "broken"),
    [((True, True), (True, True), False), ((True, False), (True, True), False), ((False, False), (True, True), True),
     ((True, True), (False, False), True), ((True, True), None, False)],
)  # fmt: skip
def test_a_broken_attack_says_so(unerased, weak, broken):
    check = Sanity(rate(unerased), rate(weak) if weak is not None else None, 0.5)
    assert check.broken == broken
    assert check.verdict.startswith("broken" if broken else "sound")
    findings = dataclasses.replace(findings_of(*shown(False)), sanity=check)
    assert findings.to_json()["broken"] == broken


@pytest.mark.parametrize("row", ["synonyms", "checkpoint"])
def test_sanity_is_part_of_every_findings(sd, field, row, tmp_path):
    name, options = SMALL[row]
    findings = efface.attack(
        sd, field.erasure, method=name, judge=field.judge, samples=Samples(2, sanity=1), folder=tmp_path,
        sampling=Sampling(2, 5.0), **options,
    )  # fmt: skip
    assert findings.sanity is not None
    assert findings.sanity.unerased.pictures == 1
    assert (findings.sanity.weak is None) == (name == "checkpoint")
    assert json.loads((tmp_path / "findings.json").read_text())["verdict"] == findings.sanity.verdict
    assert (tmp_path / "sheet.png").exists()
