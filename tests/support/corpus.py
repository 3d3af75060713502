"""Damaged and hostile files, made from good ones: what a disk, a network or an enemy may do to them.

python tests/support/corpus.py 20000        files tried, refused, accepted; crashes end the run with an error
"""

from __future__ import annotations

import hashlib
import json
import random
import resource
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from efface import Concept, EffaceError, Erasure
from efface.erasures import ActivationEdit, Provenance, TextMap, WeightDelta
from efface.erasures.gated_delta import GatedDelta
from efface.erasures.keyed import KeyedDelta, TextKey
from efface.erasures.latent_edit import LatentEdit
from efface.erasures.negative import NegativeText
from efface.erasures.transport import Transport
from efface.models.fingerprint import Fingerprint
from efface.models.footprint import ENCODER, Footprint, Touched
from efface.models.likeness import Sketch
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.files import load_sae, save_sae
from efface.sae.saelens import save_saelens
from efface.sae.statistics import Statistics

WIDTH = 6
NASTY: tuple[Any, ...] = (
    None, True, -1, 0, 1 << 70, 1e308, float("nan"), "", "\x00", "../../etc/passwd", "/dev/zero", "C:\\x", "{}", [], {}, [[]],
    "x" * 5000, "\ud800"[:0], ["a", 1], {"a": {"b": []}}, "__metadata__", "NaN", [1e999],
)  # fmt: skip
"""What no field of a header should hold, or only some."""


class Subject(NamedTuple):
    """A kind of file and its reader."""

    name: str
    make: Callable[[Path], None]
    """Writes a good one into a folder."""
    target: str
    """The file of it that is damaged."""
    read: Callable[[Path], Any]
    """Reads the folder; EffaceError is the only error it may raise."""


def _origin(**config: Any) -> Provenance:
    concept = Concept("church", anchor="cat", templates=("a {}",), neutral=("a cat",), keep=("a dog",))
    return Provenance(
        "rece", {"epochs": 3} | config, (concept,), Fingerprint("f", WIDTH, "s", (0.5, -1.0)), ("a dog",), {"x": 1}
    )


def _of_format_2() -> Provenance:
    tensors = {"unet.a.weight": Touched(Sketch((0.5, -1.0, 0.0, 2.0)), (4, WIDTH))}
    encoders = {"text_encoder": Touched(Sketch((0.25,) * ENCODER, coarse=True))}
    return replace(_origin(), base=Footprint("f", WIDTH, tensors, encoders))


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _edit(mode: str) -> ActivationEdit:
    edit = LatentEdit(
        encoder=_random(2, WIDTH),
        bias=_random(2),
        centre=_random(WIDTH),
        decoder=_random(2, WIDTH),
        latents=torch.tensor([3, 5]),
        timesteps=torch.tensor([900.0, 100.0]),
        gate=_random(2, 2),
        gain=_random(2, 2),
        shift=_random(2, 2),
    )
    coders = {"unet.mid_block": {"sha256": "0" * 64, "source": "nowhere"}}
    return ActivationEdit(_origin(mode=mode, coders=coders), {"unet.mid_block": edit})


def _gated_delta() -> GatedDelta:
    transport = Transport(
        states=_random(2, 4, WIDTH),
        owner=torch.tensor([0, 0]),
        empty=_random(4, WIDTH),
        common=_random(4, WIDTH),
        tokens=torch.tensor([[7, -1]]),
    )
    deltas = {"0|unet.a.weight.up": _random(4, 1), "0|unet.a.weight.down": _random(1, 3)}
    return GatedDelta(_origin(), deltas, transport)


def _coder() -> SparseAutoencoder:
    return SparseAutoencoder(SAEConfig(WIDTH, 20, 3))


def _erasure(name: str, erasure: Erasure) -> Subject:
    return Subject(
        name, lambda f: erasure.save(f / "e.safetensors"), "e.safetensors", lambda f: Erasure.load(f / "e.safetensors")
    )


def _statistics(folder: Path) -> None:
    levels = torch.tensor([900.0, 100.0])
    Statistics(("a", "b"), ("object", "object"), levels, torch.rand(2, 2, 5), torch.rand(2), 4).save(
        folder / "s.safetensors"
    )


def _unbox(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"k": 3}))
    torch.save(
        {"encoder.weight": _random(20, WIDTH), "latent_bias": _random(20), "pre_bias": _random(WIDTH),
         "decoder.weight": _random(WIDTH, 20)}, folder / "state_dict.pth",
    )  # fmt: skip


