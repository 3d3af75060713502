"""Which layer of a text encoder a call reads: one below the layer that an erasure edits would pass it by."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from torch import nn

from efface.errors import EffaceError
from efface.models.caller import encoding_at_work


class LayerRead(NamedTuple):
    """A layer that is edited, among those of its text encoder."""

    name: str
    number: int | None
    """Its number; None where it is none of a row of layers."""
    last: int
    """Number of the layer that is read where none is skipped."""

    @classmethod
    def of(cls, encoders: Mapping[str, nn.Module], name: str) -> Self:
        """The layer of a name such as `text_encoder.encoder.layers.8`."""
        found = re.search(r"\blayers?\.(\d+)", name)
        config: Any = getattr(encoders[name.partition(".")[0]], "config", None)
        layers = getattr(config, "num_hidden_layers", 0)
        penultimate = "text_encoder_2" in encoders  # SDXL's and SD3's encoders are read before their last layer
        return cls(name, int(found[1]) if found else None, layers - 1 - penultimate)

    def require(self) -> None:
        """Raise EffaceError where the call of the pipeline skips so many layers that the edited one is not read."""
        call = encoding_at_work()
        skipped = None if call is None else call.arguments.get("clip_skip")
        if skipped and self.number is not None and self.number > self.last - skipped:
            raise EffaceError(
                f"clip_skip={skipped} reads layer {self.last - skipped} of the text encoder, before {self.name}, which the erasure "
                "edits, so that nothing would be erased: leave clip_skip out, or make the erasure at an earlier layer."
            )
