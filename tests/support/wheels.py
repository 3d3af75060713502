"""Wheels built from their parts, and installed, without a network."""

from __future__ import annotations

import base64
import hashlib
import tomllib
import zipfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

DEMO = Path(__file__).parent / "plugin"
"""Sources of the demonstration plugin."""


def build_wheel(
    folder: Path, name: str, version: str, modules: Mapping[str, str], entry_points: Mapping[str, Mapping[str, str]]
) -> Path:
    """Write a pure Python wheel (PEP 427).

    Args:
        folder: where it is written.
        name: of the distribution.
        version: of it.
        modules: path in the wheel -> text.
        entry_points: group -> name -> object reference.
    """
    stem = f"{name.replace('-', '_')}-{version}"
    groups = ("\n".join([f"[{group}]", *(f"{k} = {v}" for k, v in of.items())]) for group, of in entry_points.items())
    contents = dict(modules) | {
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{stem}.dist-info/entry_points.txt": "\n\n".join(groups) + "\n",
    }
    record = f"{stem}.dist-info/RECORD"
    rows = [f"{path},sha256={_digest(text)},{len(text.encode())}" for path, text in contents.items()]
    contents[record] = "\n".join([*rows, f"{record},,"]) + "\n"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in contents.items():
            archive.writestr(inside, text)
    return path


def demo_wheel(folder: Path) -> Path:
    """The demonstration plugin's wheel, by its pyproject."""
    project = tomllib.loads((DEMO / "pyproject.toml").read_text())["project"]
    source = DEMO / "src"
    modules = {str(path.relative_to(source)): path.read_text() for path in sorted(source.rglob("*.py"))}
    return build_wheel(folder, project["name"], project["version"], modules, project["entry-points"])


def uce_wheel(folder: Path) -> Path:
    """A copy of efface's own `uce.py`, as a plugin under another name."""
    source = files("efface.erasers").joinpath("uce.py").read_text().replace('"uce"', '"uce-again"')
    module = {"uce_again.py": source}
    return build_wheel(folder, "uce-again", "2.0", module, {"efface.erasers": {"uce-again": "uce_again"}})


def unpack(wheel: Path, folder: Path) -> Path:
    """Install a wheel into a folder, to be put on the path."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def _digest(text: str) -> str:
    """The sha256 of a file as RECORD has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
