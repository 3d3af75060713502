"""Names of components: built in or of plugins, described without being imported, and the one error for unknown options."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from types import ModuleType

import pytest

import wheels
from efface import plugins
from efface.attacks import ATTACKS
from efface.cli import COMMANDS
from efface.cli.bench import PROTOCOLS
from efface.cli.sae import COMMANDS as SAE_COMMANDS
from efface.erasers import ERASERS
from efface.erasures.erasure import KINDS
from efface.errors import EffaceError, UsageError
from efface.export import EXPORTS
from efface.families import FAMILIES
from efface.judges import JUDGES
from efface.metrics.features import FEATURES
from efface.plugins import Origin
from efface.profiles.base import PROFILES
from efface.registry import Opener, Registry, configure, lazily, misspelt, opened

REGISTRIES: dict[str, Registry] = {
    "erasers": ERASERS,
    "attacks": ATTACKS,
    "judges": JUDGES,
    "metrics": FEATURES,
    "protocols": PROTOCOLS,
    "families": FAMILIES,
    "erasures": KINDS,
    "exports": EXPORTS,
    "profiles": PROFILES,
    "commands": COMMANDS,
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a distribution of one module for this test: (name, version, source, entry points)."""

    def run(name, version, source, entry_points):
        module = name.replace("-", "_")
        sources = {f"{module}.py": source} if isinstance(source, str) else source
        wheel = wheels.build_wheel(tmp_path, name, version, sources, entry_points)
        monkeypatch.syspath_prepend(wheels.unpack(wheel, tmp_path / name))
        for loaded in [m for m in sys.modules if m.partition(".")[0] == module]:
            monkeypatch.delitem(sys.modules, loaded)
        plugins.complain.cache_clear()

    return run


def registry(**options):
    return Registry("colour", "efface.colours", {"red": "colorsys", "blue": "colorsys:rgb_to_hls"}, **options)


@pytest.mark.parametrize("group", REGISTRIES)
def test_every_built_in_name_loads_and_is_described(group):
    found = REGISTRIES[group]
    assert found.group == f"efface.{group}"
    described = found.described()
    for name in found.builtin:
        found.load(name)
        assert described[name]
        assert found.origin(name) is None
    with pytest.raises(UsageError, match=r"'nothing of the kind' is unknown; expected one of: "):
        found.load("nothing of the kind")


def test_families_and_kinds_have_the_names_by_which_files_know_them():
    assert all(FAMILIES.load(name).name == name for name in FAMILIES.builtin)
    assert all(KINDS.load(name).kind == name for name in KINDS.builtin)


def test_a_closed_registry_has_no_plugins(install):
    install("more", "1", '"""More."""', {"efface.commands": {"more": "more"}, "None": {"more": "more"}})
    assert SAE_COMMANDS.names() == tuple(SAE_COMMANDS.builtin)


def test_a_name_is_a_module_or_something_in_it():
    import colorsys

    assert registry().load("red") is colorsys
    assert registry().load("blue") is colorsys.rgb_to_hls
    assert registry().names() == tuple(registry()) == ("red", "blue")
    assert "red" in registry()
    assert "green" not in registry()


GREEN = "'''Green, as grass is.\n\nAnd more.'''\nimport sys\nsys.seen_green = True\nvalue = 3\n"


def test_a_plugins_component_is_described_without_being_imported(install):
    install("green", "1.2", GREEN, {"efface.colours": {"green": "green:value"}})
    assert registry().names() == ("red", "blue", "green")
    assert registry().summary("green") == "Green, as grass is. (plugin: green 1.2)"
    assert registry().described()["green"] == registry().summary("green")
    assert registry().origin("green") == Origin("green", "1.2")
    assert "green" not in sys.modules
    assert registry().load("green") == 3
    assert "green" in sys.modules


def test_packages_on_the_way_are_not_imported_either(install):
    sources = {"deep/__init__.py": "raise ImportError('no')", "deep/er.py": "# a comment\n\n'''Deeper.'''\n"}
    install("deep", "1", sources, {"efface.colours": {"deep": "deep.er"}})
    assert registry().summary("deep") == "Deeper. (plugin: deep 1)"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ('"""One."""', "One."),
        ("'One.'", "One."),
        ('r"""\nOne.\n"""', "One."),
        ("# comment\n\n'''One.\nTwo.'''", "One."),
        ("x = 1", ""),
        ("", ""),
        ('""""""', ""),
    ],
)
def test_the_first_line_of_a_docstring(install, source, line):
    install("green", "1", source, {"efface.colours": {"green": "green"}})
    assert registry().summary("green") == f"{line} (plugin: green 1)"


BROKEN = {
    "no such module": ("green", "nowhere", "there is no module"),
    "no such attribute": ("green", "green:nothing", None),
    "no reference at all": ("green", "!!", "there is no module"),
    "raises on import": ("raise RuntimeError('two\\nlines')", "green", None),
    "leaves the process": ("raise SystemExit(3)", "green", None),
    "lacks a dependency": ("import no_such_dependency", "green", None),
}


