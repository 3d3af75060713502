"""SAeUron: find the latents of a sparse autoencoder that speak of the concept, and turn them down (arXiv 2501.18052)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from efface.concepts.concept import Concept
from efface.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasures import Erasure
    from efface.erasures.activation import Edit
    from efface.models.model import Model
    from efface.sae.autoencoder import Coder
    from efface.sae.statistics import Statistics

Gain = Literal["published", "normalised", "clamp", "anchored"]

AS_PUBLISHED = {"mode": "published", "gain": "published"}
"""What `--as-published` changes."""


@dataclass(frozen=True)
class Config:
    """Options of SAeUron."""

    coder: str = "emoji"
    """Folder of the autoencoder, or of a run with one for every site; `emoji` is the canvas's own."""
    site: str | None = None
    """The module whose output is edited, or a pattern that names several (paper: unet.up_blocks.1.attentions.1 for objects,
    .2 for styles)."""
    statistics: str | None = None
    """File of the site's statistics, or of several sites' the folder (`efface sae features`); without it the autoencoder's
    folder is looked in, and then pictures of the concept and of what is kept are drawn."""
    count: int = 1
    """Latents chosen at each noise level (paper: 1 to 3)."""
    percentile: float | None = None
    """Instead of `count`: choose latents whose score is above this percentile (paper: 99.99 to 99.999)."""
    gamma: float | None = None
    """γ, the factor of a chosen latent (paper: −1 for styles, −1 to −30 for objects, found by a sweep)."""
    gain: Gain = "published"
    """`published`: z becomes γ·μ·z with μ the latent's mean over the concept's pictures; `normalised`: γ·z; `clamp`: γ·μ;
    `anchored` (ours): what z writes becomes what the anchor's prompt would write, fitted in closed form."""
    latents: int = 512
    """With `anchored`: latents chosen for each concept and site, for all noise levels; all of a smaller autoencoder's."""
    preserve_weight: float = 1.0
    """With `anchored`: p, the weight of retained prompts, on which nothing should be written."""
    ridge: float = 0.01
    """With `anchored`: λ, as a share of the mean activity."""
    mode: Literal["fast", "exact", "published"] = "fast"
    """`fast`: active above a calibrated threshold, a file of a few kilobytes; `exact`: among the k largest of its position,
    with the whole autoencoder; `published`: exact, with the public code's error term D(z) − x."""
    calibrate: bool = False
    """Find `count` and `gamma` with a judge on at most 200 pictures of the concepts and of what suffers most."""
    keep: tuple[str, ...] | None = None
    """Prompts of what is kept, with which the concept is compared where there are no statistics of others."""
    images: int = 20
    """Pictures of the concept, and as many of what is kept, where statistics are taken (paper: 20 a style, 80 an object)."""
    draw_steps: int = 50
    """Denoising steps of those pictures."""
    guidance: float = 9.0
    """Their guidance scale (paper: 9)."""
    seed: int = 0
    """Of those pictures."""

    def __post_init__(self) -> None:
        for name in ("count", "latents", "images", "draw_steps"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; expected at least 1.")
        if not (self.preserve_weight >= 0 and self.ridge > 0):
            raise UsageError(
                f"preserve_weight is {self.preserve_weight} and ridge {self.ridge}; expected at least 0 and above 0."
            )
        turned_down = (self.count, self.percentile, self.gamma, self.calibrate)
        if self.gain == "anchored" and turned_down != (1, None, None, False):
            raise UsageError(
                "`anchored` has no factor: leave out count, percentile, gamma and calibrate, or choose another gain."
            )


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: Any = None) -> Erasure:
    """Choose latents for every concept and noise level, and say what becomes of them.

    Where concepts share a latent the stronger suppression wins: the smaller gain.
    """
    from efface.erasers.base import provenance
    from efface.erasures.activation import ActivationEdit
    from efface.sae.lookup import open_coder
    from efface.sae.statistics import choices
    from efface.steering.statistics_source import known_statistics, taken_statistics

    sites = [site.name for site in model.sites(config.site or published_site(concepts))]
    opened = {site: open_coder(config.coder, site) for site in sites}
    coders = {site: coder for site, (coder, _) in opened.items()}
    named = {site: {"sha256": sha256, "source": config.coder} for site, (_, sha256) in opened.items()}
    known = known_statistics(config, sites, concepts)
    measured = known or taken_statistics(model, coders, concepts, config)

    def made(config: Config, **notes: Any) -> ActivationEdit:
        """The erasure by one choice of options."""
        gammas = [gamma_of(c, config) for c in concepts]
        edits = made_edits(model, coders, measured, concepts, config)
        settings = asdict(config) | {"sites": sites, "gammas": gammas, "coders": named}
        why = {
            c.name: [
                {"site": site} | choice._asdict()
                for site, found in measured.items()
                for choice in choices(found, c.name, chosen_of(found, coders[site], c.name, config))
            ]
            for c in concepts
        }
        compared = config.keep or () if config.gain == "anchored" or not known else ()
        origin = provenance(model, "saeuron", settings, concepts, compared, chosen=why, **notes)
        return ActivationEdit(origin, edits, coders)

    if not config.calibrate:
        return made(config)
    from efface.steering.calibrate import calibrated

    best, curve = calibrated(model, concepts, config, list(measured.values()), made, judge)
    return made(best, calibration=curve)


