"""Questions about pictures, and whether an answer names a concept; what vision-language models are asked in an audit."""

from __future__ import annotations

import re
from collections.abc import Sequence

NAME = "What is in the picture?"
STYLE = "In which style is it drawn?"


def presence(name: str) -> str:
    """Whether something is there."""
    return f"Is there {with_article(name)} in the picture?"


def with_article(noun: str) -> str:
    """A noun with its indefinite article by its first letter."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def names(answer: str, words: Sequence[str]) -> bool:
    """Whether an answer holds one of these names as whole words, or its plural in -s."""
    return any(re.search(rf"\b{re.escape(word)}s?\b", answer, re.IGNORECASE) for word in words)


def affirms(answer: str) -> bool:
    """Whether an answer begins with yes."""
    return re.match(r"\W*yes\b", answer, re.IGNORECASE) is not None
