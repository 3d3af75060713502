"""Names of a CLIP text encoder's tensors, which versions of transformers spell with and without `text_model.`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

WRAPPER = "text_model."
"""What stands before the names of the encoder proper where a class wraps it."""


def spell(names: Sequence[str], *, old: bool = False) -> list[str]:
    """The names of a network's tensors, each as transformers 5.23 spells it, whichever version is at work.

    There the plain text encoder has no wrapper (since 5.6), and one with a projection has. Other networks keep their names.

    Args:
        names: of all tensors of one network.
        old: as transformers 5.0 spells them, with a wrapper in either class.
    """
    plain = {name.removeprefix(WRAPPER) for name in names}
    if "embeddings.token_embedding.weight" not in plain:
        return list(names)
    before = WRAPPER if old or "text_projection.weight" in plain else ""
    bare = (name.removeprefix(WRAPPER) for name in names)
    return [name if name.startswith("text_projection.") else before + name for name in bare]


def one_name(name: str) -> str:
    """A tensor's full name without the wrapper: equal for two spellings of one."""
    return re.sub(r"^(text_encoder\w*)\.text_model\.", r"\1.", name)


def spelt_as(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Full names of tensors -> the names by which a model knows them; those that it does not know stay as they are."""
    by_name = {one_name(name): name for name in known}
    return {name: by_name.get(one_name(name), name) for name in names}
