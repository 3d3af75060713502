"""An erasure as a hook of diffusers, for a denoiser whose pipeline is not known here, or where there is no pipeline at all."""

from __future__ import annotations

import inspect
from typing import Any

from diffusers.hooks import HookRegistry, ModelHook
from torch import nn
from torch.utils.hooks import RemovableHandle

from efface.erasures.activation import ActivationEdit
from efface.erasures.erasure import Erasure
from efface.erasures.gated import GatedMap
from efface.erasures.textmap import TextMap
from efface.errors import EffaceError, UsageError
from efface.families import Network
from efface.families.networks import TextInput, with_pooled
from efface.families.sdxl import StableDiffusionXL
from efface.families.sites import Site

NAME = "efface"
TEXT = "encoder_hidden_states"
TIMESTEP = "timestep"


class ErasureHook(ModelHook):
    """What `Erasure.attach` does, on one UNet: text states are mapped, or chosen modules' outputs edited.

        HookRegistry.check_if_exists_or_initialize(unet).register_hook(ErasureHook(erasure), "efface")

    Nothing compares the UNet with the model that the erasure was made for but the width of its text states.
    """

    def __init__(self, erasure: Erasure, scale: float = 1.0):
        super().__init__()
        if not isinstance(erasure, TextMap | GatedMap | ActivationEdit):
            raise UsageError(
                f"an erasure of kind {erasure.kind!r} edits weights, or needs more of a pipeline than its UNet: attach it to a "
                "pipeline, or export it as a LoRA."
            )
        self.erasure = erasure
        self.scale = scale
        self.handles: list[RemovableHandle] = []

    def initialize_hook(self, module: nn.Module) -> nn.Module:
        """Find where the call takes text and noise level; an edit of activations puts its own hooks on its modules."""
        names = list(inspect.signature(type(module).forward).parameters)[1:]
        if TEXT not in names or TIMESTEP not in names:
            raise EffaceError(
                f"{type(module).__name__} takes no {TEXT} and {TIMESTEP}; expected a UNet of diffusers: attach the erasure to a "
                "pipeline instead."
            )
        self.text = TextInput(module, TEXT, names.index(TEXT))
        network = Network(name="unet", module=module, text_inputs=(self.text,))
        self.pooled = with_pooled(network, StableDiffusionXL.pooled_layer, "added_cond_kwargs", "text_embeds").pooled
        if isinstance(self.erasure, ActivationEdit):
            sites = {name: Site(name, _module(module, name)) for name in self.erasure.edits}
            timestep = (TIMESTEP, names.index(TIMESTEP))
            denoiser = Network(name="unet", module=module, text_inputs=(), timestep_argument=timestep)
            self.handles = self.erasure.hooks_at(denoiser, sites, self.scale)
        return module

    def deinitalize_hook(self, module: nn.Module) -> nn.Module:
        """Take off what `initialize_hook` put on; the misspelt name is diffusers' own."""
        for handle in self.handles:
            handle.remove()
        return module

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Map the text of a call."""
        erasure = self.erasure
        if not isinstance(erasure, TextMap | GatedMap):
            return args, kwargs
        states = self.text.read(args, kwargs)
        if states is not None and states.shape[-1] != erasure.width:
            raise EffaceError(
                f"the erasure was made for text states {erasure.width} wide, these are {states.shape[-1]}: use its own model."
            )
        for change in erasure.changes_at(self.text, self.pooled, self.scale):
            args, kwargs = change.run(module, args, kwargs)
        return args, kwargs


def hook(unet: nn.Module, erasure: Erasure, *, scale: float = 1.0, name: str = NAME) -> None:
    """Put an erasure on a UNet by diffusers' own registry of hooks; `unhook` takes it off.

    Args:
        unet: of any pipeline or training loop.
        erasure: a text map or an edit of activations.
        scale: as of `Erasure.attach`.
        name: in the registry, one for each erasure; later ones act on the text first.

    Raises:
        UsageError: the erasure edits weights, or the name is taken.
        EffaceError: the module takes no text, or lacks a module that is edited.
    """
    registry = HookRegistry.check_if_exists_or_initialize(unet)
    if registry.get_hook(name) is not None:
        raise UsageError(f"the UNet already has a hook called {name!r}: give another name, or unhook that one first.")
    registry.register_hook(ErasureHook(erasure, scale), name)


def unhook(unet: nn.Module, name: str = NAME) -> None:
    """Take an erasure off again; nothing happens where there is none."""
    HookRegistry.check_if_exists_or_initialize(unet).remove_hook(name, recurse=False)


def _module(unet: nn.Module, name: str) -> nn.Module:
    """The module that is called `unet.PATH`; raises EffaceError where there is none."""
    component, _, path = name.partition(".")
    try:
        if component == "unet":
            return unet.get_submodule(path)
    except AttributeError:
        pass
    raise EffaceError(f"the UNet has no module {name}, which the erasure edits: was it made for another model?")
