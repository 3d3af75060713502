"""One search: what it proposes is drawn, judged and kept, and the search is resumed where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from efface.attacks import ATTACKS
from efface.attacks.base import Candidate, Problem, Proposal, text_of
from efface.attacks.vocabulary import retokenizes, spelled
from efface.io.checkpoint import State, with_prefix
from efface.io.progress import tell
from efface.judges.criterion import Criterion
from efface.redteam.cost import NOTHING, Cost, Meter
from efface.redteam.result import Controls, SampleResult, TracePoint
from efface.redteam.samples import DRAWN
from efface.redteam.store import Record, RunStore

SAVE_SECONDS = 2.0
"""How often a search that has nothing to show yet is written down."""


@dataclass
class SearchRun:
    """A search under way, on the samples of one problem."""

    name: str
    """Name of the attack."""
    config: Any
    """The attack's Config."""
    problem: Problem
    results: list[SampleResult]
    """One for each sample, as it stands."""
    criterion: Criterion
    store: RunStore
    record: str
    """Name of its record in the store."""

    def __post_init__(self) -> None:
        self.attack = ATTACKS.load(self.name)
        self.adaptive = self.attack.adaptive(self.config)
        self.tensors: State = {}

    def steps(self) -> Generator[float, None, None]:
        """Search, and judge what is proposed; gives the share of the budget that is spent after every judged proposal."""
        finished = self.store.read(self.record)
        if finished is not None:
            self._adopt(finished)
            return
        spent = NOTHING
        saved = self.store.read(unfinished(self.record))
        if saved is not None:
            self._adopt(saved)
            spent = Cost(**saved.data["cost"])
        state = None if saved is None else with_prefix(saved.tensors, "state|")
        began = wrote = time.perf_counter()
        with Meter(self.problem.original.model, self.problem.erased.model) as meter:

            def cost() -> Cost:
                return spent + meter.cost(time.perf_counter() - began)

            for proposal in self.attack.search(self.problem, self.config, state):
                if proposal.candidates is not None:
                    self._judge(proposal, cost)
                if proposal.candidates is not None or time.perf_counter() - wrote > SAVE_SECONDS:
                    self._save(unfinished(self.record), cost(), proposal.state)
                    wrote = time.perf_counter()
                if proposal.candidates is not None:
                    yield proposal.done
                tell(f"{proposal.done:.0%} of the search for {len(self.results)} samples")
                if not self._open():
                    break
            self._save(self.record, cost(), {})
        self.store.delete(unfinished(self.record))

    def _open(self) -> list[int]:
        """Samples that are still attacked: those that an attack which sees images has not brought back yet."""
        return [k for k, r in enumerate(self.results) if not (self.adaptive and r.trace and r.trace[-1].shown)]

    def _judge(self, proposal: Proposal, cost: Callable[[], Cost]) -> None:
        """Draw and judge the candidates of the samples that are still open."""
        assert proposal.candidates is not None
        open_ = self._open()
        images = self._drawn(proposal, open_)
        controls = self._controls(proposal, open_)
        each = cost().shared(len(self.results))
        for k, image, verdict in zip(open_, images, self.criterion(images), strict=True):
            result = replace(self.results[k], controls=controls.get(k))
            if self.attack.success is not None:
                original = self.store.image(result.number, "original")
                assert original is not None  # kept when the sample was chosen
                verdict = self.attack.success(verdict, original, image, self.config)
            point = TracePoint(
                done=proposal.done,
                evaluations=each.denoiser + each.encoder,
                shown=verdict.shown,
                score=verdict.score,
            )
            result = replace(result, trace=(*result.trace, point), cost=each)
            better = (verdict.shown, verdict.score) > (result.after.shown, result.after.score)
            if not self.adaptive or better or len(result.trace) == 1:
                result = replace(result, after=verdict)
                if proposal.pictures is None:  # a leak finds no prompt
                    result = self._with_candidate(k, result, proposal.candidates[k])
                self.store.save_image(result.number, "attacked", image)
            self.results[k] = result

    def _drawn(self, proposal: Proposal, numbers: Sequence[int]) -> list[Image.Image]:
        """The erased model's pictures of some samples' candidates, or by the process of a leak."""
        assert proposal.candidates is not None
        seeds = [sample.seed for sample in self.problem.samples]
        images: list[Image.Image] = []
        with self.problem.erased.attached() as model, proposal.during():
            for i in range(0, len(numbers), DRAWN):
                batch = numbers[i : i + DRAWN]
                if proposal.pictures is not None:
                    images += proposal.pictures.draw(model, batch)
                    continue
                text = text_of(model, [proposal.candidates[k] for k in batch])
                images += model.sample(text, seeds=[seeds[k] for k in batch], **self.problem.settings)
        return images

    def _controls(self, proposal: Proposal, numbers: Sequence[int]) -> dict[int, Controls]:
        """What a leak's process gives by the original model and without any, for each sample; nothing of other attacks."""
        if proposal.pictures is None:
            return {}
        images: list[Image.Image] = []
        with self.problem.original.attached() as model:
            for i in range(0, len(numbers), DRAWN):
                images += proposal.pictures.draw(model, numbers[i : i + DRAWN])
        given = proposal.pictures.without
        without = (
            [self.results[k].before for k in numbers] if given is None else self.criterion([given[k] for k in numbers])
        )
        pairs = zip(numbers, self.criterion(images), without, strict=True)
        return {k: Controls(original=original, without=nothing) for k, original, nothing in pairs}

    def _with_candidate(self, k: int, result: SampleResult, candidate: Candidate) -> SampleResult:
        """A result with what was found for its sample."""
        model = self.problem.original.model
        tensors = candidate.tensors()
        self.tensors = {key: v for key, v in self.tensors.items() if not key.startswith(f"{k}|")}
        self.tensors |= {f"{k}|{key}": value for key, value in tensors.items()}
        typed = not tensors
        return replace(
            result,
            text=spelled(model, candidate.ids) if typed else None,
            ids=tuple(candidate.ids),
            retokenizes=typed and retokenizes(model, candidate.ids),
            tensors=f"{self.record}/{k}" if tensors else None,
        )

    def _save(self, name: str, cost: Cost, state: State) -> None:
        data = {"results": [result.to_json() for result in self.results], "cost": cost._asdict()}
        self.store.write(name, data, {f"state|{k}": v for k, v in state.items()} | self.tensors)

    def _adopt(self, record: Record) -> None:
        """Take over the results of a record."""
        self.results = [SampleResult.from_json(data) for data in record.data["results"]]
        self.tensors = {k: v for k, v in record.tensors.items() if not k.startswith("state|")}


def unfinished(record: str) -> str:
    """Name of the record that holds a search's state while it is under way."""
    return f"{record}-open"


def candidates_of(store: RunStore, results: Sequence[SampleResult]) -> list[Candidate]:
    """What was found for samples, as it can be encoded again."""
    candidates = []
    for result in results:
        tensors: State = {}
        if result.tensors:
            name, _, k = result.tensors.rpartition("/")
            record = store.read(name) or store.read(unfinished(name))
            tensors = {} if record is None else with_prefix(record.tensors, f"{k}|")
        candidates.append(Candidate(result.ids, **tensors))
    return candidates
