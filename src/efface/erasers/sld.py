"""SLD, safe latent diffusion: while a picture is drawn, guidance also leads away from a text (Schramowski et al., CVPR 2023,
arXiv 2211.05105)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.concepts.concept import Concept
from efface.errors import UsageError

if TYPE_CHECKING:
    from efface.erasures import Erasure
    from efface.models.model import Model

OF_STEPS = 50
"""Steps of the authors' pictures, of which warm-ups are a share."""
PRESETS: dict[str, dict[str, float]] = {
    "weak": {"warmup": 15 / OF_STEPS, "strength": 20.0, "threshold": 0.0, "momentum_scale": 0.0, "momentum": 0.0},
    "medium": {"warmup": 10 / OF_STEPS, "strength": 1000.0, "threshold": 0.01, "momentum_scale": 0.3, "momentum": 0.4},
    "strong": {"warmup": 7 / OF_STEPS, "strength": 2000.0, "threshold": 0.025, "momentum_scale": 0.5, "momentum": 0.7},
    "max": {"warmup": 0.0, "strength": 5000.0, "threshold": 1.0, "momentum_scale": 0.5, "momentum": 0.7},
}
"""The authors' four settings (table 1; diffusers' SafetyConfig)."""


@dataclass(frozen=True)
class Config:
    """Options of SLD; a preset fills those that are not named."""

    preset: Literal["weak", "medium", "strong", "max"] = "max"
    """The authors' setting; theirs of choice is medium, which a plain negative prompt outdoes in their own table."""
    phrases: tuple[str, ...] | None = None
    """Texts of what is to be left, read as one; by default the authors' twenty terms for what is explicit, else names and
    aliases."""
    warmup: float | None = None
    """δ, share of the schedule, by the noise level, before which the picture stays as it is."""
    strength: float | None = None
    """s_S, by which the difference of prompt and text is multiplied, up to 1."""
    threshold: float | None = None
    """λ in units of noise: parts of the picture where prompt − text is at least this are left alone."""
    momentum_scale: float | None = None
    """s_m, weight of what was taken before."""
    momentum: float | None = None
    """β_m, how slowly that is forgotten."""
    quantile: bool = False
    """Whether λ is a quantile of |prompt − text| over the picture, for latents of another scale than Stable Diffusion's."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(f"the preset is {self.preset!r}; expected one of {', '.join(PRESETS)}.")
        values = self.settings()
        shares = {name: values[name] for name in ("warmup", "momentum")}
        if any(not 0 <= value <= 1 for value in shares.values()):
            raise UsageError(f"warmup and momentum are {values['warmup']} and {values['momentum']}; expected 0 to 1.")
        if any(not 0 <= values[name] < float("inf") for name in ("strength", "momentum_scale")):
            raise UsageError(
                f"strength and momentum_scale are {values['strength']} and {values['momentum_scale']}; expected finite numbers from 0."
            )
        if self.quantile and not 0 <= values["threshold"] <= 1:
            raise UsageError(f"threshold is {values['threshold']} as a quantile; expected 0 to 1.")

    def settings(self) -> dict[str, float]:
        """The numbers of the rule."""
        return {
            name: value if getattr(self, name) is None else getattr(self, name)
            for name, value in PRESETS[self.preset].items()
        }


PUBLISHED: Mapping[str, Any] = {"preset": "medium"}
"""The authors' default setting."""


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """The guard; nothing is computed, and `judge` is not used.

    Raises:
        EffaceError: the model cannot be guarded so.
    """
    from efface.concepts.guarded import safety_text
    from efface.erasures.guards.sld import SLD
    from efface.steering.guards import make_guard

    phrases = safety_text(concepts) if config.phrases is None else config.phrases
    rule = SLD(phrases=phrases, quantile=config.quantile, **config.settings())
    return make_guard(model, "sld", config, concepts, {"sld": rule})
