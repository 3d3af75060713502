"""MACE: keys and values forget a concept in its context, a LoRA each turns attention off where pictures show it, and a last
closed form makes one edit of all of them (Lu et al., CVPR 2024, arXiv 2403.06135)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from efface.concepts.concept import Concept
from efface.erasers.base import Retaining, check_weights
from efface.errors import EffaceError, UsageError
from efface.training.config import Training, Work

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from efface.erasures import Erasure
    from efface.models.model import Model
    from efface.training.loop import Step, Trained


@dataclass(frozen=True)
class Config(Training, Retaining):
    """Options of MACE; defaults are its authors' for objects."""

    iterations: int = 50
    """Training steps of each concept's LoRA (authors: 50; 120 for nudity)."""
    lr: float = 1e-5
    """Learning rate of AdamW (authors: 1e-5; 1e-4 for celebrities and artists)."""
    rank: int | None = 1
    """Rank of a concept's LoRA (authors: 1)."""
    ridge: float = 1e3
    """λ, weight of leaving the matrices as they are in both closed forms (authors: 1000 for objects, 0 else)."""
    prior: float = 0.0
    """s, weight of a row of `efface prior`, which stands for the authors' captions of COCO (authors: 0 for objects, 1e-4 for
    celebrities and artists, 7e-7 for nudity)."""
    keep_weight: float = 1.0
    """Weight of a row of the retained prompts, the authors' domain."""
    images: int = 8
    """Pictures of each concept that the model draws first (authors: 8)."""
    batch: int = 1
    """Pictures a step (authors: 1, of which their code reads one however many there are)."""
    draw_steps: int = 50
    """Sampler steps of those pictures."""
    guidance: float = 7.5
    """Guidance scale of those pictures."""
    timesteps: Literal["middle", "all"] = "middle"
    """`middle`: mostly 200 to 400, where pictures take shape; `all`: uniform (authors for nudity)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_weights(self, "ridge", "prior", "keep_weight")
        if self.retain:
            raise UsageError(f"retain is {self.retain}; mace retains prompts in its closed forms: set keep_weight.")
        if min(self.images, self.batch, self.draw_steps) < 1:
            raise UsageError(
                f"images, batch and draw_steps are {self.images}, {self.batch} and {self.draw_steps}; expected at least 1 each."
            )

    def work(self, concepts: Sequence[Concept]) -> Work:
        """A mask and an output of each picture."""
        return self.each_step(forward=self.batch, back=self.batch, together=self.batch).times(len(concepts))


_BY_KIND: Mapping[str, Mapping[str, Any]] = {
    "explicit": {"iterations": 120, "ridge": 0.0, "prior": 7e-7, "timesteps": "all"},
    "person": {"lr": 1e-4, "ridge": 0.0, "prior": 1e-4},
    "style": {"lr": 1e-4, "ridge": 0.0, "prior": 1e-4},
}


def _published(name: str) -> Any:
    """A field's value by the kind of the first concept."""
    return lambda concepts: _BY_KIND.get(concepts[0].kind, {}).get(name, getattr(Config, name))


PUBLISHED: Mapping[str, Any] = {name: _published(name) for name in ("iterations", "lr", "ridge", "prior", "timesteps")}
"""By kind. Masks come from the frozen model's attention where the authors ask a segmenter, sentences are efface's own, and s
counts once in each closed form, where the authors' first one counts it twice (s² ≈ 1e-8)."""


def pictures(concepts: Sequence[Concept], config: Config, *, judged: bool) -> int:
    """Pictures of the concepts on which it trains."""
    return config.images * len(concepts)