@pytest.mark.parametrize("row", BROKEN)
def test_a_broken_plugin_is_a_sentence_to_who_needs_it_and_a_line_to_others(install, capsys, row):
    source, reference, listed = BROKEN[row]
    install("green", "1.2", source, {"efface.colours": {"green": reference}})
    described = registry().described()
    registry().described()
    lines = capsys.readouterr().err.splitlines()
    if listed:
        assert "green" not in described
        assert len(lines) == 1
        assert "green 1.2" in lines[0]
        assert listed in lines[0]
    else:
        assert "green" in described
        assert not lines
    with pytest.raises(EffaceError, match=r"^the colour 'green' of the plugin green 1\.2 cannot be loaded \(") as error:
        registry().load("green")
    assert "\n" not in str(error.value)
    assert registry().load("blue")


def test_a_plugin_that_does_not_fit_the_contract_is_refused(install):
    install("green", "1.2", "value = 3", {"efface.colours": {"green": "green:value", "lime": "green"}})
    with pytest.raises(EffaceError, match=r"'green' of the plugin green 1\.2 is not .* expected str"):
        registry(contract=str).load("green")
    assert registry(contract=int).load("green") == 3
    assert isinstance(registry(contract=ModuleType).load("lime"), ModuleType)


def test_a_clash_with_a_built_in_name_is_an_error_that_names_both(install, capsys):
    install("green", "1.2", "'''Mine.'''", {"efface.colours": {"red": "green", "green": "green"}})
    for refused in (registry().load, registry().origin, registry().summary):
        with pytest.raises(UsageError, match=r"'red' is brought by efface itself and the plugin green 1\.2"):
            refused("red")
    assert registry().names() == ("red", "blue", "green")
    assert registry().described()["red"].startswith("Conversion")
    assert "green 1.2" in capsys.readouterr().err
    assert registry().load("blue")
    assert registry().load("green")


def test_a_clash_of_two_plugins_is_one_too(install):
    install("green", "1.2", "", {"efface.colours": {"lime": "green"}})
    install("moss", "0.1", "", {"efface.colours": {"lime": "moss"}})
    with pytest.raises(UsageError, match=r"brought by the plugin moss 0\.1 and the plugin green 1\.2"):
        registry().load("lime")


def test_of_two_versions_on_the_path_the_first_counts(install, tmp_path, monkeypatch):
    install("green", "1.2", "'''Old.'''", {"efface.colours": {"green": "green", "gone": "green"}})
    newer = wheels.build_wheel(
        tmp_path, "green", "2.0", {"green.py": "'''New.'''"}, {"efface.colours": {"green": "green"}}
    )
    monkeypatch.syspath_prepend(wheels.unpack(newer, tmp_path / "newer"))
    assert registry().summary("green") == "New. (plugin: green 2.0)"
    assert "gone" not in registry()


def test_unreadable_entry_points_are_a_line(install, tmp_path, capsys):
    install("green", "1.2", "'''Green.'''", {"efface.colours": {"green": "green"}})
    (tmp_path / "green" / "green-1.2.dist-info" / "entry_points.txt").write_text("[efface.colours]\nno equals sign\n")
    plugins._scan.cache_clear()
    assert registry().names() == registry().names() == ("red", "blue")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("efface: the entry points of green cannot be read (")


def test_openers():
    known = Registry("taste", None, {"sweet": f"{__name__}:SWEET", "sour": f"{__name__}:SOUR"})
    assert opened(known, "sweet") == ("sweet", "")
    assert opened(known, "sweet:a:b") == ("sweet", "a:b")
    assert opened(known, "sour:1") == ("sour", "1")
    for spec in ("sour", "sour:", "sweet:"):
        with pytest.raises(UsageError, match="is not of the form"):
            opened(known, spec)
    with pytest.raises(UsageError, match=r"the taste 'salty' is unknown: expected one of sweet\[:HOW\], sour:HOW\."):
        opened(known, "salty")
    assert str(misspelt(known, "sour", "sour!")) == "the taste 'sour!' is not of the form sour:HOW: write it so."


SWEET = Opener("[:HOW]", lambda name, rest: (name, rest))
SOUR = Opener(":HOW", lambda name, rest: (name, rest))


@dataclass(frozen=True)
class Config:
    """Two fields."""

    left: int = 1
    right: int = 2


def test_configure():
    assert configure(Config, {}) == Config()
    assert configure(Config, {"left": 5}, {"left": 3, "right": 4}) == Config(5, 4)
    for named, defaults in (({"up": 1}, {}), ({}, {"up": 1})):
        with pytest.raises(UsageError, match="the option 'up' is unknown; expected one of: left, right"):
            configure(Config, named, defaults)


def test_lazy_names():
    namespace: dict = {}
    get = lazily("here", {"rgb_to_hls": "colorsys"}, namespace)
    assert get("rgb_to_hls") is namespace["rgb_to_hls"]
    with pytest.raises(AttributeError, match="module 'here' has no attribute 'other'"):
        get("other")


def test_registries_are_free_of_torch():
    code = (
        "import sys, efface.cli, efface.cli.bench, efface.cli.sae, efface.attacks, efface.erasers, efface.judges.spec, "
        "efface.export.config as config, efface.profiles.base\n"
        "for known in (efface.cli.COMMANDS, efface.attacks.ATTACKS, efface.erasers.ERASERS, efface.judges.spec.JUDGES):\n"
        "    assert all(known.described().values())\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
