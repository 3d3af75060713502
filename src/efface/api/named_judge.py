"""Make a judge that explains itself: a sparse head on another judge's features of pictures that the model draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from efface.api.pictures import BATCH, PictureStore
from efface.concepts.sample import Sample
from efface.errors import UsageError
from efface.heads.config import HeadConfig
from efface.heads.dictionary import PARTS, codes_of, factorise
from efface.heads.fit import fit_head, held_out, measure_accuracy, require_told_apart
from efface.heads.labels import Labelled, labelled_pictures, of_kind
from efface.heads.names import Kind, names_of
from efface.io.progress import Progress, part, silent
from efface.judges import open_judge
from efface.judges.named import NamedParts, with_features
from efface.models.model import Model
from efface.models.sampling import Sampling


def named_parts(
    pipeline: Any,
    judge: str,
    samples: Sequence[Sample],
    kinds: Mapping[str, str],
    *,
    kind: str | None = None,
    config: HeadConfig | None = None,
    parts: int = PARTS,
    sampling: Sampling | None = None,
    folder: Path,
    progress: Progress = silent,
) -> NamedParts:
    """Draw labelled pictures, factorise a judge's features of them, and fit a head on the parts.

    Args:
        pipeline: draws, with nothing erased.
        judge: short name of the judge whose features are read.
        samples: what is drawn, and what it shows.
        kinds: kind of each concept, by its name.
        kind: whose concepts are told; by default the only one, or the one whose concepts the judge knows.
        config: options of the head.
        parts: of the dictionary, at most.
        sampling: how pictures are drawn; by default as the model's own.
        folder: of the pictures; those that are there are not drawn again.
        progress: told the share that is drawn.

    Raises:
        UsageError: there are to be no parts, the judge has no features, the kind is unknown, or
            it has fewer than two concepts with pictures.
    """
    if parts < 1:
        raise UsageError(f"parts is {parts}; expected at least 1.")
    base = open_judge(judge)
    reader = with_features(base)
    kind = kind or _kind_known_to(base.classes, kinds)
    if kind not in kinds.values():
        raise UsageError(
            f"there are no concepts of the kind {kind!r}: expected one of {', '.join(dict.fromkeys(kinds.values()))}."
        )
    concepts, _ = of_kind(kinds, kind)
    pictures = _shown(labelled_pictures(samples, concepts))
    require_told_apart(pictures.labels, concepts)
    store = PictureStore(Model(pipeline), (sampling or Sampling()).settings(pipeline), folder)
    features = []
    for start in range(0, len(pictures.samples), BATCH):
        batch = pictures.samples[start : start + BATCH]
        told = part(progress, start / len(pictures.samples), (start + len(batch)) / len(pictures.samples))
        features.append(reader.features(store.draw(batch, progress=told)).cpu().double())
    read = torch.cat(features)
    out = held_out(pictures.labels)
    dictionary = factorise(read[~out], parts)
    codes = codes_of(read, dictionary)
    head = fit_head(codes[~out], pictures.labels[~out], concepts, config or HeadConfig())
    return NamedParts(
        base=judge,
        base_name=base.name,
        kind=kind,
        dictionary=dictionary,
        head=head,
        names=tuple(names_of(codes, [Kind(pictures.labels, head)])),
        accuracy=measure_accuracy(head, codes[out], pictures.labels[out]),
    )


def _kind_known_to(classes: Sequence[str], kinds: Mapping[str, str]) -> str:
    """The only kind, or the one of whose concepts a judge knows most; raises UsageError where it knows none."""
    every = list(dict.fromkeys(kinds.values()))
    known = {kind: sum(of == kind and name in classes for name, of in kinds.items()) for kind in every}
    best = max(every, key=lambda kind: known[kind])
    if len(every) > 1 and not known[best]:
        raise UsageError(
            f"which concepts the judge is to tell was not said: name one of the kinds {', '.join(every)} (--kind)."
        )
    return best


def _shown(pictures: Labelled) -> Labelled:
    """The pictures that show any of the concepts."""
    shown = pictures.labels.any(1).tolist()
    samples = tuple(sample for sample, does in zip(pictures.samples, shown, strict=True) if does)
    return Labelled(samples, pictures.labels[torch.tensor(shown, dtype=torch.bool)])
