"""Sites: modules whose output can be read and edited as (batch tokens width), whatever their own layout.

They are modules of the denoiser, or of a text encoder where a pattern begins with its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import Tensor, nn

from efface.errors import EffaceError, UsageError
from efface.families.encoder_layers import layer_paths, usual_layer
from efface.families.networks import Network

TEXT = "text_encoder"
"""What the names of text encoders, and of the sites in them, begin with."""


class Site(NamedTuple):
    """A module of the denoiser or of a text encoder whose output is a map or a sequence."""

    name: str
    """Component and path, for example `unet.up_blocks.1.attentions.1`."""
    module: nn.Module
    """The module itself."""
    part: int = 0
    """Where in a tuple that it returns the picture's states stand; joint blocks return (text, picture)."""
    difference: bool = False
    """Whether an autoencoder reads output − input of it instead of its output."""

    @property
    def reads_text(self) -> bool:
        """Whether it is in a text encoder, which runs once a prompt and knows no timestep."""
        return self.name.startswith(TEXT)

    def states(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Tensor:
        """What an autoencoder reads of one call (batch tokens width).

        Args:
            args: of the call.
            kwargs: of the call.
            output: what it returned.

        Raises:
            EffaceError: the difference is asked for, and input and output have different shapes.
        """
        after = self.read(output)
        if not self.difference:
            return after
        before = self.read(args[0] if args else kwargs.get("hidden_states", after[:, :0]))
        if before.shape != after.shape:
            raise EffaceError(
                f"{self.name} takes {tuple(before.shape)} and gives {tuple(after.shape)}, so there is no output − input for "
                "its autoencoder to read: name a site that keeps its shape, such as a whole block of attention."
            )
        return after - before

    def read(self, output: Any) -> Tensor:
        """The output as (batch tokens width), sharing its memory."""
        hidden = self._hidden(output)
        return hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden

    def write(self, output: Any, tokens: Tensor) -> Any:
        """An output like the given one that holds `tokens` (batch tokens width) instead."""
        return self._like(output, _shaped(tokens, self._hidden(output)).contiguous())

    def add(self, output: Any, delta: Tensor) -> Any:
        """An output like the given one with `delta` (batch tokens width) added, in the same layout in memory."""
        hidden = self._hidden(output)
        return self._like(output, hidden + _shaped(delta, hidden))

    def _hidden(self, output: Any) -> Tensor:
        """The hidden states in what a block returns: a tensor, a tuple, or diffusers' output class."""
        if isinstance(output, Tensor):
            return output
        return output[self.part] if isinstance(output, tuple) else output.sample

    def _like(self, output: Any, hidden: Tensor) -> Any:
        if isinstance(output, Tensor):
            return hidden
        if isinstance(output, tuple):
            return (*output[: self.part], hidden, *output[self.part + 1 :])
        return type(output)(**(dict(output) | {"sample": hidden}))


def _shaped(tokens: Tensor, hidden: Tensor) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, hidden.shape[2:]) if hidden.ndim == 4 else tokens


def sites_in(
    denoiser: Network, pattern: str, part_of: Callable[[nn.Module], int], encoders: Mapping[str, nn.Module]
) -> list[Site]:
    """The sites of a model that a pattern names.

    Args:
        denoiser: where they are, unless the pattern says otherwise.
        pattern: for fnmatch. One that begins with `text_encoder` names text encoders by its first part, and their modules by the
            rest; without a rest, the layer of each that autoencoders usually read.
        part_of: says of a module of the denoiser which part of its output tuple holds the picture's states.
        encoders: component name -> text encoder.

    Raises:
        UsageError: nothing matches; near names are suggested.
    """
    if not pattern.startswith(TEXT):
        return sites_matching(denoiser.name, denoiser.module, pattern, part_of)
    component, _, rest = pattern.partition(".")
    named = {name: encoder for name, encoder in encoders.items() if fnmatchcase(name, component)}
    if not named:
        raise UsageError(f"the model has no text encoder {component!r}; expected one of {', '.join(encoders)}.")
    if rest:
        return [site for name, encoder in named.items() for site in sites_matching(name, encoder, f"{name}.{rest}")]
    usual = {name: usual_layer(encoder) for name, encoder in named.items()}
    if unknown := [name for name, path in usual.items() if path is None]:
        raise UsageError(
            f"the layers of {unknown[0]} ({type(named[unknown[0]]).__name__}) have names that efface does not know: name a module "
            "of it (`efface sae sites MODEL 'text_encoder.*'`)."
        )
    return [Site(f"{name}.{path}", named[name].get_submodule(str(path))) for name, path in usual.items()]


def text_layers(encoders: Mapping[str, nn.Module]) -> list[Site]:
    """Every layer of every text encoder whose layers have known names."""
    return [
        Site(f"{name}.{path}", encoder.get_submodule(path))
        for name, encoder in encoders.items()
        for path in layer_paths(encoder)
    ]


def sites_matching(
    component: str, module: nn.Module, pattern: str, part_of: Callable[[nn.Module], int] = lambda module: 0
) -> list[Site]:
    """Submodules whose path, with or without the component's name, matches an fnmatch pattern.

    Args:
        component: name of the network in its pipeline.
        module: the network.
        pattern: for fnmatch.
        part_of: says of a module which part of its output tuple holds the picture's states.

    Raises:
        UsageError: nothing matches; near names are suggested.
    """
    modules = [(f"{component}.{path}", part) for path, part in module.named_modules() if path]
    wanted = pattern if pattern.startswith(f"{component}.") else f"{component}.{pattern}"
    sites = [Site(name, part, part_of(part)) for name, part in modules if fnmatchcase(name, wanted)]
    if not sites:
        near = get_close_matches(wanted, [name for name, _ in modules], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}" if near else "list them with `efface sae sites MODEL`"
        raise UsageError(f"no module of the model matches the site {pattern!r}: {hint}.")
    return sites
