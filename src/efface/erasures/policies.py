"""Policies: each row of a batch has the erasures of its own policy, in one call of the denoiser for all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from efface.erasures import life
from efface.erasures.conditions import require_order
from efface.erasures.erasure import Erasure
from efface.erasures.manifest import Manifest
from efface.erasures.row_edits import ActivationRows, GuardRows, RowEdits, TextRows
from efface.erasures.selection import Batch, Choice, within
from efface.erasures.state import LOCK, state_of
from efface.errors import EffaceError, UsageError
from efface.models.model import Model

_KIND_OF: dict[str, type[RowEdits]] = {"text": TextRows, "sampling": GuardRows}
"""What an erasure acts on -> how its rows are; all others are activations'."""
_KINDS = (ActivationRows, GuardRows, TextRows)


class Policies:
    """Named policies on a pipeline, one of which every prompt follows.

        policies = efface.Policies(pipe, {"eu": [church, cat], "kids": [guitar], "open": []})
        policies(["a church", "a guitar", "a cat"], policy=["eu", "kids", None]).images

    From then on every call of the pipeline must say the policies of its prompts; one that does not is refused. A row without an
    erasure is bit for bit what the same batch gives without any. What is attached to the pipeline beside acts on every row.
    Policies live on the pipeline as an erasure does (docs/guarantees.md): the same ones attached again are counted.

    Args:
        pipeline: any diffusers pipeline with the model that the erasures were made for.
        policies: name -> its erasures, as they would be attached one after the other; an empty list erases nothing. An erasure
            that several policies have is held once.
        force: attach to a model of the same shapes but other weights (a fine-tune), with a warning.

    Raises:
        UsageError: there is no policy, no erasure in any, or one erasure twice in one.
        EffaceError: the pipeline has other policies; one of the erasures is attached to it for every row, was made for another
            model, or cannot act on single rows of a batch (weights that change as a whole).
    """

    def __init__(self, pipeline: Any, policies: Mapping[str, Sequence[Erasure]], *, force: bool = False):
        self.pipeline = pipeline
        self.policies = {name: tuple(erasures) for name, erasures in policies.items()}
        _check(self.policies)
        self.digest = _digest(self.policies)
        """What they are: sha256 over names and erasures."""
        self._edits = [edits for kind in _KINDS for edits in _rows(kind, self.digest, self.policies)]
        with LOCK, ExitStack() as undo:
            _require_order(pipeline, self.policies.values())
            _require_plain_texts(pipeline, self.policies)
            for edits in self._edits:
                life.attach(edits, pipeline, scale=1.0, fold=False, force=force)
                undo.callback(life.remove, edits, pipeline)
            undo.pop_all()

    @classmethod
    def from_manifest(cls, pipeline: Any, path: str | Path, *, force: bool = False) -> Policies:
        """The policies of a manifest, after the sha256 of every file was compared.

        Raises:
            EffaceError: as the class, or a file is missing or another one than when the manifest was written.
        """
        return cls(pipeline, Manifest.read(Path(path)).load(), force=force)

    @contextmanager
    def select(self, policy: str | Sequence[str | None] | None) -> Iterator[None]:
        """Context in which the pipeline, called by itself, has the policies of its prompts.

        Args:
            policy: a name for each prompt, or one for all; None is no erasure.

        Raises:
            UsageError: there is no policy of a name.
        """
        names: Choice = policy if policy is None or isinstance(policy, str) else tuple(policy)
        for name in names if isinstance(names, tuple) else (names,):
            self._require(name)
        with within(Batch(owner=self.digest, names=names)):
            yield

    def __call__(self, *args: Any, policy: str | Sequence[str | None] | None, **kwargs: Any) -> Any:
        """Call the pipeline.

        Args:
            args: of the pipeline's call.
            policy: a name for each prompt, or one for all; None is no erasure. Pictures of one prompt follow the same one.
            kwargs: of the pipeline's call.

        Returns:
            What the pipeline returns.

        Raises:
            UsageError: there is no policy of a name, or there are not as many as prompts.
            EffaceError: the policies were removed.
        """
        with self.select(policy):
            return self.pipeline(*args, **kwargs)

    def remove(self) -> None:
        """Take them off the pipeline; raises EffaceError where they are not on it."""
        with LOCK:
            for edits in reversed(self._edits):
                life.remove(edits, self.pipeline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _require(self, name: str | None) -> None:
        if name is None or name in self.policies:
            return
        near = get_close_matches(str(name), self.policies, n=1)
        meant = f" (is {near[0]!r} meant?)" if near else ""
        raise UsageError(
            f"there is no policy {name!r}{meant}; expected one of {', '.join(map(repr, self.policies))}, or None for no erasure."
        )


def _check(policies: Mapping[str, Sequence[Erasure]]) -> None:
    """Raise UsageError where policies hold nothing, or an erasure twice."""
    if not any(policies.values()):
        raise UsageError("no policy holds an erasure; expected a dictionary of names and lists of erasures.")
    for name, erasures in policies.items():
        if not isinstance(name, str) or not name:
            raise UsageError(f"a policy is called {name!r}; expected a word.")
        for erasure in erasures:
            if not isinstance(erasure, Erasure):
                raise UsageError(
                    f"the policy {name!r} holds a {type(erasure).__name__}; expected erasures (efface.Erasure.load reads a file)."
                )
        digests = [erasure.digest for erasure in erasures]
        if twice := next((e for e, digest in zip(erasures, digests, strict=True) if digests.count(digest) > 1), None):
            raise UsageError(f"the erasure of {twice.names} stands twice in the policy {name!r}: leave it there once.")


def _require_order(pipeline: Any, policies: Collection[Sequence[Erasure]]) -> None:
    """Raise EffaceError where weights would be edited under text states that are mapped already, in a policy or for every row."""
    if not any(erasure.acts_on == "weights" for erasures in policies for erasure in erasures):
        return
    model = Model(pipeline)
    state = state_of(pipeline)
    for erasures in policies:
        mapped = state is not None and any(not a.erasure.by_policy for a in state.mapped)
        for erasure in erasures:
            if erasure.acts_on == "weights":
                require_order(model, erasure, mapped)
            mapped = mapped or erasure.acts_on == "text"


def _require_plain_texts(pipeline: Any, policies: Mapping[str, Sequence[Erasure]]) -> None:
    """Raise EffaceError where a guard, which asks for texts of its own, shares a policy with an erasure of the text encoder."""
    guarded = {name: held for name, held in policies.items() if any(e.acts_on == "sampling" for e in held)}
    encoders = tuple(f"{name}." for name in Model(pipeline).family.text_encoders()) if guarded else ()
    for name, erasures in guarded.items():
        for erasure in erasures:
            if erasure.acts_on != "sampling" and any(part.startswith(encoders) for part in erasure.touches() or ()):
                raise EffaceError(
                    f"the policy {name!r} holds a guard and, for {erasure.names}, an erasure of the text encoder, by which "
                    "the guard's own texts would be encoded: leave one of the two out."
                )


def _digest(policies: Mapping[str, Sequence[Erasure]]) -> str:
    named = {name: [erasure.digest for erasure in erasures] for name, erasures in policies.items()}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def _rows(kind: type[RowEdits], owner: str, policies: Mapping[str, Sequence[Erasure]]) -> list[RowEdits]:
    """The edits that act in one way; none where there are none."""
    policies = {
        name: [e for e in held if _KIND_OF.get(e.acts_on, ActivationRows) is kind] for name, held in policies.items()
    }
    edits = in_common_order(policies.values())
    if not edits:
        return []
    numbers = {}
    for name, erasures in policies.items():
        number = -1
        found = []
        for erasure in erasures:
            number = next(i for i in range(number + 1, len(edits)) if edits[i].digest == erasure.digest)
            found.append(number)
        numbers[name] = tuple(found)
    return [kind.of(owner, edits, numbers)]


def in_common_order(lists: Iterable[Sequence[Erasure]]) -> list[Erasure]:
    """Erasures of which each list is a subsequence; one that lists order differently stands there more than once."""
    edits: list[Erasure] = []
    for erasures in lists:
        place = 0
        for erasure in erasures:
            found = next((i for i in range(place, len(edits)) if edits[i].digest == erasure.digest), None)
            if found is None:
                found = place
                edits.insert(place, erasure)
            place = found + 1
    return edits
