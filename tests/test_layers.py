"""Imports run down, and never in a circle: also inside functions, also under TYPE_CHECKING."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "efface"
LAYERS = (
    "errors", "plugins", "registry io concepts", "heads", "families judges", "models metrics", "report", "sae", "erasures",
    "closed_form training steering export profiles", "erasers attacks", "redteam", "api", "bench serving", "studio", "cli",
    "__init__ __main__",
)  # fmt: skip
"""From the ground up; rooms of one line never import each other."""
FLOOR = {room: number for number, rooms in enumerate(LAYERS) for room in rooms.split()}
KNOW_PROFILES = {"api", "bench", "cli", "studio", "profiles"}


def files() -> dict[str, Path]:
    """Module -> file; a package has the name of its folder."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(("efface", *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


FILES = files()


def imports(module: str, source: str) -> Iterator[str]:
    """Modules of efface that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "efface")
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{module} has a relative import in line {node.lineno}: write it out.")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "efface":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in FILES else str(node.module)


GRAPH = {module: sorted(set(imports(module, path.read_text()))) for module, path in FILES.items()}


def room(module: str) -> str:
    """The room of a module; the face of the package is `__init__`."""
    return "__init__" if module == "efface" else module.split(".")[1]


def upward(module: str, imported: str) -> str:
    """What is wrong with an import, in a sentence; nothing where it runs down."""
    own, other = room(module), room(imported)
    if other == "__init__":
        return f"{module} imports the face of the package"
    if own != other and FLOOR[other] >= FLOOR[own]:
        return f"{module} imports {imported}: {other} stands above {own} or beside it"
    if other == "profiles" and own not in KNOW_PROFILES:
        return f"{module} imports {imported}: only {', '.join(sorted(KNOW_PROFILES))} know profiles"
    return ""


def circles(graph: dict[str, list[str]]) -> list[list[str]]:
    """Strongly connected parts of more than one module (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[-len(part) :]
            if len(part) > 1 or node in graph.get(node, ()):
                found.append(part)

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_every_room_has_a_floor():
    assert {room(module) for module in FILES} <= set(FLOOR)


def test_imports_run_down():
    wrong = [upward(module, imported) for module, found in GRAPH.items() for imported in found]
    assert not list(filter(None, wrong)), "\n".join(sorted(filter(None, wrong)))


def test_no_circles():
    assert not circles(GRAPH)


def test_imports_are_seen_wherever_they_stand():
    source = "if TYPE_CHECKING:\n    from efface.api import erase\ndef f():\n    import efface.bench.unit\n"
    assert list(imports("efface.io.atomic", source)) == ["efface.api.erase", "efface.bench.unit"]
    assert all(upward("efface.io.atomic", imported) for imported in ("efface.api.erase", "efface.bench.unit", "efface"))
    assert upward("efface.io.atomic", "efface.errors") == upward("efface.io.hub", "efface.io.atomic") == ""
    assert upward("efface.models.model", "efface.metrics.rates")
    assert upward("efface.export.run", "efface.profiles.base")


def test_circles_are_found():
    assert [sorted(part) for part in circles({"a": ["b"], "b": ["c"], "c": ["a"], "d": ["a"]})] == [["a", "b", "c"]]
