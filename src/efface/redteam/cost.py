"""What an attack spent, counted by hooks on the networks."""

from __future__ import annotations

from typing import Any, NamedTuple

from efface.models.model import Model


class Cost(NamedTuple):
    """What an attack spent; one unit is one picture's latents, or one prompt, through a network once."""

    denoiser: int
    """Evaluations of the denoiser; a guided step counts twice, a gradient step as its forward pass."""
    encoder: int
    """Prompts through the text encoder."""
    seconds: float

    def __add__(self, other: tuple[Any, ...]) -> Cost:
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))

    def __str__(self) -> str:
        return f"{self.denoiser:,} denoiser and {self.encoder:,} text encoder evaluations, {self.seconds:.0f} s"

    def shared(self, count: int) -> Cost:
        """One of `count` equal parts."""
        return Cost(round(self.denoiser / count), round(self.encoder / count), round(self.seconds / count, 3))


NOTHING = Cost(0, 0, 0.0)


class Meter:
    """Counts the rows that go through the networks of some models while it is active."""

    def __init__(self, *models: Model):
        self.denoiser = 0
        self.encoder = 0
        self.denoisers = {id(m): m for m in (model.networks()[0].module for model in models)}
        self.encoders = {id(m): m for model in models for m in model.family.text_encoders().values()}
        self.prompts_each = len(models[0].family.text_encoders())

    def __enter__(self) -> Meter:
        self.handles = [
            module.register_forward_pre_hook(hook, with_kwargs=True)
            for modules, hook in ((self.denoisers, self._denoiser), (self.encoders, self._encoder))
            for module in modules.values()
        ]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self.handles:
            handle.remove()

    def cost(self, seconds: float) -> Cost:
        """What was counted so far."""
        return Cost(self.denoiser, self.encoder // self.prompts_each, seconds)

    def _denoiser(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.denoiser += _rows(args, kwargs)

    def _encoder(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.encoder += _rows(args, kwargs)


def _rows(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The batch of a call, from its first tensor."""
    return next(len(value) for value in (*args, *kwargs.values()) if hasattr(value, "shape"))
