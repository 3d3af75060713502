"""Speed of the closed-form edits at the real dimensions of SD 1.4, SDXL, SD 3.5-medium and FLUX, random values; that of
SD 1.4 against the official procedure.

    python benchmarks/closed_form_speed.py
    python benchmarks/closed_form_speed.py --skip-sdxl     # without the 1.4 GB of SDXL's matrices

The reference does what the public UCE and RECE codes do: for each of the 32 matrices it computes the values of every
matrix, sums explicit outer products over the 77 positions and inverts the same system again.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from torch import Tensor

from efface.closed_form.gram import key_value_gram
from efface.closed_form.maps import LowRankMap
from efface.closed_form.ridge import RowPairs, gram_of
from efface.concepts.concept import Concept
from efface.erasers.rece import derive
from efface.erasures import Provenance, TextMap
from efface.models.fingerprint import Fingerprint

SD14 = (768, [320] * 10 + [640] * 10 + [1280] * 12)
"""Text width, and output width of the 32 key and value matrices: 19.2 M weights."""
SDXL = (2048, [640] * 20 + [1280] * 120)
"""The 140 matrices of SDXL: 341 M weights."""
ENTRIES = {"SD 3.5-medium": (4096, [1536], 333), "FLUX": (4096, [3072], 512)}
"""Text width, output of the entry projection, and tokens of a prompt (77 of CLIP and 256 of T5; 512 of T5)."""
TOKENS = 77


def timed(work: Callable[[], object]) -> tuple[float, object]:
    """Seconds and result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def matrices(dimensions: tuple[int, list[int]]) -> list[Tensor]:
    """Random float32 matrices (out width) on the scale of trained ones."""
    width, heights = dimensions
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(h, width, generator=generator) / width**0.5 for h in heights]


def states(width: int, seed: int, tokens: int = TOKENS) -> Tensor:
    """Random text states of one prompt (tokens width)."""
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def official_edit(
    weights: list[Tensor], c: Tensor, t: Tensor, r: Tensor, *, erase: float, preserve: float, ridge: float
) -> None:
    """One edit by the official procedure, in place."""
    width = c.shape[1]
    for index, weight in enumerate(weights):
        left, right = ridge * weight, ridge * torch.eye(width)
        for context, target, scale in ((c, t, erase), (r, r, preserve)):
            values = [w @ target.T for w in weights]
            outer = (context[:, :, None] @ context[:, None, :]).sum(0)
            value = (values[index].T[:, :, None] @ context[:, None, :]).sum(0)
            left, right = left + scale * value, right + scale * outer
        weight.copy_(left @ torch.inverse(right))


def our_edit(weights: list[Tensor], c: Tensor, t: Tensor, r: Tensor) -> None:
    """The same edit as one map, folded into every matrix in place."""
    fold(weights, RowPairs.gather([(c, t)]).edit(gram_of([r], c.shape[1]), erase=1, preserve=0.1, ridge=0.1))


def fold(weights: list[Tensor], map_: LowRankMap) -> None:
    """W ← W M for all matrices, as folded attachment does."""
    erasure = erasure_of(map_)
    for weight in weights:
        weight.copy_(erasure.fold("", weight, 1.0))


def erasure_of(map_: LowRankMap) -> TextMap:
    """A text map with a placeholder for its provenance."""
    origin = Provenance("rece", {}, (Concept("nudity", "explicit"),), Fingerprint("", len(map_.u), "", (0.0,)))
    return TextMap(origin, map_.u.float().contiguous(), map_.v.float().contiguous())


def rece(pairs: RowPairs, r: Tensor, s: Tensor, epochs: int) -> LowRankMap:
    """UCE, then epochs of RECE, as `erasers/rece.py` runs them."""
    retained = gram_of([r], len(s))
    map_ = pairs.edit(retained, erase=1, preserve=1, ridge=0.1)
    for _ in range(epochs):
        map_ = map_.then(derive(pairs, map_, s, 0.1, "regzero").edit(retained, erase=1, preserve=0.1, ridge=0.1))
    return map_


