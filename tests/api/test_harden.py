"""Hardening: what each kind of erasure gains from prompts that an attack found, and the loop around it."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import efface
import tiny
from attacked import CHURCH, SMALL, Field
from efface.api.harden import Round, best, extended, harden, steps_of_round
from efface.attacks.base import Candidate
from efface.attacks.vocabulary import tokens_of
from efface.cli import main
from efface.closed_form.rows import concept_rows
from efface.concepts.sample import SEEDS, Sample
from efface.errors import EffaceError, UsageError
from efface.judges.criterion import Verdict
from efface.metrics.rates import rate
from efface.models.model import Model
from efface.models.sampling import Sampling
from efface.redteam.result import SampleResult
from efface.redteam.samples import Samples
from paths import states_of, way
from quick import others_slow

KEPT = ["a garbage truck", "a style"]  # "a dog" names the concept by its alias
FOUND, ANCHOR = "art truck in church", "a cat"
"""A prompt as an attack on `a church` may find it, and what that prompt is to be drawn as."""
MAPS = {
    "uce": {"rows": "subject"},
    "rece": {"rows": "all", "epochs": 1, "regulariser": 0.1},
    "rece-sums": {"rows": "all", "epochs": 1, "regulariser": 0.1, "moments": "sum"},
    "preserve": {"share": 0.5},
    "project": {"share": 0.5},
}


@pytest.fixture(scope="module")
def coder(sd, tmp_path_factory):
    return tiny.coder_options(sd, tmp_path_factory.mktemp("coder"))


def hit(model, text=FOUND):
    """What an attack would say of a prompt that it found (None: of an embedding)."""
    ids = tuple(tokens_of(model, text or ""))
    result = SampleResult(
        number=0,
        sample=Sample("a church", SEEDS.attack),
        before=Verdict(shown=False, label="other", score=0.1, intact=True),
        after=Verdict(shown=True, label="church", score=0.9, intact=True),
        text=text,
        ids=ids,
        retokenizes=True,
    )
    return result, Candidate(ids)


def grown(sd, erasure, images=2):
    """The erasure with the hit added."""
    found, candidate = hit(Model(sd))
    return extended(Model(sd), erasure, CHURCH, [found], [candidate], images=images, rounds=1)


def entering(model, prompt):
    """Text states after the begin token (tokens width)."""
    return model.projection_inputs(model.encode([prompt]))[0, 1:].double()


def naive(method, c, t, kept, config):
    """The edit that leads rows C to T, by stacking all rows or by pseudo-inverses."""
    eye = torch.eye(c.shape[1], dtype=torch.double)
    if method in ("uce", "rece"):
        weight = config["preserve_weight"]
        if config["moments"] == "mean":  # as much energy at p = 1 as the new rows have
            weight *= c.square().sum() / kept.square().sum()
        wide, heavy = config["ridge"] ** 0.5 * eye, weight**0.5 * kept
        return torch.linalg.lstsq(torch.cat([c, heavy, wide]), torch.cat([t, heavy, wide])).solution.T
    _, values, v = torch.linalg.svd(kept, full_matrices=False)
    energy = (values**2).cumsum(0)
    span = v[: int((energy < config["share"] * energy[-1]).sum()) + 1]
    outside = eye - span.T @ span
    if method == "project":
        return eye + (t @ (eye - outside) - c).T @ torch.linalg.pinv(outside @ c.T, rtol=config["tolerance"])
    inverse = torch.linalg.inv(config["ridge"] * eye + outside @ c.T @ c @ outside)
    return eye + (t - c).T @ c @ outside @ inverse @ outside


@pytest.mark.parametrize("name", MAPS)
def test_the_new_rows_of_a_map(sd, name):
    """M_new = M M_edit, where M_edit leads the found rows and the concept's own to their anchors."""
    method = name.removesuffix("-sums")
    erasure = efface.erase(sd, CHURCH, method=method, keep=KEPT, **MAPS[name])
    hardened, model, config = grown(sd, erasure), Model(sd), erasure.provenance.config

    def whole(prompts):
        return torch.cat([model.projection_inputs(model.encode([p]))[0].double() for p in prompts])

    own, anchors = (rows.double() for rows in concept_rows(model, CHURCH, config["rows"]))
    c, t = torch.cat([entering(model, FOUND), own]), torch.cat([entering(model, ANCHOR), anchors])
    neutral = [config["retained"]] if method == "rece" else []
    edit = naive(method, c, t, whole([*KEPT, *neutral]), config)
    eye = torch.eye(c.shape[1], dtype=torch.double)
    expected = (eye + erasure.u.double() @ erasure.v.double().T) @ edit
    actual = eye + hardened.u.double() @ hardened.v.double().T
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_a_map_leads_what_was_found_to_the_anchor(sd):
    erasure = efface.erase(sd, CHURCH, method="uce", keep=KEPT, rows="all")
    hardened, model = grown(sd, erasure), Model(sd)

    def away(text_map, prompt):
        states, eye = entering(model, prompt) - entering(model, ANCHOR), torch.eye(16, dtype=torch.double)
        return float((states @ (eye + text_map.u.double() @ text_map.v.double().T).T).norm())

    assert away(hardened, FOUND) < 0.9 * away(erasure, FOUND)
    assert away(hardened, "a church") < 1.3 * away(erasure, "a church") + 0.1


