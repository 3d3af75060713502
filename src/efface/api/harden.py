"""efface.harden: attack an erasure, add what the attack found to it, and repeat until the attack fails.

RECE is the first case of it: its attack is the closed-form derivation, and what it finds becomes new rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from efface.api.attack import attack, concept_of
from efface.attacks.base import Candidate, text_of
from efface.closed_form.nullspace import exact_outside, outside, ridge_outside, targets_inside
from efface.closed_form.ridge import Factors, Pairs, gram_of
from efface.closed_form.rows import RowRule, concept_rows, default_anchor, retained_rows
from efface.concepts.concept import Concept
from efface.erasers.base import text_map, text_width
from efface.erasures import ActivationEdit, Erasure, TextMap
from efface.errors import EffaceError, UsageError
from efface.metrics.rates import Rate
from efface.models.model import Model
from efface.models.sampling import sampling
from efface.redteam.findings import Findings, Found
from efface.redteam.run import Report
from efface.redteam.search import candidates_of
from efface.redteam.store import Book

if TYPE_CHECKING:
    from efface.erasers.saeuron import Config as SaeuronConfig
    from efface.erasures.activation import Edit
    from efface.sae.autoencoder import Coder
    from efface.sae.statistics import Statistics


class Stage(NamedTuple):
    """One round: an attack, before anything was added."""

    without: Rate
    asr: Rate
    because: Rate
    others: float | None
    """Share of pictures of other concepts of the kind that show theirs (IRA); None where no judge knows them."""
    seconds: float


@dataclass(frozen=True)
class Hardened:
    """What hardening came to."""

    erasure: Erasure
    stages: tuple[Stage, ...]
    """The first is the erasure as it was given; each of the others has one more addition."""
    kept: int
    """The stage that is returned: of those that cost the other concepts little, the one with the lowest ASR."""
    findings: Findings
    """Of its attack."""

    def to_json(self) -> dict[str, Any]:
        """Figures of every round."""
        rates = ("without", "asr", "because")
        stages = [s._asdict() | {name: getattr(s, name)._asdict() for name in rates} for s in self.stages]
        found = self.findings
        return {"attack": found.attack, "concept": found.concept, "stages": stages, "kept": self.kept}


def harden(
    pipeline: Any,
    erasure: Erasure,
    concept: str | Concept | None = None,
    *,
    rounds: int = 3,
    pictures: int = 4,
    most_lost: float = 0.02,
    folder: str | Path | None = None,
    report: Report = lambda done, line: None,
    **options: Any,
) -> Hardened:
    """Attack, add all that was found so far to the erasure as it was given, attack again.

    Args:
        pipeline: the model the erasure was made for, with nothing attached.
        erasure: a text map (closed forms: what was found becomes new rows) or an edit of activations (new statistics).
        concept: the erasure's own by default.
        rounds: additions at most.
        pictures: of each found prompt, from which new statistics are taken.
        most_lost: what an addition may cost the share of other concepts that are drawn right, where a judge knows them; one
            that costs more is shown and not returned.
        folder: of the attacks, one folder a round; a run that was stopped goes on there.
        report: called with the share that is done and a line about it.
        **options: of `efface.api.attack.attack`.

    Raises:
        UsageError: no round, or a kind of erasure that nothing can be added to.
        EffaceError: the attack is broken, or found embeddings where prompts are needed.
    """
    if rounds < 1:
        raise UsageError(f"rounds is {rounds}; expected at least 1.")
    if not isinstance(erasure, TextMap | ActivationEdit):
        raise UsageError(
            f"an erasure of kind {erasure.kind!r} cannot be hardened; expected a text map or activation edit."
        )
    meant = concept_of(concept, [erasure], pipeline)
    model, current, known = Model(pipeline), erasure, None
    made: list[tuple[Erasure, Stage, Findings]] = []
    hits: list[Found] = []
    candidates: list[Candidate] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(rounds + 1):
            place = Path(folder or scratch) / f"round-{number}"

            def told(done: float, line: str, number: int = number) -> None:
                report((number + done) / (rounds + 1), f"round {number}: {line}")

            found = attack(pipeline, current, meant, folder=place, report=told, known_sanity=known, **options)
            known = found.sanity
            if known is not None and known.broken:
                raise EffaceError(f"the attack cannot be learnt from; it is {known.verdict}.")
            others = others_shown(pipeline, current, meant)
            stage = Stage(found.without, found.asr, found.because, others, found.cost.seconds)
            made.append((current, stage, found))
            new = [t for t in found.tries if t.looks and t.after.shown]
            if not new or number == rounds:
                break
            hits, candidates = [*hits, *new], [*candidates, *candidates_of(Book(place, None), new)]
            current = added(model, erasure, meant, hits, candidates, pictures, number + 1)
    return _kept(made, most_lost)


def _kept(made: Sequence[tuple[Erasure, Stage, Findings]], most_lost: float) -> Hardened:
    """The best of what was made, with the story of it in its notes."""
    stages = tuple(stage for _, stage, _ in made)
    kept = best(stages, most_lost)
    hardened, _, findings = made[kept]
    rates = [s.asr.value for s in stages]
    notes = hardened.provenance.notes | {"hardened": {"attack": findings.attack, "asr": rates, "kept": kept}}
    hardened = replace(hardened, provenance=replace(hardened.provenance, notes=notes))
    return Hardened(hardened, stages, kept, findings)


def best(stages: Sequence[Stage], most_lost: float) -> int:
    """The first stage of the lowest ASR among those that cost the other concepts at most so much."""
    first = stages[0].others or 0.0
    allowed = [n for n, s in enumerate(stages) if s.others is None or first - s.others <= most_lost]
    return min(allowed, key=lambda n: stages[n].asr.value)


def added(
    model: Model,
    erasure: Erasure,
    concept: Concept,
    hits: Sequence[Found],
    candidates: Sequence[Candidate],
    pictures: int,
    latents: int,
) -> Erasure:
    """The erasure with what attacks found added to it; an edit of activations gets so many more latents at each level."""
    if isinstance(erasure, TextMap):
        rule = erasure.provenance.config.get("rows", "all")
        return with_rows(model, erasure, new_rows(model, concept, hits, candidates, rule))
    assert isinstance(erasure, ActivationEdit)
    return with_statistics(model, erasure, concept, hits, pictures, latents)


def new_rows(
    model: Model, concept: Concept, hits: Sequence[Found], candidates: Sequence[Candidate], rule: RowRule
) -> Pairs:
    """States of what was found, and of the prompts that take the concept's place, position by position after the begin
    token (where every prompt is alike); and the concept's own rows, which the new edit reads first too."""
    found, wanted = model.entering(text_of(model, candidates)), model.entering(model.encode(anchors_of(concept, hits)))
    pairs = [(c[1:].detach(), t[1:]) for c, t in zip(found, wanted, strict=True)]
    return Pairs.gather([*pairs, concept_rows(model, concept, rule)])


