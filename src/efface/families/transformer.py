"""What diffusion transformers share: a component called `transformer`, and text that the pipeline itself encodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.families.base import Family, Network, Projection, Side, cells_of, execution_device, unwrap
from efface.families.drawing import WAY_OUT
from efface.families.layers import class_names
from efface.families.networks import TextInput, with_pooled
from efface.families.projections import projection
from efface.families.text import Text, TokenSpan


class Transformer(Family):
    """A pipeline with a transformer of one of the named classes; a family names its text encoders and fills the rest."""

    denoisers: ClassVar[tuple[str, ...]] = ()
    """Class names of the transformers that it knows."""
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    """Components that read text; a `text_encoder_2` has a `tokenizer_2`."""
    joint: ClassVar[tuple[str, ...]] = ()
    """Lists of blocks that return (text, picture)."""
    timestep_argument: ClassVar[tuple[str, int]] = ("timestep", 1)
    """Name and position of the transformer's argument that holds the noise level."""

    @classmethod
    def serves(cls, pipeline: Any) -> bool:
        transformer = unwrap(getattr(pipeline, "transformer", None))
        return bool(class_names(transformer) & set(cls.denoisers))

    @property
    def network(self) -> Any:
        """The transformer, unwrapped from torch.compile."""
        return unwrap(self.pipeline.transformer)

    def text_encoders(self) -> dict[str, nn.Module]:
        components = {name: unwrap(getattr(self.pipeline, name, None)) for name in self.encoders}
        return {name: module for name, module in components.items() if module is not None}

    def tokenizer_and_encoder(self, encoder: str) -> tuple[Any, Any]:
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
        states, pooled, mask = self.encode_prompts(list(prompts))
        spans = self.token_spans()
        tightest = min(spans, key=lambda span: span.max_tokens)
        last = torch.tensor([spans[0].start + spans[0].position(prompt) for prompt in prompts])
        truncated = tuple(tightest.truncated(prompt) for prompt in prompts)
        return Text(states=states, pooled=pooled, mask=mask, last=last, truncated=truncated)

    def encode_prompts(self, prompts: list[str]) -> tuple[Tensor, Tensor | None, Tensor]:
        """States, pooled text and mask of prompts (batch …), as the pipeline's own `encode_prompt` has them."""
        raise NotImplementedError

    def masks(self, prompts: Sequence[str], spans: Sequence[TokenSpan]) -> Tensor:
        """True up to each prompt's end token (batch tokens), for families whose pipelines keep no mask."""
        rows = []
        for prompt in prompts:
            inside = [torch.arange(span.length) < span.full_length(prompt) for span in spans]
            rows.append(torch.cat([m.flip(0) if s.pads_left else m for m, s in zip(inside, spans, strict=True)]))
        return torch.stack(rows)

    @property
    def device(self) -> Any:
        """Where the pipeline computes."""
        return execution_device(self.pipeline)

    def networks(self) -> list[Network]:
        return [
            Network(
                name="transformer",
                module=self.network,
                text_inputs=self.text_inputs(),
                timestep_argument=self.timestep_argument,
                to_timestep=self.to_timestep,
            )
        ]

    def to_timestep(self, value: Tensor) -> Tensor:
        """The scheduler's timestep of what the transformer takes for a noise level."""
        return value

    def text_inputs(self) -> tuple[TextInput, ...]:
        """Where text states can be replaced."""
        return (TextInput(self.network, "encoder_hidden_states", 1),)

    def unmapped_inputs(self) -> list[str]:
        names = []
        if unwrap(getattr(self.pipeline, "controlnet", None)) is not None and len(self.networks()) == 1:
            names.append("the ControlNet's own text")
        if getattr(self.network, "encoder_hid_proj", None) is not None or getattr(self.network, "image_proj", None):
            names.append("IP-Adapter's image states")
        return names

    def require_drawable(self) -> None:
        super().require_drawable()
        if "IP-Adapter's image states" in self.unmapped_inputs():
            raise EffaceError(
                f"the pipeline has an IP-Adapter, whose image efface's drawing does not give: unload it, or {WAY_OUT}."
            )

    def part_of(self, module: nn.Module) -> int:
        blocks = (block for name in self.joint for block in getattr(self.network, name))
        return int(any(module is unwrap(block) for block in blocks))

    def latent_shape(self, side: Side) -> tuple[int, int, int]:
        config = self.network.config
        patch = config.get("patch_size") or 1
        return config.in_channels, *cells_of(side, self.cells(), self.pipeline.vae_scale_factor, patch)

    def cells(self) -> int:
        """Cells of a side of the model's own pictures."""
        return self.network.config.sample_size

    def batch_timestep(self, timestep: Tensor, latents: Tensor) -> Tensor:
        """The scheduler's timestep for every picture (batch)."""
        return torch.as_tensor(timestep, device=latents.device).reshape(-1).expand(len(latents))


class JointTransformer(Transformer):
    """Transformers that mix text and picture states: the text enters through one linear layer."""

    exact = "exact at the entry projection; approximate beyond, where text and picture mix"
    text_layer: ClassVar[str] = "context_embedder"
    """Path of the linear layer that reads the text states."""

    def networks(self) -> list[Network]:
        controls = unwrap(getattr(self.pipeline, "controlnet", None))
        nets = [] if controls is None else list(getattr(controls, "nets", [controls]))
        names = ["controlnet"] if len(nets) == 1 else [f"controlnet.nets.{i}" for i in range(len(nets))]
        beside = [
            # Pipelines pass a ControlNet's text by name.
            Network(name, unwrap(net), (TextInput(unwrap(net), "encoder_hidden_states"),))
            for name, net in zip(names, nets, strict=True)
            if getattr(unwrap(net), self.text_layer, None) is not None
        ]
        networks = [*super().networks(), *beside]
        if not self.pooled_layer:
            return networks
        return [with_pooled(network, self.pooled_layer, "pooled_projections") for network in networks]

    def projections(self) -> list[Projection]:
        return [
            projection(f"{e.name}.{self.text_layer}", e.module.get_submodule(self.text_layer)) for e in self.networks()
        ]
