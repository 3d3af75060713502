"""Mapped weights leave memory after each layer, and come back as they were; changed ones are never touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from efface.models import mapped
from efface.models.mapped import released

pytestmark = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux only")
WIDTH = 1024


@pytest.fixture
def network(tmp_path, monkeypatch):
    """Two layers whose weights are mapped from a file."""
    monkeypatch.setattr(mapped, "LEAST", 1)
    built = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(2)))
    save_file(built.state_dict(), tmp_path / "model.safetensors")
    built.load_state_dict(load_file(tmp_path / "model.safetensors"), assign=True)
    return built.requires_grad_(False)


def resident(folder: Path) -> int:
    """Bytes of the file in resident memory."""
    lines = Path("/proc/self/smaps").read_text().splitlines()
    total, inside = 0, False
    for line in lines:
        if "-" in line.split(" ")[0]:
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_weights_leave_memory_and_the_output_stays(network, tmp_path):
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    plain = network(x)
    assert resident(tmp_path) > WIDTH * WIDTH * 4
    with released([network]):
        again = network(x)
        assert resident(tmp_path) < WIDTH * WIDTH * 4
    assert torch.equal(plain, again)
    assert torch.equal(network(x), plain)
    assert not any(layer._forward_hooks for layer in network)


def test_weights_that_were_changed_in_place_are_left_alone(network):
    network[0].weight.data[0, 0] += 1
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    changed = network(x)
    with released([network]):
        assert torch.equal(network(x), changed)
        assert not any(layer._forward_hooks for layer in network)
    assert torch.equal(network(x), changed)
