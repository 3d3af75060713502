"""Versions and hardware, for a bug report."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from efface.cli.arguments import parse
from efface.cli.output import result
from efface.plugins import PREFIX, components

PACKAGES = ("efface", "torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "numpy", "pillow")


@dataclass(frozen=True)
class Request:
    """Print versions and hardware."""

    json: bool = False
    """Print one JSON object instead of a table."""


def main(args: list[str]) -> None:
    """Run the command."""
    request = parse(Request, args, prog="efface env", description=__doc__)
    import torch

    data = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            data[package] = version(package)
        except PackageNotFoundError:
            data[package] = "not installed"
    plugins: dict[str, list[str]] = {}
    for group, members in components().items():
        for component in members:
            plugins.setdefault(str(component.origin), []).append(f"{group.removeprefix(PREFIX)}: {component.name}")
    data["plugins"] = "; ".join(f"{origin} ({', '.join(names)})" for origin, names in plugins.items()) or "none"
    data["cores"] = str(os.cpu_count())
    data["threads"] = str(torch.get_num_threads())
    data["accelerator"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    result(data, as_json=request.json, rows=list(data.items()))
