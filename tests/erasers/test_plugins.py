"""A plugin from a wheel: an eraser, a judge and a profile, used by name, named in what they made, imported when asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import efface
import wheels
from efface import plugins
from efface.cli import main
from efface.erasers import ERASERS
from efface.erasers.base import Choosy, Eraser, Evidence, Extensible
from efface.errors import EffaceError, UsageError
from efface.judges import Judge, open_judge
from efface.judges.criterion import criterion_for
from efface.models.metadata import write_metadata
from efface.models.model import Model
from efface.profiles.base import PROFILES, Profile, profile_of
from readme import blocks

NAMED = "efface-demo-plugin 0.3.1"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder in which the demonstration plugin is installed."""
    folder = tmp_path_factory.mktemp("demo")
    return wheels.unpack(wheels.demo_wheel(folder), folder / "site")


@pytest.fixture
def demo(site, monkeypatch):
    """The plugin, on the path for one test."""
    monkeypatch.syspath_prepend(site)
    yield
    for module in [m for m in sys.modules if m.partition(".")[0] == "efface_demo_plugin"]:
        monkeypatch.delitem(sys.modules, module)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """Folder with a plugin that cannot be imported, one that lacks its module, and one that takes uce's name."""
    folder = tmp_path_factory.mktemp("broken")
    groups = ("erasers", "attacks", "judges", "metrics", "protocols", "families", "exports", "profiles", "commands")
    made = [
        wheels.build_wheel(
            folder, "crash", "1.0", {"crash.py": '"""It fails."""\nraise RuntimeError("oh no")'},
            {f"efface.{group}": {"crash": "crash"} for group in groups},
        ),
        wheels.build_wheel(folder, "absent", "1.1", {}, {"efface.erasers": {"absent": "absent_module"}}),
        wheels.build_wheel(folder, "thief", "6.6", {"thief.py": '"""Mine."""'}, {"efface.erasers": {"uce": "thief"}}),
    ]  # fmt: skip
    for wheel in made:
        wheels.unpack(wheel, folder / "site")
    return folder / "site"