def anchors_of(concept: Concept, hits: Sequence[Found]) -> list[str]:
    """The prompts that take the place of those that were attacked."""
    anchors = dict(zip(concept.prompts(), concept.anchors(default_anchor(concept)), strict=True))
    instead = concept.anchor or default_anchor(concept)
    return [anchors.get(hit.prompt, hit.prompt.replace(concept.name, instead)) for hit in hits]


def with_rows(model: Model, erasure: TextMap, pairs: Pairs) -> TextMap:
    """One more edit of new rows, by the erasure's own method and options, that acts on the text first."""
    origin = erasure.provenance
    config, width = origin.config, text_width(model)
    rule = config.get("keep_rows", "all")
    retained = gram_of(retained_rows(model, origin.keep, rule), width)
    if "share" in config:
        free = outside(retained, config["share"]).projector
        if "tolerance" in config:
            edit = exact_outside(targets_inside(pairs, free), free, config["tolerance"])
        else:
            edit = ridge_outside(pairs, free, config["ridge"])
    else:
        if config.get("retained") is not None:
            retained += gram_of(retained_rows(model, [config["retained"]], rule), width) * len(origin.concepts)
        weights = {"erase": config["erase_weight"], "preserve": config["preserve_weight"], "ridge": config["ridge"]}
        edit = pairs.edit(retained, **weights)
    return text_map(origin, Factors(erasure.u.double(), erasure.v.double()).then(edit))


