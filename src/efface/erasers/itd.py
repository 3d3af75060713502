"""ItD: latents of a text encoder that only the concept's prompts have are deactivated there (arXiv 2503.09446)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining, check_weights, config_from
from efface.errors import EffaceError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from efface.erasers.base import Evidence
    from efface.erasures import Erasure
    from efface.erasures.latent_edit import LatentEdit
    from efface.models.model import Model
    from efface.sae.autoencoder import SparseAutoencoder
    from efface.sae.text_states import TextSites

EXTENDS = "text-edit"
LEARNS = ("words",)
"""Kind of the erasures that hardening can add to."""
CALIBRATED = {"style": -6.0}
"""Kind -> gain by which the authors' code finds the gate's threshold, where it is not the gain that it then applies."""
SHARE = 0.99
"""Of the least strength among the concept's prompts: the threshold there."""


@dataclass(frozen=True)
class Config(Retaining):
    """Options of ItD."""

    coder: str = "emoji"
    """Folder of a run on layers of text encoders (`efface sae train MODEL --site text_encoder`), or of one autoencoder; `emoji` is the
    canvas's own."""
    sites: tuple[str, ...] = ()
    """Layers that are edited, or patterns over several; by default those that the folder has autoencoders of, or the usual layer of
    the first text encoder (paper: the ninth of CLIP's twelve)."""
    latents: int | None = None
    """Latents of each of the concept's prompts, the strongest ones; by default all that are active (paper: 128, for a style 256)."""
    retained_latents: int | None = None
    """Latents of each retained prompt that count as its own; by default all (paper: as above)."""
    ratio: float = 10.0
    """A latent of the concept is chosen where the share of the concept's prompts that have it is so many times that of retained ones
    (paper: infinite, none of them has it). Whether a prompt is edited at all is told by what no retained prompt has."""
    margin: float = 1.1
    """How many times its largest activation in any retained prompt a latent must have to tell of the concept."""
    gain: float = -8.0
    """Factor of a chosen latent (paper: −8)."""
    threshold: float | None = None
    """τ: the edit acts on a prompt in which its mean square, over the prompt's positions and channels, is above. By default the
    largest of the retained prompts, which is 0 where all their latents are spared."""
    mode: Literal["fast", "exact", "published"] = "fast"
    """`fast`: active above the autoencoder's threshold, a file of the chosen rows; `exact`: among the k largest of its position, with
    the whole autoencoder; `published`: the whole state is replaced by its reconstruction."""
    certainty: float = 0.5
    """Share of its largest activation in the concept's prompts that it must have as well, unless one of those prompts is told by no
    other latent (paper: 0)."""
    aliases: bool = True
    """Whether the concepts' aliases are erased with them."""
    neutral: bool = True
    """Whether plain sentences of everyday things are retained too; they cost nothing, since nothing is drawn."""

    def __post_init__(self) -> None:
        for name in ("latents", "retained_latents"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise UsageError(f"{name} is {count}; expected at least 1.")
        if self.threshold is not None:
            check_weights(self, "threshold")
        if not 0 <= self.certainty < 1:
            raise UsageError(f"certainty is {self.certainty}; expected 0 to less than 1.")
        if not self.ratio > 0 or not self.margin >= 1:
            raise UsageError(
                f"ratio is {self.ratio} and margin {self.margin}; expected a ratio above 0 and a margin of at least 1."
            )


def _published_count(concepts: Sequence[Concept]) -> int:
    return 256 if concepts[0].kind == "style" else 128


PUBLISHED: Mapping[str, Any] = {
    "mode": "published",
    "latents": _published_count,
    "retained_latents": _published_count,
    "ratio": float("inf"),
    "certainty": 0.0,
    "aliases": False,
    "neutral": False,
}
"""What `--as-published` changes; the threshold is then found as the authors' code does, by kind."""


def pictures(concepts: Sequence[Concept], config: Config, *, judged: bool) -> int:
    """None: it reads prompts alone."""
    return 0


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """F = latents of the concepts' prompts − latents of retained prompts; h + Σ_F (gain − 1) z W_dec in the prompts above the gate.

    What the autoencoder cannot explain stays, so that a prompt in which no latent of F is active keeps every bit.

    Raises:
        EffaceError: there is nothing to retain, no autoencoder for a layer, or no latent is the concept's alone.
    """
    return _erasure(model, concepts, config, ())


def extend(model: Model, erasure: Erasure, evidence: Evidence) -> Erasure:
    """The same with the prompts that attacks found among the concept's; raises EffaceError where they found embeddings."""
    origin = erasure.provenance
    config = replace(config_from(Config, origin.config), keep=origin.keep)
    return _erasure(model, origin.concepts, config, evidence.words())


def _erasure(model: Model, concepts: Sequence[Concept], config: Config, found: Sequence[str]) -> Erasure:
    from efface.closed_form.rows import with_aliases
    from efface.concepts.retained import naming, neutral_prompts
    from efface.erasures.provenance import provenance
    from efface.erasures.text_edit import TextEdit, TextGate
    from efface.sae.text_states import component_of
    from efface.steering.text_latents import distinct, edit_of, latents_of, unreached

    named = with_aliases(concepts, config.aliases)
    targets = list(dict.fromkeys([*(p for concept in named for p in concept.prompts()), *found]))
    neutral = neutral_prompts(concepts) if config.neutral else []
    retained = [p for p in dict.fromkeys([*(config.keep or ()), *neutral]) if p not in targets]
    retained = [p for p in retained if not naming([p], concepts)]
    if not retained:
        raise EffaceError("ItD spares the latents of prompts that stay, and none were given: name some (--keep).")
    text, saes, references = _opened(model, config)
    if left := unreached(model, text.sites):
        warnings.warn(
            f"{left} do not depend on {' and '.join(site.name for site in text.sites)}, so that the concept may come back through "
            "them: train autoencoders on layers of every text encoder.",
            stacklevel=4,
        )
    own = latents_of(text, saes, targets, config.latents)
    spared = latents_of(text, saes, retained, config.retained_latents)
    edits = {}
    for name, sae in saes.items():
        chosen = distinct(own[name], spared[name], config.ratio)
        if (own[name].peak > spared[name].peak)[chosen].any():
            edits[name] = edit_of(sae, chosen, config.gain, own[name].least)
    if not edits:
        raise EffaceError(
            f"no latent of {', '.join(saes)} tells the concept's prompts from the {len(retained)} retained ones: train an autoencoder "
            "with more latents, or retain less."
        )
    if config.mode == "published":
        tells = {name: edit.gate[0] for name, edit in edits.items()}
    else:
        tells = _tells(text, edits, saes, config, targets, retained)
    thresholds = _thresholds(text, edits, tells, saes, concepts, config, targets, retained)
    begins = {site.name: text.begins[component_of(site)] for site in text.sites}
    gates = {name: TextGate(threshold=thresholds[name], begin=begins[name], tells=tells[name]) for name in edits}
    settings = asdict(config) | {"sites": list(edits), "coders": {name: references[name] for name in edits}}
    notes = {"latents": {name: len(edit.latents) for name, edit in edits.items()}, "thresholds": thresholds}
    notes |= {"targets": len(targets), "retained": len(retained)}
    origin = provenance(model, "itd", settings, concepts, config.keep or (), **notes)
    return TextEdit(provenance=origin, edits=edits, gates=gates, saes=saes)


def _tells(
    text: TextSites,
    edits: Mapping[str, LatentEdit],
    saes: Mapping[str, SparseAutoencoder],
    config: Config,
    targets: Sequence[str],
    retained: Sequence[str],
) -> dict[str, Tensor]:
    """Site name -> activation above which each chosen latent tells of the concept (chosen,); what cannot be told is said."""
    import torch

    from efface.steering.text_latents import peaks_of, tells_of

    tells, members = {}, saes if config.mode == "exact" else {}
    kept = peaks_of(text, edits, members, retained)
    for name, peaks in peaks_of(text, edits, members, targets).items():
        floor = torch.maximum(edits[name].gate[0], config.margin * kept[name].amax(0))
        tells[name] = tells_of(peaks, floor, config.certainty)
        missed = [prompt for prompt, row in zip(targets, peaks, strict=True) if not (row > tells[name]).any()]
        if missed:
            warnings.warn(
                f"no latent of {name} tells {missed[0]!r} ({len(missed)} of the concept's {len(targets)} prompts) from what is "
                "retained, so that it is not edited there: train an autoencoder with more latents, or retain less.",
                stacklevel=5,
            )
    return tells


def _opened(model: Model, config: Config) -> tuple[TextSites, dict[str, SparseAutoencoder], dict[str, dict[str, str]]]:
    """The layers that are edited, their autoencoders and how the erasure's header names them."""
    from efface.sae.harvest import sites_of
    from efface.sae.text_states import TextSites
    from efface.steering.statistics_source import open_saes, text_sites_of

    sites = sites_of(model, config.sites or text_sites_of(config.coder, model))
    opened = open_saes(config.coder, [site.name for site in sites])
    if differing := [name for name, sae in opened.saes.items() if sae.config.reads != "output"]:
        raise EffaceError(
            f"the autoencoder of {differing[0]} reads output − input, which ItD does not edit: train one on outputs."
        )
    return TextSites(model, sites), {name: sae.at_inference() for name, sae in opened.saes.items()}, opened.references


def _thresholds(
    text: TextSites,
    edits: dict[str, LatentEdit],
    tells: dict[str, Tensor],
    saes: dict[str, SparseAutoencoder],
    concepts: Sequence[Concept],
    config: Config,
    targets: Sequence[str],
    retained: Sequence[str],
) -> dict[str, float]:
    """Site name -> τ."""
    from efface.steering.text_latents import published_strengths, strengths

    if config.threshold is not None:
        return dict.fromkeys(edits, config.threshold)
    if config.mode == "published":
        kind = concepts[0].kind
        gain = CALIBRATED.get(kind, config.gain)
        calibrated = {name: edit._replace(gain=gain + 0 * edit.gain) for name, edit in edits.items()}
        found = published_strengths(text, calibrated, saes, targets, largest=kind == "person")
        return {name: SHARE * float(values.min()) for name, values in found.items()}
    found = strengths(text, edits, tells, saes if config.mode == "exact" else {}, retained)
    return {name: float(values.max()) for name, values in found.items()}