def command(site, *args: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `efface` in a process of its own, with a folder of plugins on its path."""
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths} | environment
    script = (
        "import sys; from efface.cli import main; code = main(sys.argv[1:]); "
        "print('torch' in sys.modules, any(m in sys.modules for m in ('efface_demo_plugin', 'crash')), file=sys.stderr); "
        "sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *args], env=environment, capture_output=True, text=True, check=check
    )


def test_the_wheel_is_one_that_pip_installs(tmp_path):
    pytest.importorskip("pip", reason="needs pip")
    wheel = wheels.demo_wheel(tmp_path)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--target"]
    subprocess.run([*pip, str(tmp_path / "site"), str(wheel)], check=True, capture_output=True)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    installed = {str(p.relative_to(tmp_path / "site")) for p in (tmp_path / "site").rglob("*") if p.is_file()}
    assert {name for name in names if not name.endswith("RECORD")} <= installed
    assert "swap" in command(tmp_path / "site", "erase", "--help").stdout


def test_help_names_the_plugin_and_imports_neither_it_nor_torch(site):
    listed = command(site, "erase", "--help")
    (line,) = [line for line in listed.stdout.splitlines() if line.split()[:1] == ["swap"]]
    assert f"(plugin: {NAMED})" in line
    assert listed.stderr.split() == ["False", "False"]
    assert command(site, "--help").stderr.split() == ["False", "False"]


def test_the_help_of_its_method_lists_its_options_without_torch(site):
    found = command(site, "erase", "swap", "--help")
    assert all(option in found.stdout for option in ("--ridge", "--rows", "--keep", "--keep-rows", "--output"))
    assert "ridge regression can say it" in found.stdout
    assert found.stderr.split() == ["False", "True"]


def test_env_names_it(site):
    data = json.loads(command(site, "env", "--json").stdout)
    assert data["plugins"] == f"{NAMED} (erasers: swap, judges: brightness, profiles: demo-model)"
    with_none = json.loads(command("", "env", "--json").stdout)
    assert with_none["plugins"] == "none"


@pytest.mark.usefixtures("demo")
def test_its_method_fits_the_contract():
    assert isinstance(ERASERS.load("swap"), Eraser)
    assert isinstance(ERASERS.load("swap"), Extensible)
    assert [name for name in ERASERS.builtin if not isinstance(ERASERS.load(name), Extensible)] == [
        "oce", "esd", "ca", "sdd", "doco", "sculpting", "kpop", "spm", "geom",
        "hirm", "mace", "eraseflow",
        "sld", "negative-prompt", "safree", "seot", "concept-steerers", "crg", "sauce",
    ]  # fmt: skip
    learns = {name: ERASERS.load(name).LEARNS for name in ERASERS.builtin if isinstance(ERASERS.load(name), Choosy)}
    assert learns.keys() == {"saeuron", "anchored", "itd", "advunlearn"}
    assert all(set(found) <= {"words", "embeddings", "states"} for found in learns.values())


def test_its_method_adds_what_an_attack_found(sd, demo):
    erasure = efface.erase(sd, efface.Concept("church", anchor="cat"), method="swap", keep=["a dog"])
    model = Model(sd)
    found, anchor = model.encode(["art truck in church"]), model.encode(["a cat"])
    evidence = Evidence(efface.Concept("church", anchor="cat"), found, ("art truck in church",), ("a cat",), 1, 1)
    harder = ERASERS.load("swap").extend(model, erasure, evidence)
    goal = model.projection_inputs(anchor)[0, 1:]

    def miss(edit):
        return float((edit.map(model.projection_inputs(found)[0, 1:]) - goal).norm())

    assert miss(harder) < miss(erasure)


def test_an_erasure_names_its_plugin_and_is_read_without_it(sd, site, demo, draw, tmp_path, capsys):
    erasure = efface.erase(sd, efface.Concept("church", anchor="cat"), method="swap", keep=["a dog"], ridge=0.3)
    assert erasure.provenance.plugin == NAMED
    assert erasure.provenance.config["ridge"] == 0.3
    path = tmp_path / "church.safetensors"
    erasure.save(path)
    with erasure.attached(sd):
        pictures = draw(sd)

    code = (
        "import sys, efface; from efface.erasers import ERASERS; found = efface.Erasure.load(sys.argv[1]).provenance.plugin; "
        "print(found, 'efface_demo_plugin' in sys.modules, 'swap' in ERASERS)"
    )
    for paths, known in ((str(site), True), ("", False)):
        run = [sys.executable, "-c", code, str(path)]
        out = subprocess.run(run, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=True)
        assert out.stdout.split() == [*NAMED.split(), "False", str(known)]

    assert main(["show", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plugin"] == NAMED
    loaded = efface.Erasure.load(path)
    assert loaded.provenance == erasure.provenance
    with loaded.attached(sd):
        assert np.array_equal(draw(sd), pictures)


def test_an_erasure_of_efface_itself_names_no_plugin(sd):
    erasure = efface.erase(sd, efface.Concept("church", anchor="cat"), method="uce", keep=[])
    assert erasure.provenance.plugin == ""
    assert "plugin" not in erasure.provenance.to_json()


@pytest.mark.usefixtures("demo")
def test_the_command_erases_with_it_and_as_its_paper_did(sd, tmp_path, capsys):
    sd.save_pretrained(tmp_path / "model")
    for extra, rows, keep in (((), "subject", 5), (("--as-published",), "all", 0)):
        path = str(tmp_path / "e.safetensors")
        assert main(["erase", "swap", str(tmp_path / "model"), "church", "-o", path, "--json", *extra]) == 0
        provenance = efface.Erasure.load(path).provenance
        assert provenance.config["rows"] == rows
        assert bool(provenance.keep) == bool(keep)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["method"] == "swap"


KIND = '''"""A kind of erasure."""
from dataclasses import dataclass
from efface.erasures import TextMap

class Mirrored(TextMap):
    """A text map under another name."""
    kind = "mirrored"
'''


def test_a_file_of_a_plugins_kind_never_imports_it_by_itself(sd, tmp_path, monkeypatch):
    wheel = wheels.build_wheel(
        tmp_path, "mirror", "0.1", {"mirror.py": KIND}, {"efface.erasures": {"mirrored": "mirror:Mirrored"}}
    )
    site = wheels.unpack(wheel, tmp_path / "site")
    path = str(tmp_path / "e.safetensors")
    code = (
        "import sys, dataclasses, efface, mirror; e = efface.Erasure.load(sys.argv[1]); "
        "origin = dataclasses.replace(e.provenance, plugin='mirror 0.1'); mirror.Mirrored(origin, e.u, e.v).save(sys.argv[2])"
    )
    efface.erase(sd, efface.Concept("church", anchor="cat"), method="uce", keep=[]).save(tmp_path / "plain.safetensors")
    made = [sys.executable, "-c", code, str(tmp_path / "plain.safetensors"), path]
    subprocess.run(made, env=os.environ | {"PYTHONPATH": str(site)}, check=True, capture_output=True)

    with pytest.raises(EffaceError, match=r"kind 'mirrored' .* install the plugin that knows it \(mirror 0\.1\)"):
        efface.Erasure.load(path)
    monkeypatch.syspath_prepend(site)
    with pytest.raises(
        EffaceError, match=r"the plugin mirror 0\.1 knows.*imports no plugin: set EFFACE_PLUGINS=mirror"
    ):
        efface.Erasure.load(path)
    assert "mirror" not in sys.modules
    monkeypatch.setenv("EFFACE_PLUGINS", "other,mirror")
    assert efface.Erasure.load(path).kind == "mirrored"
    monkeypatch.delenv("EFFACE_PLUGINS")
    assert efface.Erasure.load(path).kind == "mirrored"  # it is imported now
    from efface.erasures import erasure

    monkeypatch.delitem(erasure._IMPORTED, "mirrored")
    monkeypatch.delitem(sys.modules, "mirror")


@pytest.mark.usefixtures("demo")
def test_its_judge_opens_by_its_short_name_and_judges():
    judge = open_judge("brightness:0.25")
    assert isinstance(judge, Judge)
    assert judge.name == "brightness-1 threshold=0.25"
    pictures = [Image.new("RGB", (8 + i, 8), (level,) * 3) for i, level in enumerate((0, 255, 100))]
    verdicts = judge(pictures)
    assert verdicts.labels == ("dark", "bright", "bright")
    assert verdicts.scores.shape == (3, 2)
    assert verdicts.scores.sum(1).tolist() == pytest.approx([1, 1, 1])
    assert bool(verdicts.intact.all())
    alone = [judge([picture]).scores[0].tolist() for picture in pictures]
    assert alone == verdicts.scores.tolist()
    assert [v.shown for v in criterion_for(judge, "bright")(pictures)] == [False, True, True]
    with pytest.raises(UsageError, match="no class 'church'"):
        criterion_for(judge, "church")
    for spec, message in {"brightness:": "is not of the form", "brightness:low": "expected a number"}.items():
        with pytest.raises(UsageError, match=message):
            open_judge(spec)
    with pytest.raises(UsageError, match="brightness"):
        open_judge("darkness")


def test_what_opens_no_judge_is_refused(tmp_path, monkeypatch):
    source = "from efface.registry import Opener\nOPENER = Opener('', lambda name, rest: print)\n"
    wheel = wheels.build_wheel(tmp_path, "odd", "1", {"odd.py": source}, {"efface.judges": {"odd": "odd:OPENER"}})
    monkeypatch.syspath_prepend(wheels.unpack(wheel, tmp_path / "site"))
    with pytest.raises(EffaceError, match="is no judge: expected name, classes, detects"):
        open_judge("odd")


@pytest.mark.usefixtures("demo")
def test_its_profile_is_that_of_the_model_whose_metadata_name_it(sd, tmp_path):
    sd.save_pretrained(tmp_path / "model")
    write_metadata(tmp_path / "model", sd, name="demo-model", steps=3, guidance=2.0)
    pipe = efface.load(tmp_path / "model")
    profile = profile_of(pipe)
    assert profile is PROFILES.load("demo-model")
    assert isinstance(profile, Profile)
    erasure = efface.erase(pipe, "church", method="swap")
    assert erasure.provenance.config["ridge"] == 0.05
    assert erasure.provenance.concepts[0].anchor == "cat"
    judge = profile.judge(efface.Concept("bright"))
    assert judge is not None
    assert judge.classes == ("dark", "bright")
    assert type(profile_of(sd)) is Profile


def test_broken_plugins_crash_nothing_that_does_not_need_them(broken, tmp_path):
    for args in (("--help",), ("bench", "--help"), ("attack", "--help"), ("erase", "uce", "--help")):
        if args != ("erase", "uce", "--help"):
            assert command(broken, *args).returncode == 0
    listed = command(broken, "erase", "--help")
    lines = [line for line in listed.stderr.splitlines() if line.startswith("efface: ")]
    assert len(lines) == 2
    assert "absent 1.1" in next(line for line in lines if "'absent'" in line)
    assert "the plugin thief 6.6" in next(line for line in lines if "'uce'" in line)
    assert listed.stderr.splitlines()[-1] == "False False"
    assert "rece" in listed.stdout
    assert "absent" not in listed.stdout


@pytest.mark.parametrize(
    ("method", "code", "said"),
    [
        ("crash", 1, "the method 'crash' of the plugin crash 1.0 cannot be loaded (RuntimeError: oh no)"),
        ("absent", 1, "the method 'absent' of the plugin absent 1.1 cannot be loaded (ModuleNotFoundError"),
        ("uce", 2, "the method 'uce' is brought by efface itself and the plugin thief 6.6"),
    ],
)
def test_who_asks_for_a_broken_plugin_reads_a_sentence(broken, method, code, said):
    done = command(broken, "erase", method, "emoji", "church", check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_family_is_a_line_and_known_pipelines_are_served(broken, sd, monkeypatch, capsys):
    monkeypatch.syspath_prepend(broken)
    plugins.complain.cache_clear()
    assert efface.Model(sd).family.name == efface.Model(sd).family.name == "stable-diffusion"
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("efface: ")]
    assert len(lines) == 1
    assert "the family 'crash' of the plugin crash 1.0 cannot be loaded" in lines[0]
    assert efface.erase(sd, efface.Concept("church", anchor="cat"), method="rece", keep=[])


def test_what_takes_the_name_of_a_family_or_kind_changes_nothing(sd, tmp_path, monkeypatch, capsys):
    groups = {"efface.families": {"stable-diffusion": "grab"}, "efface.erasures": {"textmap": "grab"}}
    wheel = wheels.build_wheel(tmp_path, "grab", "1", {"grab.py": "raise SystemExit(9)"}, groups)
    monkeypatch.syspath_prepend(wheels.unpack(wheel, tmp_path / "site"))
    plugins.complain.cache_clear()
    erasure = efface.erase(sd, efface.Concept("church", anchor="cat"), method="uce", keep=[])
    erasure.save(tmp_path / "e.safetensors")
    assert efface.Erasure.load(tmp_path / "e.safetensors").kind == "textmap"
    assert efface.Model(sd).family.name == "stable-diffusion"
    assert "'stable-diffusion' is brought by efface itself and the plugin grab 1" in capsys.readouterr().err


def test_a_plugins_family_comes_before_those_of_efface(sd, tmp_path, monkeypatch):
    source = "from efface.families.unet import StableDiffusion\n\nclass Mine(StableDiffusion):\n    name = 'mine'\n"
    wheel = wheels.build_wheel(tmp_path, "kin", "1", {"kin.py": source}, {"efface.families": {"mine": "kin:Mine"}})
    monkeypatch.syspath_prepend(wheels.unpack(wheel, tmp_path / "site"))
    assert efface.Model(sd).family.name == "mine"


def test_a_plugins_command_and_protocol_run(tmp_path):
    source = '"""Says hello."""\n\ndef main(args):\n    """Run the command."""\n    print("hello", *args)\n'
    groups = {"efface.commands": {"hello": "hello"}, "efface.protocols": {"greeting": "hello"}}
    wheel = wheels.build_wheel(tmp_path, "hello", "1", {"hello.py": source}, groups)
    site = wheels.unpack(wheel, tmp_path / "site")
    assert "Says hello. (plugin: hello 1)" in command(site, "--help").stdout
    assert command(site, "hello", "you").stdout == "hello you\n"
    assert "greeting" in command(site, "bench", "--help").stdout
    assert command(site, "bench", "greeting").stdout == "hello\n"


def test_a_plugins_export_is_among_the_targets(tmp_path):
    source = '"""Writes nothing."""\n\ndef write(edit, pipeline, path, config, source):\n    """Nothing."""\n'
    wheel = wheels.build_wheel(tmp_path, "out", "1", {"out.py": source}, {"efface.exports": {"void": "out:write"}})
    site = wheels.unpack(wheel, tmp_path / "site")
    assert "void" in command(site, "export", "--help").stdout


def test_a_method_without_extend_is_refused_before_anything_is_attacked(sd, tmp_path, monkeypatch):
    source = "from efface.erasers import uce\n\nConfig, PUBLISHED, erase = uce.Config, uce.PUBLISHED, uce.erase\n"
    wheel = wheels.build_wheel(tmp_path, "stiff", "1", {"stiff.py": source}, {"efface.erasers": {"stiff": "stiff"}})
    erasure = efface.erase(sd, efface.Concept("church", anchor="cat"), method="uce", keep=[])
    from dataclasses import replace

    made = replace(erasure, provenance=replace(erasure.provenance, method="stiff", plugin="stiff 1"))
    with pytest.raises(UsageError, match=r"'stiff' is of the plugin stiff 1: install it"):
        efface.harden(sd, made)
    monkeypatch.syspath_prepend(wheels.unpack(wheel, tmp_path / "site"))
    with pytest.raises(UsageError, match="'stiff' cannot add to its erasures"):
        efface.harden(sd, made)


@pytest.mark.slow
def test_the_documentations_example_does_what_it_says(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    (project,), (source,), (script,) = (blocks(text, language) for language in ("toml", "python", "bash"))
    said = tomllib.loads(project)["project"]
    modules = {"efface_swap.py": source}
    wheel = wheels.build_wheel(tmp_path, said["name"], said["version"], modules, said["entry-points"])
    site = wheels.unpack(wheel, tmp_path / "site")
    output = {}
    for line in script.splitlines():
        first, *args = line.split()
        assert first == "efface"
        args = [str(tmp_path / arg) if arg.endswith(".safetensors") else arg for arg in args]
        output[line] = command(site, *args).stdout
    assert "swap" in output["efface erase --help"]
    assert "efface-swap 1.0" in output["efface erase --help"]
    assert "--ridge" in output["efface erase swap --help"]
    assert "plugin: efface-swap 1.0" in " ".join(output["efface show church.safetensors"].split())
    assert "efface-swap 1.0" in output["efface env"]


def test_the_documentation_names_every_group():
    text = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    groups = {f"efface.{g}" for g in (
        "erasers", "attacks", "judges", "metrics", "protocols", "families", "erasures", "exports", "profiles", "commands",
    )}  # fmt: skip
    assert {row.split("`")[1] for row in text.splitlines() if row.startswith("| `efface.")} == groups
