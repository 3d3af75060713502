"""An adapter's folder as peft writes it, which peft, vLLM-Omni, SGLang and diffusers load, also for one request alone.

peft and vLLM-Omni find `adapter_config.json` and `adapter_model.safetensors`, whose layers are named from the network on.
diffusers and SGLang find `pytorch_lora_weights.safetensors`, where the same factors are named from the pipeline on: under the
other names they would load nothing, and say so in a line of the log at most.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from efface.export.adapter import NAME, Adapter, adapted, adapter_of, read_by_diffusers, trainable_as_before
from efface.export.config import ExportConfig
from efface.export.edit import Edit
from efface.export.lora import lora_tensors
from efface.export.names import split
from efface.export.written import Reading, Written
from efface.io.atomic import write_atomically
from efface.models.model import Model

WEIGHTS = "adapter_model.safetensors"
LORA = "pytorch_lora_weights.safetensors"
PREFIX = "base_model.model."
"""Of every layer's name in peft's files."""


def write(edit: Edit, pipeline: Any, path: Path, config: ExportConfig, source: Path | None) -> Written:
    """Write the denoiser's adapter, those of other networks in folders of their names, and the LoRA file of all."""
    adapter = adapter_of(edit, config)
    folders: dict[str, Path] = {}
    for component, names in _by_component(adapter, edit.model).items():
        folders[component] = path if not folders else path / component
        folders[component].mkdir()
        _save(folders[component], edit, component, names, adapter, pipeline)
    (path / "efface.json").write_text(json.dumps(edit.note(), indent=1))
    readings = [read_by_peft(edit, folders)]
    # A network whose LoRA the pipeline does not load would be left out silently.
    loadable = getattr(pipeline, "_lora_loadable_modules", [])
    if set(folders) <= set(loadable):
        tensors = lora_tensors(adapter.factors, edit.model, "diffusers")
        write_atomically(path / LORA, save(tensors, edit.metadata()))
        readings.append(read_by_diffusers(edit, pipeline, path / LORA))
    notes = {
        **adapter.notes(),
        "networks": list(folders),
        "adapter_bytes": sum((folder / WEIGHTS).stat().st_size for folder in folders.values()),
        "files": sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()),
    }
    return Written(names=list(adapter.factors), notes=notes, readings=readings)


def _by_component(adapter: Adapter, model: Model) -> dict[str, list[str]]:
    """Component -> names of its weights; the denoiser first, then in the pipeline's order."""
    components = model.components()
    found = {component: [] for component in components}
    for name in adapter.factors:
        found[split(name, components)[0]].append(name)
    return {component: names for component, names in found.items() if names}


def _save(folder: Path, edit: Edit, component: str, names: list[str], adapter: Adapter, pipeline: Any) -> None:
    """The adapter of one network."""
    from peft import LoraConfig

    network = edit.model.components()[component]
    layers = {name.removeprefix(f"{component}.").removesuffix(".weight"): adapter.factors[name] for name in names}
    tensors: dict[str, Tensor] = {}
    for layer, (up, down) in layers.items():
        tensors |= {f"{PREFIX}{layer}.lora_A.weight": down, f"{PREFIX}{layer}.lora_B.weight": up}
    write_atomically(folder / WEIGHTS, save(tensors, edit.metadata()))
    settings = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.rank,  # so that nothing is scaled, whoever divides the two
        target_modules=sorted(layers),
        base_model_name_or_path=_hub_name(pipeline),
        inference_mode=True,
    )
    mapping = {"base_model_class": type(network).__name__, "parent_library": type(network).__module__}
    settings.save_pretrained(str(folder), auto_mapping_dict=mapping)
    _sort_targets(folder / "adapter_config.json")


def _sort_targets(file: Path) -> None:
    """The same erasure gives the same file: peft holds the layers' names in a set."""
    settings = json.loads(file.read_text())
    settings["target_modules"] = sorted(settings["target_modules"])
    file.write_text(json.dumps(settings, indent=2, sort_keys=True))


def _hub_name(pipeline: Any) -> str | None:
    """The repository that a pipeline came from; none for a folder, whose path says nothing elsewhere."""
    name = str(pipeline.config.get("_name_or_path") or "")
    return name if name.count("/") == 1 and not Path(name).exists() else None


@contextmanager
def read_by_peft(edit: Edit, folders: dict[str, Path]) -> Iterator[Reading]:
    """Adapters in their networks as peft loads them; the networks are left without them."""
    from peft import PeftModel

    components = edit.model.components()
    loaded: list[Any] = []
    with trainable_as_before(edit.model):
        try:
            for component, folder in folders.items():
                network: Any = components[component]
                loaded.append(PeftModel.from_pretrained(network, str(folder), adapter_name=NAME))
            yield Reading(adapted(edit, NAME), lambda: nullcontext(edit.model.pipeline))
        finally:
            for network in loaded:
                network.unload()
