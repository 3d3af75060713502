"""Situations that people report of tools of this kind, as scripts: each is served or refused in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).parent / "cases"
PENDING = ()
"""How the names of those begin that are not served yet."""


@pytest.mark.slow
def test_cases():
    files = [path for path in sorted(CASES.glob("f*.py")) if not path.name.startswith(PENDING)]
    run = subprocess.run([sys.executable, CASES / "run_all.py", *files], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:]
    assert f"0 of {len(files)} fail" in run.stdout