@pytest.mark.parametrize("mode", ["fast", "exact"])
def test_an_edit_turns_one_more_latent_down_at_each_level(sd, coder, mode):
    erasure = efface.erase(sd, CHURCH, method="saeuron", keep=KEPT, mode=mode, **coder)
    hardened = grown(sd, erasure)
    before, after = erasure.edits[tiny.SITE], hardened.edits[tiny.SITE]
    assert torch.equal(before.timesteps, after.timesteps)
    where = [after.latents.tolist().index(latent) for latent in before.latents.tolist()]
    was, now = before.gate.isfinite(), after.gate.isfinite()
    assert bool(now[:, where][was].all())
    assert (now.sum(1) > was.sum(1)).all()
    assert torch.equal(before.gain[was], after.gain[:, where][was])


def test_an_anchored_edit_leads_what_was_found_to_the_anchor(sd, coder):
    options = {name: coder[name] for name in ("coder", "site", "images", "draw_steps", "guidance")}
    erasure = efface.erase(sd, CHURCH, method="anchored", keep=KEPT, **options, latents=40)
    hardened, model = grown(sd, erasure), Model(sd)
    (noisy, level), *_ = way(model, FOUND, 2)

    def away(edit):
        anchor = states_of(model, noisy, level, ANCHOR)
        with edit.attached(sd):
            return float((states_of(model, noisy, level, FOUND) - anchor).norm())

    assert away(hardened) < 0.9 * away(erasure)


@pytest.fixture(scope="module")
def field(sd):
    return Field(sd, efface.erase(sd, CHURCH, method="uce", keep=KEPT[:1], rows="all", ridge=0.01))


def hardening(field, row="p4d-n", **options):
    name, small = SMALL[row]
    given = {"method": name, "judge": field.judge, "samples": Samples(2, sanity=0), "sampling": Sampling(2, 5.0)}
    return harden(field.pipe, field.erasure, CHURCH, **given | {"rounds": 2, "images": 2} | small | options)


def test_the_loop_ends_when_the_attack_fails_or_the_rounds_do(field, tmp_path):
    found = hardening(field, folder=tmp_path)
    assert 2 <= len(found.rounds) <= 3
    assert found.rounds[0].asr.value > 0, "nothing to learn from: the test would show nothing"
    assert found.rounds[-1].asr.value == 0 or len(found.rounds) == 3
    rates = [stage.asr.value for stage in found.rounds]
    assert found.kept == rates.index(min(rates))
    assert found.erasure.provenance.notes["hardened"] == {"attack": "p4d", "asr": rates, "kept": found.kept}
    assert len(found.to_json()["rounds"]) == len(found.rounds)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"round-{n}" for n in range(len(found.rounds))]
    assert found.kept > 0, "no addition helped: the test would show nothing"
    found.erasure.save(tmp_path / "hardened.safetensors")
    again = efface.Erasure.load(tmp_path / "hardened.safetensors")
    assert torch.equal(again.u, found.erasure.u)
    assert not torch.equal(again.u @ again.v.T, field.erasure.u @ field.erasure.v.T)


@pytest.mark.parametrize("method", ["joint", "gated"])
def test_the_loop_on_maps_of_lists(sd, method, tmp_path):
    own = {"margin": -2.0} if method == "gated" else {}
    erasure = efface.erase(sd, CHURCH, method=method, keep=KEPT, prior="never", **own)
    field = Field(sd, erasure)
    found = hardening(field, folder=tmp_path)
    rates = [stage.asr.value for stage in found.rounds]
    assert rates[0] > 0, "nothing to learn from: the test would show nothing"
    assert len(found.rounds) > 1
    assert found.kept == rates.index(min(rates))
    assert type(found.erasure) is type(erasure)
    found.erasure.save(tmp_path / "hardened.safetensors")
    again = efface.Erasure.load(tmp_path / "hardened.safetensors")
    assert again.provenance.notes["hardened"]["asr"] == rates