SUBJECTS = (
    _erasure("text map", TextMap(_origin(), _random(WIDTH, 2), _random(WIDTH, 2) + 1)),
    _erasure("text map of format 2", TextMap(_of_format_2(), _random(WIDTH, 2), _random(WIDTH, 2) + 1)),
    _erasure("weight delta", WeightDelta(_origin(), {
        "unet.a.weight.up": _random(4, 1), "unet.a.weight.down": _random(1, 3), "unet.b.weight": _random(2, 2)
    })),
    _erasure("gated delta", _gated_delta()),
    _erasure("keyed delta", KeyedDelta(_origin(), {"unet.b.weight": _random(2, 2)}, _random(3, WIDTH))),
    _erasure("key", TextKey(_origin(), _random(3, WIDTH))),
    _erasure("negative text", NegativeText(_origin(), _random(3, WIDTH), torch.tensor([0, 0, 0]))),
    _erasure("activation edit", _edit("fast")),
    _erasure("exact activation edit", _edit("exact")),
    Subject("statistics", _statistics, "s.safetensors", lambda f: Statistics.load(f / "s.safetensors")),
    Subject("autoencoder", lambda f: save_sae(_coder(), f, site="a"), "sae.safetensors", load_sae),
    Subject("autoencoder's configuration", lambda f: save_sae(_coder(), f, site="a"), "cfg.json", load_sae),
    Subject("SAELens", lambda f: save_saelens(_coder(), f, "a", "b"), "sae_weights.safetensors", load_sae),
    Subject("SAELens's configuration", lambda f: save_saelens(_coder(), f, "a", "b"), "cfg.json", load_sae),
    Subject("SDXL-unbox", _unbox, "state_dict.pth", load_sae),
    Subject("SDXL-unbox's configuration", _unbox, "config.json", load_sae),
)  # fmt: skip
UNSEALED = ("SDXL-unbox", "SDXL-unbox's configuration")
"""Of another tool, without a checksum: a changed weight there is another weight."""


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at = rng.randrange(len(changed) * 8)
        changed[at // 8] ^= 1 << at % 8
    return bytes(changed)


def spliced(data: bytes, rng: random.Random) -> bytes:
    """A stretch cut out, doubled, zeroed, or replaced by noise."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 8, 64, 512)))
    piece = rng.choice((b"", data[start:end] * 2, bytes(end - start), rng.randbytes(end - start)))
    return data[:start] + piece + data[end:]


def grown(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, 7, 1000)))


def huge_header(data: bytes, rng: random.Random) -> bytes:
    """A header that claims a length it has not, or that is nested without end."""
    size = rng.choice((0, 1, len(data) - 8, len(data), 1 << 20, 99_999_999, (1 << 63) - 1, (1 << 64) - 1))
    if rng.random() < 0.3:
        nested = rng.choice((b"[", b'{"a":', b'{"a":[')) * rng.choice((1000, 100_000))
        return struct.pack("<Q", len(nested)) + nested
    return struct.pack("<Q", size) + data[8:]


def signed(header: dict[str, Any], body: bytes) -> bytes:
    """A file with a checksum that is right: what someone makes who knows the format."""
    if isinstance(header.get("__metadata__"), dict) and "checksum" in header["__metadata__"]:
        header["__metadata__"]["checksum"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    data = struct.pack("<Q", len(text)) + text + body
    key = b'"checksum":"' + b"0" * 64
    return data.replace(key, b'"checksum":"' + hashlib.sha256(data).hexdigest().encode(), 1)


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _somewhere(value: Any, rng: random.Random, change: Callable[[Any], Any]) -> Any:
    """A copy of nested data in which one value is changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        return value | {key: _somewhere(value[key], rng, change)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], _somewhere(value[at], rng, change), *value[at + 1 :]]
    return change(value)


def forged_tensor(data: bytes, rng: random.Random) -> bytes:
    """A tensor's entry changed: type, shape, place or name, with a right checksum."""
    header, body = _parts(data)
    name = rng.choice([n for n in header if n != "__metadata__"])
    entry = dict(header[name])
    how = rng.randrange(6)
    if how == 0:
        entry["dtype"] = rng.choice(("F16", "I32", "F64", "BOOL", "F8_E4M3", "U8", "C64", "I64", 7, None))
    elif how == 1:
        entry["shape"] = rng.choice(([], [1 << 40], [-1], [0, 1 << 40], [1.5], "x", [True], [*entry["shape"][::-1], 1]))
    elif how == 2:
        entry["data_offsets"] = rng.choice(([0, 0], [0, 1 << 60], [-8, 0], [8, 0], [0], None, "ab", [0, len(body) + 8]))
    elif how == 3:
        entry = rng.choice(NASTY)
    other = (
        rng.choice(("../../x", "a/b", "\n", "x" * 9999, "", "unet.c.weight", "u.up", "|", "ü", "..|encoder"))
        if how > 3
        else name
    )
    changed = {(other if n == name else n): (entry if n == name else e) for n, e in header.items()}
    return signed(changed, body)


