"""The page of guarantees: each of its rows is a test of this folder."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "guarantees.md"
ANSWERS = ("served", "refused", "warned")


def rows() -> list[tuple[str, str, list[str]]]:
    """Situation, what happens, and tests of every row of the page."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "---" not in line]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    return [(situation, answer, re.findall(r"`(\S+::\S+)`", tests)) for situation, answer, tests in cells]


def defined(path: Path) -> set[str]:
    """The tests that a file defines."""
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_row_is_served_refused_or_warned_of_and_is_a_test():
    found = rows()
    assert len(found) > 40
    for situation, answer, tests in found:
        assert answer.startswith(ANSWERS), situation
        assert tests, situation
        for test in tests:
            file, _, name = test.partition("::")
            assert name in defined(HERE / file), test
