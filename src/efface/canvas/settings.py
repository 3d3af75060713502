"""Hyper-parameters of the closed-form erasers on the emoji canvas: one setting for all objects, one for all styles.

The published retained weights were found with one retained prompt; here some 600 are retained. Other kinds of concepts
take the setting of objects.
"""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "uce": {
        "object": {"rows": "subject", "ridge": 0.1, "preserve_weight": 0.005},
        "style": {"rows": "subject", "ridge": 0.1, "preserve_weight": 0.005},
    },
    "rece": {
        "object": {"rows": "subject", "epochs": 1, "regulariser": 0.1, "preserve_weight": 0.01},
        "style": {"rows": "subject", "epochs": 1, "regulariser": 0.1, "preserve_weight": 0.01},
    },
}
