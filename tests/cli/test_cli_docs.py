"""Every command that README, docs, benchmarks and integrations print is read to its end, and every option they name is known."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from efface.attacks import ATTACKS
from efface.cli import COMMANDS, arguments, main
from efface.cli.bench import PROTOCOLS
from efface.cli.judge import COMMANDS as JUDGE
from efface.cli.policies import COMMANDS as POLICIES
from efface.cli.sae import COMMANDS as SAE
from efface.erasers import ERASERS

ROOT = Path(__file__).parents[2]
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "integrations").rglob("*.md")),
    *sorted((ROOT / "benchmarks").rglob("*.py")),
)
FURTHER = {
    "erase": ERASERS, "attack": ATTACKS, "harden": ATTACKS, "judge": JUDGE, "sae": SAE, "policies": POLICIES, "bench": PROTOCOLS,
}  # fmt: skip
"""Commands whose next word is a command, a method or an attack of its own."""


class Read(BaseException):
    """The arguments were read: nothing more is to be done."""


def printed() -> Iterator[tuple[str, str]]:
    """Every line that begins with `efface`, with the name of its page."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(r"^ *(?:\$ )?(efface [a-z].*)$", text, flags=re.MULTILINE):
            blocks = text[: text.index(line)].count("```") % 2
            if page.suffix == ".py" or blocks:
                yield page.name, line


def inline() -> Iterator[tuple[str, str]]:
    """Every code span that begins with `efface` or with an option, with the name of its page."""
    for page in PAGES:
        if page.suffix == ".md" and page.name != "CHANGELOG.md":
            text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
            for span in re.findall(r"`((?:efface [a-z]|--[a-z])[^`]*)`", text):
                yield page.name, " ".join(span.split())


LINES = list(printed())
SPANS = list(inline())


@pytest.fixture
def only_read(monkeypatch):
    """Commands stop when their arguments are read."""
    read = arguments._read

    def stop(*args):
        raise Read(read(*args))

    monkeypatch.setattr(arguments, "_read", stop)


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page}:{line[7:47]}" for page, line in LINES])
def test_a_printed_command_is_read_to_its_end(page, line, only_read, capsys):
    words = [word for word in shlex.split(line, comments=True)[1:] if word != "…"]
    words = ["uce" if page == "plugins.md" and word == "swap" else word for word in words]  # the page's own plugin
    if words[-1] == "--erasure":  # `--erasure …`
        words.append("FILE")
    if words[-1] == "--help":
        assert main(words) == 0
        return
    try:
        main(words)
    except Read:
        return
    pytest.fail(capsys.readouterr().err)


@cache
def options_of(*path: str) -> frozenset[str]:
    """Options that the help of a command lists."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        assert main([*path, "--help"]) == 0
    return frozenset(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text.getvalue()))


@cache
def options_of_scripts() -> frozenset[str]:
    """Every word that may be an option of a script beside the package."""
    texts = [path.read_text() for folder in ("benchmarks", "recipes") for path in (ROOT / folder).rglob("*.py")]
    return frozenset(
        "--" + word.replace("_", "-") for text in texts for word in re.findall(r"\b[a-z][a-z_]*(?=:)", text)
    )


def paths() -> Iterator[tuple[str, ...]]:
    """Every command with options of its own."""
    for command in COMMANDS:
        yield from [(command, word) for word in FURTHER[command]] if command in FURTHER else [(command,)]


@pytest.mark.parametrize(("page", "span"), SPANS, ids=[f"{page}:{span[:40]}" for page, span in SPANS])
def test_options_named_in_text_are_known(page, span):
    words = [word for word in re.split(r"[\s…=]+", span) if word]
    wanted = [word for word in words if re.fullmatch(r"--[a-z][a-z-]*", word)]
    if words[0] != "efface":
        candidates = list(paths())
    else:
        command = words[1]
        assert command in COMMANDS
        chosen = [(command, word) for word in words[2:3] if word in FURTHER.get(command, ())]
        candidates = chosen or [path for path in paths() if path[0] == command]
    scripts = frozenset() if words[0] == "efface" else options_of_scripts()
    for option in wanted:
        assert option in scripts or any(option in options_of(*path) for path in candidates), option


PLAIN = re.compile(r"(?<![\w-])(STR|PATH|INT|FLOAT|\{None\})(?![\w-])")


@pytest.mark.parametrize("path", list(paths()), ids=" ".join)
def test_help_says_what_a_value_is(path, capsys):
    assert main([*path, "--help"]) == 0
    assert not PLAIN.findall(capsys.readouterr().out)
