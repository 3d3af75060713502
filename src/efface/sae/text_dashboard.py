"""What latents on layers of text encoders respond to: their strongest prompts with the words marked, as static pages."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from efface.io.atomic import write_atomically
from efface.report.html import page
from efface.sae.autoencoder import SparseAutoencoder
from efface.sae.text_states import TextSites, component_of, tokenizer_of

TOP = 12
"""Prompts that are shown of every latent."""
BATCH = 64
"""Prompts that are encoded at a time."""
STYLE = """
body{margin:2rem auto;max-width:64rem;padding:0 1rem}a{color:#0645ad;text-decoration:none}a:hover{text-decoration:underline}
p.prompt{margin:.3rem 0}p.prompt span{padding:.1rem .05rem;border-radius:.2rem}td,th{padding:.2rem .8rem .2rem 0}
"""


class MarkedPrompt(NamedTuple):
    """A prompt on which a latent is strong."""

    strength: float
    """Its largest activation at the prompt's own positions."""
    prompt: str
    pieces: tuple[str, ...]
    """The prompt's tokens in letters, each with the space that its word begins with."""
    activations: tuple[float, ...]
    """Activation at each of them."""


class TextDashboard(NamedTuple):
    """Activations of all latents of one site over a set of prompts."""

    site: str
    prompts: int
    """How many."""
    density: Tensor
    """Share of the prompts' own positions at which a latent is active (latents,)."""
    peaks: dict[str, Tensor]
    """Concept -> the mean over its prompts of a latent's largest activation (latents,)."""
    mean: Tensor
    """The same over all prompts (latents,)."""
    strongest: dict[int, list[MarkedPrompt]]
    """Latent -> its strongest prompts, falling; none of a latent that was never active."""

    def concepts_of(self, latent: int, count: int = 5) -> list[tuple[str, float]]:
        """The concepts in whose prompts a latent is strongest, with how many times the average it is."""
        ratios = [(name, float(peak[latent]) / (float(self.mean[latent]) + 1e-12)) for name, peak in self.peaks.items()]
        return sorted(ratios, key=lambda item: -item[1])[:count]

    def best(self, concept: str, count: int = 2) -> list[int]:
        """The latents whose share of all activity is most above the average in a concept's prompts."""
        own, mean = self.peaks[concept], self.mean
        return (own / (own.sum() + 1e-8) - mean / (mean.sum() + 1e-8)).topk(count).indices.tolist()


@torch.no_grad()
def text_dashboard(text: TextSites, sae: SparseAutoencoder, shows: Mapping[str, Sequence[str]]) -> TextDashboard:
    """Read prompts and gather the activations of every latent on them.

    Args:
        text: one site.
        sae: its autoencoder.
        shows: prompt -> the concepts that it names.
    """
    (site,) = text.sites
    sae, tokenizer = sae.at_inference(), tokenizer_of(text.model, component_of(site))
    latents, prompts = sae.config.latents, list(shows)
    sums = {name: torch.zeros(latents) for names in shows.values() for name in names}
    counts = dict.fromkeys(sums, 0)
    total, active, positions = torch.zeros(latents), torch.zeros(latents), 0
    heaps: dict[int, list[MarkedPrompt]] = {}
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        read = text.read(batch)[site.name]
        sae.to(read.states.device)
        for number, prompt in enumerate(batch):
            own = read.own[number]
            dense = sae.encode(read.states[number, own].float()).dense(latents).cpu()
            peak = dense.amax(0)
            total += peak
            active += (dense > 0).sum(0)
            positions += len(dense)
            for name in shows[prompt]:
                sums[name] += peak
                counts[name] += 1
            pieces = pieces_of(tokenizer, read.ids[number, own].tolist())
            for latent in peak.nonzero().flatten().tolist():
                marked = MarkedPrompt(float(peak[latent]), prompt, pieces, tuple(dense[:, latent].tolist()))
                heap = heaps.setdefault(latent, [])
                (heapq.heappush if len(heap) < TOP else heapq.heappushpop)(heap, marked)
    return TextDashboard(
        site=site.name,
        prompts=len(prompts),
        density=active / max(1, positions),
        peaks={name: sums[name] / counts[name] for name in sums},
        mean=total / max(1, len(prompts)),
        strongest={latent: sorted(heap, reverse=True) for latent, heap in heaps.items()},
    )


def pieces_of(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """Tokens in letters, those that begin a word with a space before them, whatever mark the vocabulary gives them."""
    words = getattr(tokenizer, "tokenizer", tokenizer)
    pieces, begins = [], True
    for token in words.convert_ids_to_tokens(list(ids)):
        if token.endswith("</w>"):
            pieces.append(" " * begins + token.removesuffix("</w>"))
            begins = True
        elif token[:1] in ("▁", "Ġ"):
            pieces.append(f" {token[1:]}")
        elif token.startswith("##"):
            pieces.append(token[2:])
        elif token in words.all_special_tokens:
            pieces.append(f" {token}")
        else:
            pieces.append(" " * begins + token)
            begins = False
    return tuple(pieces)


def write_text_pages(dashboard: TextDashboard, latents: Sequence[int], folder: Path) -> Path:
    """Write `index.html` and a page for each latent, which open without a server; returns the index."""
    folder.mkdir(parents=True, exist_ok=True)
    for latent in latents:
        body = f'<p><a href="index.html">all latents</a></p>{_latent(dashboard, latent)}'
        _write(folder / f"latent-{latent}.html", f"latent {latent}", body)
    rows = "".join(
        f'<tr><td><a href="latent-{latent}.html">latent {latent}</a></td>'
        f"<td>{', '.join(escape(name) for name, _ in dashboard.concepts_of(latent, 2))}</td>"
        f"<td>{''.join(map(_marked, dashboard.strongest.get(latent, [])[:1]))}</td></tr>"
        for latent in latents
    )
    head = f"<p>{dashboard.prompts} prompts, {len(latents)} latents shown.</p>"
    _write(folder / "index.html", f"latents of {dashboard.site}", f"{head}<table>{rows}</table>")
    return folder / "index.html"


def _latent(dashboard: TextDashboard, latent: int) -> str:
    strongest = dashboard.strongest.get(latent, [])
    concepts = "".join(
        f"<tr><td>{escape(name)}</td><td>{ratio:.1f} × the average</td></tr>"
        for name, ratio in dashboard.concepts_of(latent)
    )
    return (
        f"<p>Active at {float(dashboard.density[latent]):.2%} of positions.</p><h2>Strongest prompts</h2>"
        f"{''.join(map(_marked, strongest)) or '<p>It was never active.</p>'}<h2>Concepts</h2><table>{concepts}</table>"
    )


def _marked(marked: MarkedPrompt) -> str:
    """A prompt whose tokens are the redder the stronger the latent is there."""
    spans = "".join(
        f'<span style="background:rgba(220,20,30,{0.75 * value / marked.strength:.2f})" title="{value:.3f}">{escape(piece)}</span>'
        for piece, value in zip(marked.pieces, marked.activations, strict=True)
    )
    return f'<p class="prompt">{spans} <span class="muted">{marked.strength:.3f}</span></p>'


def _write(path: Path, title: str, body: str) -> None:
    write_atomically(path, page(title, body, style=STYLE).encode())