def erase(model: Model, concepts: Sequence[Concept], config: Config, judge: object = None) -> Erasure:
    """W' = W M; of each concept a LoRA Δᵢ on W' that makes L = Σ over layers ‖A[heads, pixels, tokens]‖ small, A the attention to
    the concept's tokens and the end token, at pixels that show it; then one W* that does at the concepts' texts what the
    W' + Δᵢ do.

    Raises:
        EffaceError: text states do not enter keys and values of cross-attention as they come.
    """
    from efface.closed_form.context import context_forms, fused
    from efface.erasures.delta import weight_delta
    from efface.models.precision import on_cpu
    from efface.training import loop
    from efface.training.groups import weights_of
    from efface.training.holders import Dense, LowRank, Upon
    from efface.training.result import begin

    network = model.networks()[0].name
    read = [p.name for p in model.text_projections() if p.name.startswith(f"{network}.")]
    if not all(name.endswith(("attn2.to_k", "attn2.to_v")) for name in read):
        raise EffaceError(
            f"text enters this {model.family.name} pipeline by other ways than keys and values of cross-attention, on which the "
            "closed forms of mace stand: choose another method."
        )
    weights = [weight for weight in weights_of(model, "text") if weight.name.removesuffix(".weight") in read]
    forms = context_forms(
        model, concepts, ridge=config.ridge, prior=config.prior, keep=config.keep or (), keep_weight=config.keep_weight
    )
    refined = [
        weight.read() + (on_cpu(weight.read()) @ forms.map.u @ forms.map.v.T).to(weight.read()) for weight in weights
    ]
    run = begin(model, "mace", concepts, config)
    learnt: list[dict[str, Tensor]] = []
    notes: dict[str, Any] = {"steps": 0}
    for number, concept in enumerate(concepts):

        def learn(folder: Path, number: int = number, concept: Concept = concept) -> Trained:
            import torch

            held = Upon(Dense(weights), refined, LowRank(weights, config.rank or 1, config.seed + number))
            optimiser = torch.optim.AdamW(held.parameters, lr=config.lr, weight_decay=0.01)
            return loop.train(
                model, held, attention_loss(model, concept, config), config, optimiser=optimiser, folder=folder
            )

        trained = run.stage(f"concept-{number}", learn)
        learnt.append(trained.deltas)
        notes |= trained.notes | {"steps": notes["steps"] + trained.notes["steps"]}
        if "unfinished" in trained.notes:
            notes["unfinished"] += config.iterations * (len(concepts) - number - 1)
            break
    deltas = {}
    for weight in weights:
        factors = [(one[f"{weight.name}.up"], one[f"{weight.name}.down"]) for one in learnt]
        deltas[weight.name] = fused(weight.read(), forms, factors)
    return weight_delta(run.provenance(notes), deltas)


def attention_loss(model: Model, concept: Concept, config: Config) -> Any:
    """L of one concept, at its own pictures with noise; the mean over the pictures of a step."""
    import torch

    from efface.training.images import draw_concept_images
    from efface.training.latents import Noisy
    from efface.training.maps import attention_maps, concept_mask, positions_of, resized

    prompts = concept.prompts()
    settings: Any = {"steps": config.draw_steps, "guidance": config.guidance, "side": config.side}
    drawn = draw_concept_images(model, prompts, config.images, settings)
    weights = timestep_weights(drawn.num_train_timesteps, config.timesteps)
    attended = {}
    for prompt in prompts:
        own = positions_of(model, prompt, concept.name)
        end = int(model.encode([prompt]).last[0]) + 1
        attended[prompt] = own, [*own, end]

    def loss(step: Step) -> Tensor:
        x = drawn.batch(config.batch, config.seed, step.number)
        losses = []
        for row, member in enumerate(x.members):
            t = torch.multinomial(weights, 1, generator=step.random).to(x.clean.device)
            z = Noisy(model.to_noisy(x.clean[row : row + 1], x.noise[row : row + 1], t), t)
            text = model.encode([drawn.prompts[member]])
            own, tokens = attended[drawn.prompts[member]]
            shown = concept_mask(model, z, text, own)
            with step.edited(), attention_maps(model) as recorders:
                step.predict(z, text)
                maps = [recorder.probabilities()[0] for recorder in recorders]
            inside = [a[:, resized(shown, a.shape[1])[0]][..., tokens] for a in maps]
            losses.append(torch.stack([a.square().sum().clamp(min=1e-12).sqrt() for a in inside]).sum())
        return torch.stack(losses).mean()

    return loss


def timestep_weights(count: int, which: Literal["middle", "all"]) -> Tensor:
    """How likely each timestep is (timesteps,): σ(0.05(t − 200)) − σ(0.05(t − 400)) for a schedule of 1000, or all alike."""
    import torch

    t = torch.arange(count) * (1000 / count)
    if which == "all":
        return torch.ones(count)
    return torch.sigmoid(0.05 * (t - 200)) - torch.sigmoid(0.05 * (t - 400))
