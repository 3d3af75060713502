"""What diffusion transformers share: a component called `transformer`, and text that the pipeline itself encodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families.base import Entry, Family, Projection, execution_device, unwrap
from efface.families.networks import Door
from efface.families.projections import projection
from efface.families.text import Stream, Text


class Transformer(Family):
    """A pipeline with a transformer of one of the named classes; a family names its text encoders and fills the rest."""

    denoisers: ClassVar[tuple[str, ...]] = ()
    """Class names of the transformers that it knows."""
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """Components that read text; a `text_encoder_2` has a `tokenizer_2`."""
    joint: ClassVar[tuple[str, ...]] = ()
    """Lists of blocks that return (text, picture)."""
    timestep: ClassVar[tuple[str, int]] = ("timestep", 1)
    """Name and place of the argument of the transformer that holds the noise level."""

    @classmethod
    def serves(cls, pipeline: Any) -> bool:
        transformer = unwrap(getattr(pipeline, "transformer", None))
        return any(kind.__name__ in cls.denoisers for kind in type(transformer).__mro__)

    @property
    def network(self) -> Any:
        """The transformer, unwrapped from torch.compile."""
        return unwrap(self.pipeline.transformer)

    def text_encoders(self) -> dict[str, nn.Module]:
        components = {name: unwrap(getattr(self.pipeline, name, None)) for name in self.encoders}
        return {name: module for name, module in components.items() if module is not None}

    def loaded(self, encoder: str) -> tuple[Any, Any]:
        """A text encoder's tokenizer and the encoder; raises EffaceError where the pipeline was loaded without."""
        tokenizer = encoder.replace("text_encoder", "tokenizer")
        pair = getattr(self.pipeline, tokenizer, None), unwrap(getattr(self.pipeline, encoder, None))
        if None in pair:
            raise EffaceError(
                f"the pipeline has no {encoder} or no {tokenizer}, which {self.name} reads prompts with: "
                "load the pipeline with both."
            )
        return pair

    def text(self, prompts: Sequence[str]) -> Text:
        states, pooled, mask = self.encoded(list(prompts))
        streams = self.streams()
        tightest = min(streams, key=lambda stream: stream.room)
        last = torch.tensor([streams[0].start + streams[0].position(prompt) for prompt in prompts])
        return Text(states, pooled, mask, last, tuple(tightest.cut_off(prompt) for prompt in prompts))

    def encoded(self, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        """States, pooled text and mask of prompts (batch …), as the pipeline's own `encode_prompt` has them."""
        raise NotImplementedError

    def masks(self, prompts: Sequence[str], streams: Sequence[Stream]) -> Tensor:
        """True up to each prompt's end token (batch tokens), for families whose pipelines keep no mask."""
        rows = []
        for prompt in prompts:
            filled = [torch.arange(s.length) < s.count(prompt) for s in streams]
            rows.append(torch.cat([f.flip(0) if s.padded_left else f for f, s in zip(filled, streams, strict=True)]))
        return torch.stack(rows)

    @property
    def device(self) -> Any:
        """Where the pipeline computes."""
        return execution_device(self.pipeline)

    def entries(self) -> list[Entry]:
        return [Entry("transformer", self.network, self.doors(), self.timestep, self.to_level)]

    def to_level(self, given: Tensor) -> Tensor:
        """The scheduler's timestep of what the transformer takes for a noise level."""
        return given

    def doors(self) -> tuple[Door, ...]:
        """Where text states can be replaced."""
        return (Door(self.network, "encoder_hidden_states", 1),)

    def uncovered(self) -> list[str]:
        names = []
        if unwrap(getattr(self.pipeline, "controlnet", None)) is not None and len(self.entries()) == 1:
            names.append("the ControlNet's own text")
        if getattr(self.network, "encoder_hid_proj", None) is not None or getattr(self.network, "image_proj", None):
            names.append("IP-Adapter's image states")
        return names

    def part_of(self, module: nn.Module) -> int:
        blocks = (block for name in self.joint for block in getattr(self.network, name))
        return int(any(module is unwrap(block) for block in blocks))

    def latent_shape(self, side: int | None) -> tuple[int, int, int]:
        cells = self.cells() if side is None else side // self.pipeline.vae_scale_factor
        return self.network.config.in_channels, cells, cells

    def cells(self) -> int:
        """Cells of a side of the model's own pictures."""
        return self.network.config.sample_size

    def at(self, level: Tensor, latents: Tensor) -> Tensor:
        """The scheduler's timestep for every picture (batch)."""
        return torch.as_tensor(level, device=latents.device).reshape(-1).expand(len(latents))


class JointEntry(Transformer):
    """Transformers that mix text and picture states: the text enters through one linear layer."""

    exact = "exact at the entry projection; approximate beyond, where text and picture mix"
    entry: ClassVar[str] = "context_embedder"
    """Path of the linear layer that reads the text states."""

    def entries(self) -> list[Entry]:
        controls = unwrap(getattr(self.pipeline, "controlnet", None))
        nets = [] if controls is None else list(getattr(controls, "nets", [controls]))
        names = ["controlnet"] if len(nets) == 1 else [f"controlnet.nets.{i}" for i in range(len(nets))]
        beside = [
            # Pipelines pass a ControlNet's text by name.
            Entry(name, unwrap(net), (Door(unwrap(net), "encoder_hidden_states"),))
            for name, net in zip(names, nets, strict=True)
            if getattr(unwrap(net), self.entry, None) is not None
        ]
        return [*super().entries(), *beside]

    def projections(self) -> list[Projection]:
        return [projection(f"{e.name}.{self.entry}", e.module.get_submodule(self.entry)) for e in self.entries()]
