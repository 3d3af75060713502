"""Training in a process group of two: both learn the same weights from each other's vectors; a lost process is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

SCRIPT = """
import datetime, os, sys
import torch, torch.distributed as dist
from efface.errors import EffaceError
from efface.sae.train import train
from efface.sae.config import SAETrainConfig

rank, folder, leaves = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "leaves"
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2,
                        timeout=datetime.timedelta(seconds=20))

class Source:
    names = ("unet.a",)
    reads = "output"
    def round(self, index):
        if leaves and rank == 1 and index == 2:
            os._exit(3)
        return {"unet.a": torch.randn(64, 6, generator=torch.Generator().manual_seed(2 * index + rank))}

try:
    coder = train(Source(), SAETrainConfig(latents=16, k=2, steps=8, batch=32), __import__("pathlib").Path(folder) / "run")["unet.a"]
except EffaceError as error:
    print(error)
    os._exit(1)
from safetensors.torch import save_file
save_file(coder.state_dict(), f"{folder}/rank{rank}.safetensors")
"""


def run_two(folder: Path, way: str) -> list[subprocess.CompletedProcess[str]]:
    """Two processes of one group."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(rank), str(folder), way], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=env,
        )
        for rank in range(2)
    ]  # fmt: skip
    return [subprocess.CompletedProcess(p.args, p.wait(90), *p.communicate()) for p in started]


def test_two_processes_learn_the_same_weights(tmp_path):
    ends = run_two(tmp_path, "stays")
    assert [e.returncode for e in ends] == [0, 0], ends[0].stderr + ends[1].stderr
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, msg=name)
    assert (tmp_path / "run" / "unet.a" / "sae.safetensors").exists()


def test_a_lost_process_is_an_error_and_not_a_hang(tmp_path):
    ends = run_two(tmp_path, "leaves")
    assert ends[1].returncode == 3
    assert ends[0].returncode == 1, ends[0].stderr
    assert "was lost" in ends[0].stdout