def with_statistics(
    model: Model, erasure: ActivationEdit, concept: Concept, hits: Sequence[Found], images: int, latents: int
) -> ActivationEdit:
    """More latents at every site, those that speak most of pictures of the found prompts, beside those turned down already;
    an anchored edit is fitted again with the found prompts beside the concept's own.

    Raises:
        EffaceError: the attack found embeddings, or there is nothing to compare the found prompts with.
    """
    from efface.erasers.saeuron import Config, made_edits
    from efface.sae.harvest import HarvestConfig
    from efface.sae.lookup import open_coder
    from efface.sae.statistics import Labelled, statistics
    from efface.steering.statistics_source import known_statistics, taken_statistics

    hits = [hit for hit in hits if hit.text is not None]
    prompts = [str(hit.text) for hit in hits]
    if not prompts:
        raise EffaceError("the attack found embeddings; new statistics need prompts: harden with an attack on words.")
    origin = erasure.provenance
    kept = origin.keep or concept.keep
    if not kept:
        raise EffaceError("hardening needs prompts of what is kept, to compare the found ones with (--keep).")
    known = {name: value for name, value in origin.config.items() if name in Config.__dataclass_fields__}
    config = Config(**known)
    coders = {site: open_coder(config.coder, site)[0] for site in erasure.edits}
    if config.gain == "anchored":
        config = replace(config, keep=tuple(kept))
        measured = known_statistics(config, list(coders), origin.concepts)
        measured = measured or taken_statistics(model, coders, origin.concepts, config)
        instead = zip(prompts, anchors_of(concept, hits), strict=True)
        edits = made_edits(model, coders, measured, origin.concepts, config, list(instead))
        return ActivationEdit(origin, edits, erasure.coders)
    texts = [(p, concept.name) for p in prompts] + [
        (kept[i * len(kept) // len(prompts)], "") for i in range(len(prompts))
    ]
    pictures = [Labelled(text, (name,), config.seed + i) for text, name in texts for i in range(images)]
    harvest = HarvestConfig(tuple(coders), **sampling(model.pipeline, None, None))
    measured = statistics(model, coders, pictures, {concept.name: "concept", "": "concept"}, harvest)
    gamma = origin.config["gammas"][0]
    edits = {
        site: with_latents(edit, coders[site], measured[site], concept.name, config, gamma, latents)
        for site, edit in erasure.edits.items()
    }
    return ActivationEdit(origin, edits, erasure.coders)


def with_latents(
    edit: Edit, coder: Coder, measured: Statistics, concept: str, config: SaeuronConfig, gamma: float, more: int
) -> Edit:
    """An edit with more latents at each level than it has, chosen by new statistics."""
    import torch

    from efface.erasers.saeuron import Tables, merged, tables_of
    from efface.erasures.activation import HUGE

    gate = torch.where(edit.gate < HUGE, edit.gate, float("inf")).cpu()  # as files write it
    already = int(gate.isfinite().sum(1).max())
    new = tables_of(measured, coder, concept, replace(config, count=already + more), gamma)
    nearest = (measured.levels[None] - edit.levels[:, None]).abs().argmin(1)
    shape = (len(edit.levels), coder.config.latents)
    old = Tables(torch.full(shape, float("inf")), torch.ones(shape), torch.zeros(shape))
    for table, part in zip(old, (gate, edit.gain, edit.shift), strict=True):
        table[:, edit.latents.cpu()] = part.cpu()
    return merged([old, Tables(*(table[nearest] for table in new))], coder, replace(measured, levels=edit.levels))


def others_shown(pipeline: Any, erasure: Erasure, concept: Concept) -> float | None:
    """IRA of an erasure on the emoji canvas, over every other concept of the kind in a few pictures; None elsewhere."""
    from efface.profiles.emoji import is_canvas
    from efface.profiles.emoji.score import drawn, rates
    from efface.profiles.emoji.words import BENCHMARK, STYLES

    if not is_canvas(pipeline) or concept.name not in (*BENCHMARK, *STYLES):
        return None
    if concept.name in BENCHMARK:
        pairs = [(name, STYLES[(i + k) % len(STYLES)]) for k in (0, 4) for i, name in enumerate(BENCHMARK)]
    else:
        pairs = [(BENCHMARK[(5 * i + k) % len(BENCHMARK)], style) for k in range(5) for i, style in enumerate(STYLES)]
    with erasure.attached(pipeline):
        return rates(drawn(Model(pipeline), pairs, seeds=range(2)), concept.name).others