def many_concepts(count: int) -> dict[str, float]:
    """Seconds and peak memory of one RECE edit (one epoch) of `count` concepts, in a process of its own."""
    width, _ = SD14
    s = torch.eye(width, dtype=torch.float64)
    r = states(width, 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, _ = timed(
        lambda: rece(RowPairs.gather((states(width, k), states(width, -k - 1)) for k in range(count)), r, s, 1)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": round(seconds, 3), "added_mb": round((peak - before) / 1024, 1), "peak_mb": round(peak / 1024)}


def entry_projection(name: str) -> dict[str, float]:
    """Seconds and peak memory of a nudity erasure (S computed, three epochs) on a model's one entry projection."""
    width, heights, tokens = ENTRIES[name]
    weights, c, t, r = matrices((width, heights)), *(states(width, k, tokens) for k in (1, 2, 3))
    seconds, _ = timed(lambda: rece(RowPairs.gather([(c, t)]), r, key_value_gram(weights), 3))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": round(seconds, 2), "peak_mb": round(peak / 1024)}


def alone(*arguments: str) -> dict[str, float]:
    """What this script prints with these arguments, in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ).stdout)


def sdxl() -> dict[str, float]:
    """First nudity erasure (S computed), a second one with S from disk, and folding."""
    width, _ = SDXL
    weights = matrices(SDXL)
    pairs_of = lambda: RowPairs.gather([(states(width, 1), states(width, 2))])  # noqa: E731
    r = states(width, 3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.safetensors"
        from safetensors.torch import load_file, save_file

        def first() -> LowRankMap:
            s = key_value_gram(weights)
            save_file({"s": s}, path)
            return rece(pairs_of(), r, s, 3)

        first_seconds, map_ = timed(first)
        cached_seconds, _ = timed(lambda: rece(pairs_of(), r, load_file(path)["s"], 3))
    fold_seconds, _ = timed(lambda: fold(weights, map_))  # type: ignore[arg-type]
    return {"first": first_seconds, "cached": cached_seconds, "fold": fold_seconds}


def main(skip_sdxl: bool = False, concepts: int | None = None, entry: str | None = None) -> None:
    """Run everything, or one count of concepts.

    Args:
        skip_sdxl: leave out SDXL, which needs 5 GB of memory.
        concepts: only one RECE edit of this many concepts (used by this script itself).
        entry: only the erasure on this model's entry projection (likewise).
    """
    if concepts is not None or entry is not None:
        print(json.dumps(entry_projection(entry) if entry else many_concepts(concepts or 1)))
        return
    width, _ = SD14
    c, t, r = (states(width, k) for k in (1, 2, 3))
    original = matrices(SD14)
    our_edit([w.clone() for w in original], c, t, r)  # warm up the libraries
    theirs, ours = [w.clone() for w in original], [w.clone() for w in original]
    our_seconds, _ = timed(lambda: our_edit(ours, c, t, r))
    print(f"one edit, folding included: ours {our_seconds:.3f} s", flush=True)
    official_seconds, _ = timed(lambda: official_edit(theirs, c, t, r, erase=1, preserve=0.1, ridge=0.1))
    change = max(float((a - b).norm() / (a - w).norm()) for a, b, w in zip(theirs, ours, original, strict=True))
    print(f"official procedure {official_seconds:.1f} s, ratio {official_seconds / our_seconds:.0f}; ", end="")
    print(f"the two differ by {change:.1e} of the change (float32 inverse against float64 Cholesky)")

    nudity_seconds, map_ = timed(lambda: rece(RowPairs.gather([(c, t)]), r, key_value_gram(original), 3))
    print(f"nudity (UCE, S, three epochs) {nudity_seconds:.2f} s; paper: 3 s on a GPU")
    with tempfile.TemporaryDirectory() as folder:
        file_bytes = erasure_of(map_).save(Path(folder) / "nudity.safetensors")  # type: ignore[arg-type]
    print(f"its file: {file_bytes:,} bytes")

    counts = {}
    for count in (1, 10, 100, 1000):
        counts[count] = alone("--concepts", str(count))
        print(f"{count:5} concepts: {counts[count]}", flush=True)
    xl = {"first": float("nan"), "cached": float("nan"), "fold": float("nan")} if skip_sdxl else sdxl()
    print(f"SDXL: first {xl['first']:.1f} s, S cached {xl['cached']:.2f} s, folding (optional) {xl['fold']:.1f} s")
    entries = {name: alone("--entry", name) for name in ENTRIES}
    for name, found in entries.items():
        print(f"{name}, entry projection: {found['seconds']} s, peak {found['peak_mb']} MB", flush=True)
    figures = {
        "edit_ratio": round(official_seconds / our_seconds, 1),
        "nudity_seconds": round(nudity_seconds, 3),
        "sdxl_first_seconds": round(xl["first"], 2),
        "sdxl_cached_seconds": round(xl["cached"], 2),
        "concepts_1000_seconds": counts[1000]["seconds"],
        "peak_mb": counts[1000]["peak_mb"],
        "file_bytes": file_bytes,
        "sd3_seconds": entries["SD 3.5-medium"]["seconds"],
        "flux_seconds": entries["FLUX"]["seconds"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
