"""run.json: what a run folder holds, so that its table can be read, and nothing else mixed into it."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from efface.bench.unit import Setting
from efface.errors import EffaceError, system_reason
from efface.io.atomic import write_atomically

FILE = "run.json"
FORMAT = 1
"""Version of the file; a reader refuses newer ones."""
LIBRARIES = ("efface", "torch", "diffusers", "transformers")


@dataclass(frozen=True)
class Record:
    """What a run is."""

    protocol: str
    """Name of the protocol."""
    plan: dict[str, Any]
    """Its plan's fields; `methods` may grow, nothing else may change."""
    model: dict[str, Any]
    """Fingerprint of the unerased model."""
    setting: Setting
    """What all units have in common."""
    versions: dict[str, str]
    """Versions of Python and of the libraries that drew last."""

    @classmethod
    def now(cls, protocol: str, plan: dict[str, Any], model: dict[str, Any], setting: Setting) -> Record:
        """A run by the libraries that are installed."""
        versions = {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}
        return cls(protocol, json.loads(json.dumps(plan)), json.loads(json.dumps(model)), setting, versions)


def begin(folder: Path, record: Record) -> Record:
    """Write the run's file, or go on with the run that the folder holds; returns the record of both together.

    Raises:
        EffaceError: the folder holds another run, or cannot be written.
    """
    if (folder / FILE).exists():
        record = _continued(folder, read(folder), record)
    write_atomically(folder / FILE, json.dumps({"format": FORMAT} | asdict(record), indent=1).encode())
    return record


def read(folder: Path) -> Record:
    """The record of a run folder; raises EffaceError where it has none that can be read."""
    path = folder / FILE
    try:
        data = json.loads(path.read_text())
        if data["format"] > FORMAT:
            raise EffaceError(f"{path} has format {data['format']}, this efface reads up to {FORMAT}: update efface.")
        setting = Setting.from_json(data["setting"])
        return Record(data["protocol"], data["plan"], data["model"], setting, data["versions"])
    except OSError as error:
        raise EffaceError(
            f"{path} could not be read ({system_reason(error)}); expected a run folder of `efface bench`."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EffaceError(f"{path} is damaged ({error!r}): draw the run again in another folder.") from error


def _continued(folder: Path, old: Record, new: Record) -> Record:
    """The new record with the old one's methods; raises EffaceError where anything else differs."""
    before = _flat(old)
    now = _flat(new)
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            raise EffaceError(
                f"{folder} holds a run with {name} {before.get(name)!r}, this one has {now.get(name)!r}: "
                "name another folder with -o."
            )
    methods = dict.fromkeys((*old.plan.get("methods", ()), *new.plan.get("methods", ())))
    return replace(new, plan=new.plan | {"methods": list(methods)}) if methods else new


def _flat(record: Record) -> dict[str, Any]:
    """Everything that must stay as it is, by the name that a sentence gives it."""
    plan = {name: value for name, value in record.plan.items() if name != "methods"}
    setting = asdict(record.setting) | {"judges": list(record.setting.judges)}
    return {"protocol": record.protocol} | plan | setting