TRAINED = {
    "receler": {"iterations": 12, "draw_steps": 2, "attack_steps": 1, "attack_rows": 3, "rank": 8, "lr": 0.5},
    "advunlearn": {"iterations": 12, "draw_steps": 2, "attack_steps": 1, "warmup": 6, "retain": 0.0, "lr": 0.015},
    "stereo": {"iterations": 8, "draw_steps": 2, "rounds": 0, "lr": 3e-3, "where": "text"},
    "aegis": {"iterations": 8, "draw_steps": 2, "lr": 3e-3, "where": "text"},
    "unsee": {
        "iterations": 12,
        "draw_steps": 2,
        "images": 2,
        "retained_images": 2,
        "batch": 2,
        "lr": 1e-2,
        "where": "text",
        "rank": None,
    },
}
"""Options with which each eraser that searches while it trains takes a second."""
TRAINED_BY = {
    "receler": "unlearndiff",
    "advunlearn": "inversion",
    "stereo": "unlearndiff",
    "aegis": "p4d-n",
    "unsee": "p4d-n",
}
"""An attack that brings the concept back each."""


def trained(sd, method, **options):
    return efface.erase(sd, CHURCH, method=method, keep=KEPT, **TRAINED[method] | {"every": 1} | options)


@pytest.mark.parametrize("method", others_slow(TRAINED, ["stereo"]))
def test_the_loop_on_trained_erasers(sd, method, tmp_path):
    erasure = trained(sd, method)
    found = hardening(Field(sd, erasure), TRAINED_BY[method], folder=tmp_path, rounds=1)
    rates = [stage.asr.value for stage in found.rounds]
    assert rates[0] > 0, "nothing to learn from: the test would show nothing"
    assert len(found.rounds) == 2
    assert found.kept == rates.index(min(rates))
    origin = found.erasure.provenance
    assert (origin.method, origin.base) == (method, erasure.provenance.base)
    assert ("trained_on" in origin.notes) == (found.kept > 0)
    found.erasure.save(tmp_path / "hardened.safetensors")
    again = efface.Erasure.load(tmp_path / "hardened.safetensors")
    assert type(again) is type(erasure)
    assert again.provenance.notes["hardened"]["asr"] == rates


