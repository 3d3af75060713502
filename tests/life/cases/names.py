"""The only file here that knows names inside efface."""

from efface.erasures import TextMap, attached_to
from efface.errors import EffaceError
from efface.export import ExportConfig, export
from efface.sae.files import load_sae as load_coder

__all__ = ["EffaceError", "ExportConfig", "TextMap", "attached_to", "export", "hook_by_hand", "load_coder"]


def hook_by_hand(erasure, pipe):
    """Put an erasure's hooks on a pipeline's networks past efface's own bookkeeping; returns their handles."""
    import efface

    return erasure.hooks(efface.Model(pipe), 1.0)
