"""ErasePlan: an erasure that is decided and not yet made."""

from __future__ import annotations

import dataclasses
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efface.concepts.concept import Concept
from efface.io.progress import Progress, drawing, silent

if TYPE_CHECKING:
    from efface.api.decisions import Decisions
    from efface.erasers.base import Eraser
    from efface.erasures import Erasure
    from efface.models.model import Model


@dataclass(frozen=True)
class ErasePlan:
    """An erasure that is decided and not yet made."""

    model: Model
    method: str
    """Name of the eraser."""
    concepts: tuple[Concept, ...]
    config: Any
    """The method's Config, with everything in it that follows from the concepts."""
    judge: Any
    """What looks at pictures meanwhile; None without one."""
    decisions: Decisions
    """What the erasure's notes will hold under `decisions`."""

    def to_json(self) -> dict[str, Any]:
        """What the erasure's provenance will say of it."""
        config = dataclasses.asdict(self.config)
        return {
            "method": self.method,
            "concepts": [dataclasses.asdict(concept) for concept in self.concepts],
            "config": {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()},
            "keep": list(config.get("keep") or ()),
            "notes": {"decisions": self.decisions},
        }

    def cost(self) -> dict[str, Any]:
        """Pictures that are drawn at most, and their seconds by two of the denoising steps that the method takes, at its size; None
        where only the method knows."""
        from efface.models.sampling import Sampling
        from efface.models.timing import seconds_each

        pictures = self.pictures()
        if not pictures:
            return {"pictures": pictures, "seconds": pictures}
        prompts = [prompt for concept in self.concepts for prompt in concept.prompts()]
        own = dataclasses.asdict(self.config)
        steps, guidance, side = (own.get(name) for name in ("draw_steps", "guidance", "side"))
        settings = Sampling(steps, guidance, side=side).settings(self.model.pipeline)
        return {"pictures": pictures, "seconds": round(pictures * seconds_each(self.model, prompts, settings), 1)}

    def training(self) -> dict[str, Any] | None:
        """Steps of a trained eraser, and about the seconds and bytes that they take, measured on one pass; None of others."""
        from efface.training.config import Training

        if not isinstance(self.config, Training):
            return None
        from efface.training.cost import cost_of

        return cost_of(self.model, self.config, self.concepts)._asdict()

    def bytes(self) -> int:
        """Bytes of the model's weights."""
        from efface.models.timing import model_bytes

        return model_bytes(self.model.pipeline)

    def pictures(self) -> int | None:
        """Pictures that are drawn at most; None where only the method knows."""
        from efface.erasers import ERASERS
        from efface.erasers.base import ClosedForm, Drawing
        from efface.training.config import Training

        eraser = ERASERS.load(self.method)
        if not isinstance(eraser, Drawing):
            return 0 if isinstance(eraser, ClosedForm) or isinstance(self.config, Training) else None
        return eraser.pictures(self.concepts, self.config, judged=self.judge is not None)

    def run(self, progress: Progress = silent) -> Erasure:
        """Make it; raises EffaceError where the model cannot be edited."""
        from efface.erasers import ERASERS
        from efface.erasers.base import RetainingRows
        from efface.models.unchanged import known_footprint

        started = time.perf_counter()
        pictures = self.pictures()
        eraser = ERASERS.load(self.method)
        with drawing(progress, pictures) if pictures else nullcontext():
            if isinstance(self.config, RetainingRows) and self.config.pooled and self.model.family.pooled_layer:
                erasure = self._with_pooled(eraser)
            else:
                erasure = eraser.erase(self.model, self.concepts, self.config, self.judge)
        seconds = round(time.perf_counter() - started, 3)
        notes = erasure.provenance.notes | {"seconds": seconds, "decisions": self.decisions}
        plugin = ERASERS.origin(self.method)
        origin = dataclasses.replace(
            erasure.provenance,
            notes=notes,
            plugin="" if plugin is None else str(plugin),
            base=known_footprint(self.model, erasure.touches()),
        )
        return dataclasses.replace(erasure, provenance=origin)

    def _with_pooled(self, eraser: Eraser) -> Erasure:
        """The erasure with a map of the pooled text, which is kept of every prompt that the method encodes."""
        from efface.closed_form.pooled_beside import RememberingModel, with_pooled_map

        model = RememberingModel(self.model.pipeline)
        return with_pooled_map(model, eraser.erase(model, self.concepts, self.config, self.judge))