REPORTED = 4
"""Of an anchored edit's many latents, so many of each site are explained in its notes, those of the highest scores."""


def chosen_of(measured: Statistics, coder: Coder, concept: str, config: Config) -> Tensor:
    """Which latents are explained in an erasure's notes, as a mask (levels latents): all that were chosen, or the first."""
    from efface.sae.statistics import select

    scores = measured.scores(concept)
    if config.gain == "anchored":
        return select(scores.mean(0).expand_as(scores), min(REPORTED, config.latents))
    return select(scores, count_of(coder, config))


def made_edits(
    model: Model,
    coders: dict[str, Coder],
    measured: dict[str, Statistics],
    concepts: Sequence[Concept],
    config: Config,
    found: Sequence[tuple[str, str]] = (),
) -> dict[str, Edit]:
    """What happens at every site; with `anchored`, `found` are further prompts and what they should be drawn as."""
    from efface.closed_form.rows import default_anchor
    from efface.steering.anchor import redirected
    from efface.steering.calibrate import spread

    if config.gain == "anchored":
        if not config.keep:
            raise UsageError("an anchored edit needs prompts on which nothing is to change: give some (--keep).")
        own = [pair for c in concepts for pair in zip(c.prompts(), c.anchors(default_anchor(c)), strict=True)]
        pairs = [*spread(own, config.images * len(concepts)), *found]
        return redirected(model, coders, measured, [c.name for c in concepts], pairs, config.keep, config)
    return {
        site: merged(
            [tables_of(statistics, coders[site], c.name, config, gamma_of(c, config)) for c in concepts],
            coders[site],
            statistics,
        )
        for site, statistics in measured.items()
    }


def published_site(concepts: Sequence[Concept]) -> str:
    """The paper's block for the kind of concept."""
    return f"unet.up_blocks.1.attentions.{2 if concepts[0].kind == 'style' else 1}"


def gamma_of(concept: Concept, config: Config) -> float:
    """The factor asked for, or the paper's: −1 for styles; −10, the middle of its sweep, for all else."""
    return config.gamma if config.gamma is not None else -1.0 if concept.kind == "style" else -10.0


def count_of(coder: Coder, config: Config) -> int:
    """Latents chosen at each level."""
    from efface.sae.statistics import percentile_count

    return config.count if config.percentile is None else percentile_count(coder.config.latents, config.percentile)


class Tables(NamedTuple):
    """What happens to every latent of the autoencoder at every level, for one concept (levels latents)."""

    gate: Tensor
    """Activation above which it is edited; infinite where it is not chosen."""
    gain: Tensor
    shift: Tensor


def tables_of(measured: Statistics, coder: Coder, concept: str, config: Config, gamma: float) -> Tables:
    """The published edit of one concept: gate μ(i,t,D), gain γ μ(i,t,D_c), or what `config.gain` says instead."""
    import torch

    from efface.sae.statistics import select

    chosen = select(measured.scores(concept), count_of(coder, config))
    mean = measured.of(concept)
    gain = {"published": gamma * mean, "normalised": torch.full_like(mean, gamma), "clamp": torch.zeros_like(mean)}
    shift = gamma * mean if config.gain == "clamp" else torch.zeros_like(mean)
    gate = torch.where(chosen, measured.everything(concept), float("inf"))
    if config.mode == "fast":
        gate = torch.maximum(gate, measured.cutoff[:, None])
    return Tables(gate, gain[config.gain], shift)


def merged(concepts: Sequence[Tables], coder: Coder, measured: Statistics) -> Edit:
    """The union of the concepts' latents; where several choose one at a level, the smallest gain wins."""
    import torch

    from efface.erasures.activation import Edit

    gate, gain, shift = (torch.stack(tables) for tables in zip(*concepts, strict=True))
    strongest = torch.where(gate.isfinite(), gain, float("inf")).argmin(0, keepdim=True)
    gate, gain, shift = (table.gather(0, strongest)[0] for table in (gate, gain, shift))
    latents = gate.isfinite().any(0).nonzero().squeeze(1)

    def copied(part: Tensor) -> Tensor:
        return part.detach().clone().contiguous()

    return Edit(
        encoder=copied(coder.encoder.weight[latents]),
        bias=copied(coder.encoder.bias[latents]),
        centre=copied(coder.b_dec),
        decoder=copied(coder.W_dec[latents]),
        latents=latents,
        levels=copied(measured.levels),
        gate=copied(gate[:, latents]),
        gain=copied(gain[:, latents]),
        shift=copied(shift[:, latents]),
    )
