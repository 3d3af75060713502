"""Attacks: one file a published way of bringing an erased concept back, and its name in ATTACKS; those of plugins beside them.

An attack's file holds one object, `ATTACK` (see `efface.attacks.base.Attack`), and imports nothing heavy at its top, so that
its options can be listed without loading torch. `efface.redteam.run` does what all of them share: pictures, verdicts, costs,
checkpoints, Findings.
"""

from __future__ import annotations

from typing import Any

from efface.attacks.base import Attack
from efface.errors import UsageError
from efface.registry import Registry, configure

LEAKS = ("leak-sr", "leak-img2img", "leak-inpaint", "leak-begun", "leak-noise")
"""Those that give the erased model a picture, or the beginning of one, instead of words."""
SEARCHES = ("ring-a-bell", "unlearndiff", "p4d", "pund", "inversion", "mma", "relapse", "synonyms", *LEAKS)
"""All but the audit of a whole checkpoint, which attacks no erasure."""

ATTACKS: Registry[Attack] = Registry(
    "attack",
    "efface.attacks",
    {name: f"efface.attacks.{name.replace('-', '_')}:ATTACK" for name in (*SEARCHES, "checkpoint")},
    contract=Attack,
)
"""Every attack, also those that plugins bring."""


def configured(name: str, budget: str = "published", **options: Any) -> Any:
    """The Config of an attack at a named budget, with some fields given; raises UsageError for what is unknown."""
    attack = ATTACKS.load(name)
    budgets = {"published": {}, **attack.budgets}
    if budget not in budgets:
        raise UsageError(f"the attack {name} has no budget {budget!r}; expected one of: {', '.join(budgets)}.")
    return configure(attack.config, options, budgets[budget])
