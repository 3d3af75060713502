"""Attacks: one file a published way of bringing an erased concept back, and its name in ATTACKS.

An attack's file holds a frozen dataclass `Config` whose defaults are the published budget, `BUDGETS` with smaller ones,
and `search(case, config, saved)`, which proposes prompts round by round. It imports nothing heavy at its top, so that its
options can be listed without loading torch. `efface.redteam.run` does what all of them share: pictures, verdicts, costs,
checkpoints, Findings. A file may also say:

    SCOPE     "try" (one search a prompt and seed, the default) or "concept" (one search for all of them)
    SANITY    which checks apply: "unerased", "weak" (both by default)
    adaptive  whether a try ends at its first success (the default), or only the last of its candidates counts: for attacks
              that, by their published threat model, do not see the erased model's pictures
    looks     what counts as success, where that is not the judge's word alone
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from efface.errors import UsageError
from efface.registry import configure

ATTACKS = (
    "ring-a-bell", "unlearndiff", "p4d", "pund", "inversion", "mma", "relapse", "synonyms", "checkpoint",
)  # fmt: skip
"""One registration an attack."""
SEARCHES = tuple(name for name in ATTACKS if name != "checkpoint")
"""All but the audit of a whole checkpoint, which attacks no erasure."""


def attack_module(name: str) -> ModuleType:
    """The module of the attack called `name`; raises UsageError for an unknown one."""
    if name not in ATTACKS:
        raise UsageError(f"the attack {name!r} is unknown; expected one of: {', '.join(ATTACKS)}.")
    return importlib.import_module(f"efface.attacks.{name.replace('-', '_')}")


def attack_summaries() -> dict[str, str]:
    """Attack -> first line of its file's docstring, read without importing it."""
    folder = Path(__file__).parent
    files = {name: folder / f"{name.replace('-', '_')}.py" for name in ATTACKS}
    return {name: file.read_text().split('"""')[1].splitlines()[0] for name, file in files.items()}


def configured(name: str, budget: str = "published", **options: Any) -> Any:
    """The Config of an attack at a named budget, with some fields given; raises UsageError for what is unknown."""
    module = attack_module(name)
    budgets = {"published": {}} | module.BUDGETS
    if budget not in budgets:
        raise UsageError(f"the attack {name} has no budget {budget!r}; expected one of: {', '.join(budgets)}.")
    return configure(module.Config, options, budgets[budget])
