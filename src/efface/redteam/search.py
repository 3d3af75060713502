"""The rounds of one case: what its search proposes is drawn, judged and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from efface.attacks import attack_module
from efface.attacks.base import Candidate, Case, Round, text_of
from efface.attacks.vocabulary import spelled, survives
from efface.io.checkpoint import State, under
from efface.judges.criterion import Eye
from efface.redteam.cost import NOTHING, Cost, Meter
from efface.redteam.findings import Found, Look
from efface.redteam.samples import DRAWN
from efface.redteam.store import Book, Page

SAVE_SECONDS = 2.0
"""How often a search that has nothing to show yet is written down."""


@dataclass
class CaseRun:
    """A case under way."""

    name: str
    config: Any
    case: Case
    found: list[Found]
    """One for each try, as it stands."""
    eye: Eye
    book: Book
    page: str
    """Name of its page; its state while it is under way stands on `PAGE-open`."""

    def __post_init__(self) -> None:
        self.module = attack_module(self.name)
        rule = getattr(self.module, "adaptive", None)
        self.adaptive: bool = rule is None or rule(self.config)
        self.tensors: State = {}

    def rounds(self) -> Generator[float, None, None]:
        """Search, and judge what is proposed; gives the share of the budget that is spent after every judged round."""
        page = self.book.read(self.page)
        if page is not None:
            self._adopt(page)
            return
        spent, saved = NOTHING, self.book.read(f"{self.page}-open")
        if saved is not None:
            self._adopt(saved)
            spent = Cost(*saved.data["cost"])
        state = None if saved is None else under(saved.tensors, "state|")
        began = wrote = time.perf_counter()
        with Meter(self.case.original.model, self.case.erased.model) as meter:

            def cost() -> Cost:
                return spent + meter.cost(time.perf_counter() - began)

            for step in self.module.search(self.case, self.config, state):
                if step.candidates is not None:
                    self._judge(step, cost)
                if step.candidates is not None or time.perf_counter() - wrote > SAVE_SECONDS:
                    self._save(f"{self.page}-open", cost(), step.state)
                    wrote = time.perf_counter()
                if step.candidates is not None:
                    yield step.done
                if not self._open():
                    break
            self._save(self.page, cost(), {})
        self.book.drop(f"{self.page}-open")

    def _open(self) -> list[int]:
        """Tries that are still attacked: those that an attack which sees pictures has not brought back yet."""
        return [k for k, t in enumerate(self.found) if not (self.adaptive and t.looks and t.looks[-1].shown)]

    def _judge(self, step: Round, cost: Callable[[], Cost]) -> None:
        """Draw and look at the candidates of the tries that are still open."""
        assert step.candidates is not None
        open_ = self._open()
        pictures = []
        with self.case.erased.attached() as model, step.during():
            for i in range(0, len(open_), DRAWN):
                some = open_[i : i + DRAWN]
                text = text_of(model, [step.candidates[k] for k in some])
                pictures += model.sample(text, seeds=[self.case.tries[k].seed for k in some], **self.case.settings)
        each = cost().shared(len(self.found))
        for k, picture, seen in zip(open_, pictures, self.eye(pictures), strict=True):
            now = self.found[k]
            if hasattr(self.module, "looks"):
                seen = self.module.looks(seen, self.book.picture(f"{now.number:03}-original"), picture, self.config)
            look = Look(step.done, each.denoiser + each.encoder, seen.shown, seen.score)
            now = replace(now, looks=(*now.looks, look), cost=each)
            best = (seen.shown, seen.score) > (now.after.shown, now.after.score)
            if not self.adaptive or best or len(now.looks) == 1:
                now = self._holding(k, replace(now, after=seen), step.candidates[k])
                self.book.keep(f"{now.number:03}-attacked", picture)
            self.found[k] = now

    def _holding(self, k: int, now: Found, candidate: Candidate) -> Found:
        """A try with what was found for it."""
        model, tensors = self.case.original.model, candidate.tensors()
        self.tensors = {key: v for key, v in self.tensors.items() if not key.startswith(f"{k}|")}
        self.tensors |= {f"{k}|{key}": value for key, value in tensors.items()}
        typed = not tensors
        return replace(
            now,
            text=spelled(model, candidate.ids) if typed else None,
            ids=tuple(candidate.ids),
            survives=typed and survives(model, candidate.ids),
            tensors=f"{self.page}/{k}" if tensors else None,
        )

    def _save(self, name: str, cost: Cost, state: State) -> None:
        data = {"found": [asdict(t) for t in self.found], "cost": cost}
        self.book.write(name, data, {f"state|{k}": v for k, v in state.items()} | self.tensors)

    def _adopt(self, page: Page) -> None:
        """Take over what a page says was found."""
        self.found = [Found.from_json(t) for t in page.data["found"]]
        self.tensors = {k: v for k, v in page.tensors.items() if not k.startswith("state|")}


def candidates_of(book: Book, found: Sequence[Found]) -> list[Candidate]:
    """What was found, as it can be encoded again."""
    held = []
    for t in found:
        tensors: State = {}
        if t.tensors:
            name, _, k = t.tensors.rpartition("/")
            page = book.read(name) or book.read(f"{name}-open")
            tensors = {} if page is None else page.tensors
            tensors = under(tensors, f"{k}|")
        held.append(Candidate(t.ids, **tensors))
    return held
