"""Speed of training a sparse autoencoder of the paper's size, beside sparsify, a dense trainer, and the floor.

    python benchmarks/sae_train_speed.py                # 1280 -> 20,480, k = 32, 4,096 vectors a step; 5 GB of memory
    python benchmarks/sae_train_speed.py --batch 1024

The floor is the encoder's matrix product and the choice of the k largest, nothing else. The dense trainer does what the
paper's code does: autograd through dense codes. sparsify 1.3.3 is installed from PyPI into build/sparsify-env the first
time. Each is timed in turn, several rounds, and the medians are compared.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from efface.sae.config import SAETrainConfig
from efface.sae.site_trainer import SiteTrainer

WIDTH, LATENTS, K = 1280, 20_480, 32
ENVIRONMENT = Path("build/sparsify-env")
SPARSIFY = """
import sys, time, torch
from sparsify import SparseCoder, SparseCoderConfig
torch.manual_seed(0)
width, latents, k, batch = map(int, sys.argv[1:5])
coder = SparseCoder(width, SparseCoderConfig(num_latents=latents, k=k), device="cpu", dtype=torch.float32)
optimiser = torch.optim.Adam(coder.parameters(), lr=4e-4, fused=True)
x = torch.randn(batch, width)
def step():
    out = coder(x)
    out.fvu.backward()
    torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
    coder.remove_gradient_parallel_to_decoder_directions()
    optimiser.step()
    optimiser.zero_grad()
    coder.set_decoder_norm_to_unit_norm()
print("ready", flush=True)
for line in sys.stdin:
    started = time.perf_counter()
    step()
    print(time.perf_counter() - started, flush=True)
"""


class Dense(nn.Module):
    """The autoencoder as the paper's code trains it: dense codes, autograd."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(WIDTH, LATENTS)
        self.decoder = nn.Parameter(nn.functional.normalize(self.encoder.weight.detach().clone(), dim=1))
        self.b_dec = nn.Parameter(torch.zeros(WIDTH))
        self.optimiser = torch.optim.Adam(self.parameters(), lr=4e-4, fused=True)

    def learn(self, x: Tensor) -> None:
        """One step with BatchTopK."""
        z = torch.relu(self.encoder(x - self.b_dec))
        best = z.flatten().topk(K * len(x), sorted=False)
        kept = torch.zeros_like(z.flatten()).scatter(-1, best.indices, best.values).reshape(z.shape)
        error = kept @ self.decoder + self.b_dec - x
        loss = error.square().sum() / (x - x.mean(0)).square().sum()
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        with torch.no_grad():
            gradient = self.decoder.grad
            assert gradient is not None
            gradient -= (gradient * self.decoder).sum(1, keepdim=True) * self.decoder
            self.optimiser.step()
            self.decoder /= self.decoder.norm(dim=1, keepdim=True)


def installed() -> str:
    """The interpreter of sparsify's own environment."""
    python = ENVIRONMENT / "bin" / "python"
    if (
        subprocess.run([python, "-c", "import sparsify"], capture_output=True, check=False).returncode
        if python.exists()
        else True
    ):
        print(f"installing sparsify 1.3.3 into {ENVIRONMENT}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "eai-sparsify==1.3.3", f"torch=={torch.__version__.split('+')[0]}"],
            check=True,
        )
    return str(python)


def timed(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main(batch: int = 4096, rounds: int = 5) -> None:
    """Time one training step of each.

    Args:
        batch: vectors a step.
        rounds: how often each is timed, in turn; the median counts.
    """
    torch.manual_seed(0)
    x = torch.randn(batch, WIDTH)
    ours = {
        rule: SiteTrainer(WIDTH, SAETrainConfig(latents=LATENTS, k=K, rule=rule, steps=1000))
        for rule in ("topk", "batchtopk")
    }
    for trainer in ours.values():
        trainer.step(x, 0)
    dense = Dense()
    weight = ours["topk"].sae.encoder.weight.detach()
    child = subprocess.Popen(
        [installed(), "-c", SPARSIFY, *map(str, (WIDTH, LATENTS, K, batch))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    while child.stdout.readline() not in ("ready\n", ""):
        pass  # notices of the library

    def theirs() -> float:
        """Seconds of one step of sparsify, as its own process counts them."""
        assert child.stdin is not None
        assert child.stdout is not None
        print("step", file=child.stdin, flush=True)
        return float(child.stdout.readline())

    runs: dict[str, Callable[[], float]] = {
        "floor": lambda: timed(lambda: (x @ weight.T).topk(K, dim=1, sorted=False)),
        "ours, topk": lambda: timed(lambda: ours["topk"].step(x, 1)),
        "ours, batchtopk": lambda: timed(lambda: ours["batchtopk"].step(x, 1)),
        "sparsify, topk": theirs,
        "dense trainer, batchtopk": lambda: timed(lambda: dense.learn(x)),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            seconds = run()
            if number:  # the first round warms up
                taken[name].append(seconds)
    child.terminate()
    median = {name: sorted(values)[len(values) // 2] for name, values in taken.items()}
    for name, seconds in median.items():
        print(f"{name:25} {seconds:6.3f} s a step, {batch / seconds:8,.0f} vectors a second")
    figures = {
        "vs_sparsify": median["sparsify, topk"] / median["ours, topk"],
        "vs_dense_trainer": median["dense trainer, batchtopk"] / median["ours, batchtopk"],
        "vs_floor": median["ours, topk"] / median["floor"],
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    tyro.cli(main)
