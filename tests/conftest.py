"""Shared fixtures."""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import efface
import tiny


def pytest_addoption(parser):
    parser.addoption("--write-families", metavar="FILE", help="write the table of families into a document")


torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))  # tiny models gain nothing from more than one


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Keep the cache of S out of the user's home."""
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    assert os.environ["EFFACE_CACHE"]


@pytest.fixture(scope="module", params=list(tiny.PIPELINES))
def pipe(request):
    """A tiny pipeline of every family; tests leave it as they found it."""
    return tiny.PIPELINES[request.param]()


@pytest.fixture(scope="module")
def sd():
    """A tiny Stable Diffusion 1.x."""
    return tiny.stable_diffusion()


@pytest.fixture
def draw():
    """Draws two small pictures as float arrays: (pipe, prompts) -> (batch height width 3)."""

    def run(pipe, prompts=("a church in noto style", "a cat"), guidance=5.0):
        generators = [torch.Generator().manual_seed(k) for k in range(len(prompts))]
        return pipe(
            list(prompts), generator=generators, num_inference_steps=3, guidance_scale=guidance, output_type="np"
        ).images

    return run


@pytest.fixture
def bfloat16():
    """Attention in bfloat16 wherever it is asked for: PyTorch 2.13's fast kernel refuses it with an ATEN_CPU_CAPABILITY below
    what a processor with AMX has, which no real processor shows; its plain one takes the place then."""
    states = torch.ones(1, 1, 64, 8, dtype=torch.bfloat16)
    try:
        torch.nn.functional.scaled_dot_product_attention(states, states, states)
    except RuntimeError:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    else:
        yield


@pytest.fixture
def church():
    """A concept with two templates."""
    return efface.Concept("church", anchor="cat", templates=("a {}", "a {} in noto style"))


@pytest.fixture(scope="session")
def _families(request):
    """What the tests of families found; written into the documentation where that was asked for."""
    from families_table import write_table

    found: dict[tuple[str, str], str] = {}
    yield found
    document = request.config.getoption("--write-families")
    if document:
        write_table(found, document)


@pytest.fixture
def record(_families):
    """Notes what a test found: (family, method, finding)."""

    def note(family, method, finding):
        _families[family, method] = finding

    return note