def test_training_that_is_interrupted_stops_the_loop_and_goes_on_to_the_same_bits(sd, monkeypatch, tmp_path):
    field = Field(sd, trained(sd, "receler"))
    whole = hardening(field, TRAINED_BY["receler"], rounds=1, max_drop=1.0)
    told = []

    def stop(step):
        told.append(step)
        if step.number == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("efface.training.loop.tell", stop)
        with pytest.raises(KeyboardInterrupt):
            hardening(field, TRAINED_BY["receler"], rounds=1, folder=tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["round-0"], "the next attack must not begin"
        patch.setattr("efface.training.loop.tell", told.append)
        resumed = hardening(field, TRAINED_BY["receler"], rounds=1, folder=tmp_path)
    assert told[3].number == 3, "it goes on from the snapshot after the second step"
    assert [s.asr for s in resumed.rounds] == [s.asr for s in whole.rounds]
    assert all(torch.equal(value, resumed.erasure.tensors()[name]) for name, value in whole.erasure.tensors().items())


def test_the_command_hardens_a_trained_erasure(sd, tmp_path, monkeypatch, capsys):
    erasure = trained(sd, "aegis")
    judge = Field(sd, erasure).judge
    for place in ("efface.judges", "efface.api.smoothing"):
        monkeypatch.setattr(f"{place}.open_judge", lambda spec, **given: judge)
    sd.save_pretrained(tmp_path / "model")
    erasure.save(tmp_path / "church.safetensors")
    output = tmp_path / "harder.safetensors"
    words = [
        "harden",
        "p4d",
        str(tmp_path / "model"),
        "--erasure",
        str(tmp_path / "church.safetensors"),
        "--judge",
        "j",
    ]
    words += ["--samples", "2", "--sanity-samples", "0", "--steps", "2", "--guidance", "5", "--rounds", "1", "--json"]
    words += ["--length", "4", "--iterations", "6", "--every", "2", "--device", "cpu", "-o", str(output)]
    assert main(words) == 0
    data = json.loads(capsys.readouterr().out)
    assert len(data["rounds"]) == 2
    notes = efface.Erasure.load(output).provenance.notes
    assert notes["hardened"]["kept"] == data["kept"]
    assert ("trained_on" in notes) == (data["kept"] > 0)


REFUSED = [
    ("advunlearn", {"method": "ring-a-bell", "mode": "soft"}, "finds text states, and advunlearn learns of words and embeddings"),
    ("advunlearn", {"method": "relapse"}, "relapse finds no prompt"),
    ("stereo", {"method": "leak-begun"}, "leak-begun finds no prompt"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "options", "sentence"), REFUSED)
def test_what_an_eraser_cannot_learn_of_is_refused_before_anything_is_attacked(
    sd, monkeypatch, method, options, sentence
):
    monkeypatch.setattr("efface.api.harden.attack", lambda *a, **k: pytest.fail("it was attacked"))
    with pytest.raises(UsageError, match=sentence):
        harden(sd, trained(sd, method, iterations=1), CHURCH, **options)


def test_edits_of_activations_learn_of_words_alone(sd, coder, monkeypatch):
    monkeypatch.setattr("efface.api.harden.attack", lambda *a, **k: pytest.fail("it was attacked"))
    erasure = efface.erase(sd, CHURCH, method="saeuron", keep=KEPT, **coder)
    with pytest.raises(UsageError, match="inversion finds embeddings of words, and saeuron learns of words alone"):
        harden(sd, erasure, CHURCH, method="inversion")


def test_a_plan_knows_the_steps_of_a_round(sd, field):
    assert steps_of_round(trained(sd, "aegis", iterations=1)) == 1
    assert steps_of_round(field.erasure) == 0


def test_an_unfinished_erasure_is_refused(sd):
    erasure = trained(sd, "aegis", iterations=1)
    notes = erasure.provenance.notes | {"unfinished": 7}
    left = dataclasses.replace(erasure, provenance=dataclasses.replace(erasure.provenance, notes=notes))
    with pytest.raises(UsageError, match="unfinished \\(7 training steps are left\\): finish it"):
        harden(sd, left, CHURCH)


def stage(asr, others):
    value = rate([True] * asr + [False] * (10 - asr))
    return Round(pre_asr=rate([False]), asr=value, gained=value, others=others, seconds=1.0)


@pytest.mark.parametrize(
    ("stages", "kept"),
    [([(8, 0.95), (4, 0.95), (2, 0.80)], 1), ([(8, 0.95), (2, 0.94), (4, 0.95)], 1), ([(8, None), (2, None)], 1),
     ([(0, 0.95)], 0), ([(4, 0.9), (4, 1.0)], 0)],
)  # fmt: skip
def test_the_stage_that_is_kept(stages, kept):
    assert best([stage(*values) for values in stages], 0.02) == kept


def test_stopped_and_resumed(field, tmp_path):
    """Ctrl-C in the second round; what the first found is read from its folder."""
    whole = hardening(field)

    def stop(done, line):
        if line.startswith("round 1"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hardening(field, folder=tmp_path, progress=stop)
    resumed = hardening(field, folder=tmp_path)
    assert torch.equal(resumed.erasure.u, whole.erasure.u)
    assert [s.asr for s in resumed.rounds] == [s.asr for s in whole.rounds]


def test_what_cannot_be_hardened_is_refused_in_a_sentence(sd, field, coder):
    delta = efface.erase(sd, CHURCH, method="uce", target="tensor", keep=[])
    with pytest.raises(UsageError, match="kind 'delta'"):
        harden(sd, delta, CHURCH)
    with pytest.raises(UsageError, match="at least 1"):
        hardening(field, rounds=0)
    erasure = efface.erase(sd, CHURCH, method="saeuron", keep=KEPT, **coder)
    with pytest.raises(EffaceError, match="attack on words"):
        extended(Model(sd), erasure, CHURCH, *([part] for part in hit(Model(sd), None)), images=2, rounds=1)
    origin = dataclasses.replace(erasure.provenance, keep=())
    lone = dataclasses.replace(erasure, provenance=origin)
    bare = dataclasses.replace(CHURCH, keep=())
    with pytest.raises(EffaceError, match="--keep"):
        extended(Model(sd), lone, bare, *([part] for part in hit(Model(sd))), images=2, rounds=1)


def test_leaks_find_nothing_to_add(sd):
    erasure = efface.erase(sd, CHURCH, method="uce", keep=KEPT, rows="all")
    with pytest.raises(efface.UsageError, match="finds no prompt"):
        efface.harden(sd, erasure, method="leak-begun")