def forged_header(data: bytes, rng: random.Random) -> bytes:
    """A field of the provenance changed to something that it should not be, with a right checksum."""
    header, body = _parts(data)
    metadata = dict(header.get("__metadata__", {}))
    key = next((k for k in ("efface", "statistics") if k in metadata), None)
    if key is None or rng.random() < 0.1:
        return signed(
            header | {"__metadata__": rng.choice((*NASTY, metadata | {"efface": rng.choice(("{", "[]", "null"))}))},
            body,
        )
    said = _somewhere(json.loads(metadata[key]), rng, lambda value: rng.choice(NASTY))
    return signed(header | {"__metadata__": metadata | {key: json.dumps(said)}}, body)


def poisoned(data: bytes, rng: random.Random) -> bytes:
    """A value that is not finite, with a right checksum."""
    header, body = _parts(data)
    entries = [e for n, e in header.items() if n != "__metadata__" and e["dtype"] in ("F32", "F16")]
    entry = rng.choice(entries)
    size, code = {"F32": (4, "<f"), "F16": (2, "<e")}[entry["dtype"]]
    start, end = entry["data_offsets"]
    at = start + size * rng.randrange((end - start) // size)
    bad = struct.pack(code, rng.choice((float("nan"), float("inf"), float("-inf"))))
    return signed(header, body[:at] + bad + body[at + size :])


def forged_json(data: bytes, rng: random.Random) -> bytes:
    return json.dumps(_somewhere(json.loads(data), rng, lambda value: rng.choice(NASTY))).encode()


BYTES = (truncated, flipped, spliced, grown, huge_header)
TENSORS = (forged_tensor, forged_header, poisoned)


class Count(NamedTuple):
    """What became of a corpus."""

    tried: int
    refused: int
    untouched: int
    """Accepted because the mutation changed nothing."""
    plausible: int
    """Accepted though forged: a right checksum over a header that means something else (another name, another number)."""
    slowest: float
    """Seconds of computing on the slowest file."""


def run(count: int, seed: int = 0) -> Count:
    """Read `count` damaged files.

    Raises:
        AssertionError: a reader raised anything but EffaceError, took seconds, gave no sentence, or took a damaged file.
    """
    rng = random.Random(seed)
    refused = untouched = plausible = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory() as place:
        goods = {}
        for number, subject in enumerate(SUBJECTS):
            folder = Path(place) / str(number)
            folder.mkdir()
            subject.make(folder)
            subject.read(folder)
            goods[subject.name] = (folder, (folder / subject.target).read_bytes())
        for number in range(count):
            subject = SUBJECTS[number % len(SUBJECTS)]
            folder, good = goods[subject.name]
            kinds = BYTES + (
                (forged_json,) if subject.target.endswith(".json") else TENSORS if ".safe" in subject.target else ()
            )
            mutate = rng.choice(kinds)
            data = mutate(good, rng)
            (folder / subject.target).write_bytes(data)
            started = time.process_time()
            try:
                subject.read(folder)
                if data == good:
                    untouched += 1
                else:
                    forged = mutate in (forged_header, forged_tensor, forged_json) or subject.name in UNSEALED
                    assert forged, f"{subject.name} was read after {mutate.__name__} (file {number}, seed {seed})"
                    plausible += 1
            except EffaceError as error:
                if "\n" in str(error) or len(str(error)) > 1000:
                    raise AssertionError(f"{subject.name}, {mutate.__name__}: no sentence (file {number})") from error
                refused += 1
            except Exception as error:
                raise AssertionError(
                    f"{subject.name} crashed on {mutate.__name__} (file {number}, seed {seed})"
                ) from error
            slowest = max(slowest, time.process_time() - started)
            (folder / subject.target).write_bytes(good)
    assert slowest < 5, f"a file took {slowest:.1f} s"
    return Count(count, refused, untouched, plausible, slowest)


if __name__ == "__main__":
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = run(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
    grew = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(
        f"{found.tried} files tried, {found.refused} refused, {found.untouched} accepted untouched, "
        f"{found.plausible} accepted with another meaning and a right checksum, crashes 0; "
        f"slowest {found.slowest * 1000:.0f} ms, memory grew by {grew:.0f} MB"
    )
