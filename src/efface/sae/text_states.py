"""What layers of text encoders give for prompts, and which of their positions are the prompts' own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from efface.errors import EffaceError, UsageError
from efface.families.prompt_bounds import PromptBounds, begin_of
from efface.families.sites import Site
from efface.models.model import Model
from efface.sae.harvest import record_sites

UNLIKE = ("a", "9 x", "zebra")
"""Prompts that begin with different tokens: what they have in common at their beginning is of the template."""


class PromptStates(NamedTuple):
    """A batch of prompts at one site."""

    states: Tensor
    """Activations (batch tokens width)."""
    ids: Tensor
    """Token of every position (batch tokens)."""
    own: Tensor
    """Whether a position is the prompt's own: no begin token, template or padding (batch tokens)."""
    behind: Tensor
    """Whether it is padding behind the prompt (batch tokens)."""


class TextSites:
    """Sites in text encoders, with what is needed to read them.

    Args:
        model: has the encoders.
        sites: their sites.

    Raises:
        UsageError: a site is of the denoiser.
    """

    def __init__(self, model: Model, sites: Sequence[Site]):
        if foreign := [site.name for site in sites if not site.reads_text]:
            raise UsageError(
                f"{foreign[0]} is no layer of a text encoder: train its autoencoder from pictures, apart from those of text."
            )
        self.model = model
        self.sites = list(sites)
        self.begins = {component: self._begin(component) for component in {component_of(site) for site in sites}}
        """Component -> positions that every prompt begins with there."""

    def read(self, prompts: Sequence[str]) -> dict[str, PromptStates]:
        """Site name -> what it gives for prompts.

        Raises:
            EffaceError: a site was not called or is not finite.
        """
        with self._bounds() as bounds, record_sites(self.sites) as activations:
            self.model.encode(prompts, batch=len(prompts))
        found = {}
        for site in self.sites:
            if site.name not in activations or activations[site.name].ndim != 3:
                raise EffaceError(
                    f"{site.name} gives no states of prompts (batch tokens width): name a whole layer of a text encoder."
                )
            states, reader = activations[site.name], bounds[component_of(site)]
            if not torch.isfinite(states).all():
                raise EffaceError(f"{site.name} gave values that are not finite: check the model's weights and dtype.")
            tokens, begin = states.shape[1], self.begins[component_of(site)]
            ids = reader.ids
            if ids is None or len(states) != len(prompts):
                raise EffaceError(
                    f"{component_of(site)} is not given one row of tokens a prompt, so no word can be told."
                )
            where = reader.of(states)
            own = where.inside(tokens, begin)
            found[site.name] = PromptStates(states=states, ids=ids, own=own, behind=where.after(tokens, begin) & ~own)
        return found

    @contextmanager
    def _bounds(self) -> Iterator[dict[str, PromptBounds]]:
        """Context in which every text encoder's calls say where their prompts lie."""
        encoders = self.model.family.text_encoders()
        readers = {name: PromptBounds(tokenizer_of(self.model, name)) for name in encoders}
        with ExitStack() as stack:
            for name, reader in readers.items():
                handle = encoders[name].register_forward_pre_hook(reader, with_kwargs=True)
                stack.callback(handle.remove)
            yield readers

    def _begin(self, component: str) -> int:
        with self._bounds() as bounds:
            self.model.encode(UNLIKE)
        reader = bounds[component]
        if reader.ids is None or len(reader.ids) != len(UNLIKE):
            raise EffaceError(
                f"{component} is not given one row of tokens a prompt, so that its autoencoder cannot be used."
            )
        return begin_of(reader.ids, reader.of(reader.ids[..., None]))


def component_of(site: Site) -> str:
    """The text encoder that a site is in."""
    return site.name.partition(".")[0]


def tokenizer_of(model: Model, component: str) -> object:
    """The tokenizer, or the processor around it, of a text encoder."""
    return getattr(model.pipeline, component.replace("text_encoder", "tokenizer"))
