"""Run the Python block and the command-line block of a README as they stand, in an empty folder.

python tests/support/readme.py README.md FOLDER
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path


def blocks(text: str, language: str) -> list[str]:
    """Fenced code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def main(readme: str, folder: str) -> None:
    """Run every block; make's own commands are left to the caller."""
    text = Path(readme).read_text()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for code in blocks(text, "python"):
        subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, check=True)
        print(f"ran a python block of {len(code.splitlines())} lines")
    for script in blocks(text, "bash"):
        commands = [line for line in script.splitlines() if line.startswith("efface ")]
        for command in commands:
            print(f"$ {command}", flush=True)
            subprocess.run(command, shell=True, cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
