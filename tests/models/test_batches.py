"""Pictures a few at a time: the same pictures, batches that memory holds, and what happens where it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import efface
import tiny
from efface.io.memory import _left_in_container, free_bytes, is_out_of_memory
from efface.models.batches import MOST, in_batches, limit_batch, limits_of, picture_bytes, pictures_at_a_time

PROMPTS = ("a church", "a cat", "a dog", "a garbage truck", "a cat in noto style")


@pytest.fixture
def pipe():
    return tiny.stable_diffusion()


def drawn(pipe, **settings) -> np.ndarray:
    pictures = efface.Model(pipe).draw(PROMPTS, seeds=range(len(PROMPTS)), steps=2, **settings)
    return np.stack([np.asarray(picture, dtype=np.int16) for picture in pictures])


def sizes_of(pipe, monkeypatch, fails_above: int | None = None) -> list[int]:
    """How many pictures the denoiser is given at each step; it runs out of memory above a number."""
    sizes: list[int] = []
    forward = pipe.unet.forward

    def counted(sample, *args, **kwargs):
        pictures = len(sample) // 2
        sizes.append(pictures)
        if fails_above is not None and pictures > fails_above:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(pipe.unet, "forward", counted)
    return sizes


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_a_named_batch_draws_the_same_pictures(pipe, monkeypatch, batch):
    together = drawn(pipe)
    sizes = sizes_of(pipe, monkeypatch)
    limit_batch(pipe.unet, batch)
    # Convolutions of another batch may sum in another order: one level of 255 at most.
    assert np.abs(drawn(pipe) - together).max() <= 1
    assert max(sizes) == min(batch, len(PROMPTS))


def test_after_running_out_half_as_many_are_drawn_and_it_is_said_once(pipe, monkeypatch, caplog):
    together = drawn(pipe)
    sizes = sizes_of(pipe, monkeypatch, fails_above=1)
    assert np.abs(drawn(pipe) - together).max() <= 1
    assert sizes[:3] == [5, 2, 1]
    assert len(caplog.records) == 1
    assert "drawing 1 at a time" in caplog.text
    sizes.clear()
    assert np.abs(drawn(pipe) - together).max() <= 1
    assert set(sizes) == {1}, "what was learnt is kept"
    assert len(caplog.records) == 1


def test_one_picture_that_memory_does_not_hold_is_refused(pipe, monkeypatch):
    sizes_of(pipe, monkeypatch, fails_above=0)
    with pytest.raises(efface.EffaceError, match="one picture of 8 x 8 cells") as error:
        drawn(pipe)
    assert "--offload" in str(error.value)


def test_other_errors_are_not_taken_for_memory(pipe, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(pipe.unet, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        drawn(pipe)


def test_decoding_is_halved_too(pipe, monkeypatch, caplog):
    together = drawn(pipe)
    decode = pipe.vae.decode

    def small(latents, **kwargs):
        if len(latents) > 1:
            raise RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"
            )
        return decode(latents, **kwargs)

    monkeypatch.setattr(pipe.vae, "decode", small)
    assert np.abs(drawn(pipe) - together).max() <= 1
    assert "decoding 1 at a time" in caplog.text


def test_large_pictures_are_decoded_one_by_one(pipe, monkeypatch):
    sizes = []
    monkeypatch.setattr(pipe.vae, "decode", lambda x, **_: sizes.append(len(x)) or (x.repeat(1, 1, 2, 2)[:, :3],))
    efface.Model(pipe).decode(torch.zeros(3, 4, 64, 64))
    efface.Model(pipe).decode(torch.zeros(3, 4, 32, 32))
    assert sizes == [1, 1, 1, 3]


@pytest.mark.parametrize(("free", "pictures"), [(0, 1), (10, 8), (10**6, MOST)])
def test_free_memory_decides_how_many(pipe, monkeypatch, free, pictures):
    each = picture_bytes(pipe.unet, (4, 8, 8), 2)
    monkeypatch.setattr("efface.models.batches.free_bytes", lambda device: free * each)
    assert pictures_at_a_time(pipe.unet, (4, 8, 8), 2, torch.device("cpu")) == pictures


def test_pieces_cover_everything_once():
    denoiser = torch.nn.Linear(2, 2)
    tried = []

    def work(some: slice) -> list[int]:
        tried.append(some)
        if len(range(10)[some]) > 3:
            raise MemoryError
        return list(range(10)[some])

    parts = in_batches(denoiser, "drawing", 10, (1, 2, 2), 8, work)
    assert [number for part in parts for number in part] == list(range(10))
    assert limits_of(denoiser).learned == {("drawing", (1, 2, 2)): 2}


def test_a_batch_below_one_is_refused(pipe):
    with pytest.raises(efface.UsageError, match="batch is 0"):
        limit_batch(pipe.unet, 0)


ERRORS = {
    "CUDA": (torch.OutOfMemoryError("CUDA out of memory"), True),
    "CPU": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"), True),
    "CPU on Windows": (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes"), True),
    "MPS": (RuntimeError("MPS backend out of memory (MPS allocated: 18.13 GB)"), True),
    "Python": (MemoryError(), True),
    "another": (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    "a value": (ValueError("out of memory"), False),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_means_out_of_memory(name):
    error, expected = ERRORS[name]
    assert is_out_of_memory(error) is expected


def test_a_container_has_less(tmp_path):
    assert _left_in_container(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("600\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100\n")
    assert _left_in_container(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("1000\n")
    assert _left_in_container(tmp_path) == 500
    assert free_bytes("cpu") > 0


SIZES = {"a side": (32, (32, 32)), "width and height": ((16, 32), (16, 32)), "the model's own": (None, (16, 16))}


@pytest.mark.parametrize("name", SIZES)
def test_pictures_have_the_size_that_was_asked_for(pipe, name):
    side, expected = SIZES[name]
    picture = efface.Model(pipe).draw(["a cat"], seeds=[0], steps=1, side=side)[0]
    assert picture.size == expected


@pytest.mark.parametrize("side", [0, 33, (16, 17)])
def test_a_size_between_cells_is_refused(pipe, side):
    with pytest.raises(efface.UsageError, match="multiple of 2"):
        efface.Model(pipe).draw(["a cat"], seeds=[0], steps=1, side=side)


def test_a_picture_that_is_not_square_is_the_pipelines_own(pipe):
    own = pipe(
        "a cat", width=16, height=32, num_inference_steps=2, guidance_scale=5.0,
        generator=torch.Generator().manual_seed(3), output_type="np",
    ).images[0]  # fmt: skip
    ours = efface.Model(pipe).draw(["a cat"], seeds=[3], steps=2, guidance=5.0, side=(16, 32))[0]
    assert np.abs(np.asarray(ours) / 255 - own).max() <= 1 / 255
