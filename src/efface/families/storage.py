"""How the values of a parameter are kept: as plain numbers, in few bits, in a file, or nowhere; and how they are read all the same.

A text map and an edit of activations need no weight of a layer, so that they act on any. Whoever computes with a weight reads its
values here; whoever writes into one asks first whether it is plain.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from efface.errors import EffaceError
from efface.io.stored import Stored


class Storage(NamedTuple):
    """How the values of a parameter are kept."""

    words: str
    """What is said of it in a sentence, such as "is quantised (Int8Tensor)"; empty for plain numbers in memory."""
    coarse: bool = False
    """Whether few bits hold the values, so that they are those of the model only nearly."""
    packed: bool = False
    """Whether a library keeps them in a form of its own."""

    @property
    def is_plain(self) -> bool:
        """Whether the values lie in memory as plain numbers, where they can be changed."""
        return not self.words


PLAIN = Storage("")
REMEDY = "load the pipeline with plain weights in memory"
"""What is to be done where a weight is needed that is not plain."""


def storage_of(module: nn.Module, name: str, group: Any = None) -> Storage:
    """How a module's own parameter is kept; `group` is what `disk_group` says of it."""
    parameter = module._parameters.get(name)
    kind = type(module).__name__ if parameter is None else type(parameter).__name__
    if parameter is None:
        return Storage(f"is kept by a layer of another kind ({kind})", coarse=True, packed=True)
    if (stored := stored_of(parameter)) is not None:
        return Storage("was left in its file", coarse=stored.dtype.itemsize < 2)
    if group is not None or (parameter.is_meta and _store_of(module) is not None):
        return Storage("is offloaded", coarse=parameter.dtype.itemsize < 2)
    if parameter.is_meta:
        return Storage("is on the meta device")
    if kind == "DTensor":
        return Storage("is spread over devices", packed=True)
    if type(parameter) not in (nn.Parameter, Tensor):
        return Storage(f"is quantised ({kind})", coarse=True, packed=True)
    dtype = str(parameter.dtype).removeprefix("torch.")
    if not parameter.is_floating_point():
        return Storage(f"is quantised ({dtype})", coarse=True, packed=True)
    return Storage(f"is stored in {dtype}", coarse=True) if parameter.dtype.itemsize < 2 else PLAIN


def shape_of(module: nn.Module, name: str) -> tuple[int, ...]:
    """Sizes of a parameter's values, however they are packed."""
    parameter = module._parameters.get(name)
    if name == "weight" and (parameter is None or type(parameter) not in (nn.Parameter, Tensor)):
        sizes = [getattr(module, side, None) for side in ("out_features", "in_features")]
        if all(isinstance(size, int) for size in sizes):
            return tuple(sizes)  # type: ignore[arg-type]
    packed = parameter if parameter is not None else torch.empty(0)
    return tuple(getattr(packed, "quant_shape", packed.shape))


def values_of(module: nn.Module, name: str, group: Any = None, *, called: str = "a weight") -> Tensor:
    """The values of a module's own parameter as numbers, sharing their memory where they are plain.

    What is quantised is dequantised by its own library, exactly; what is stored in 8 bits is widened.

    Args:
        module: the layer.
        name: of the parameter.
        group: what `disk_group` says of it.
        called: the weight's name, for the sentence.

    Raises:
        EffaceError: there are none, or the library offers no way.
    """
    storage = storage_of(module, name, group)
    try:
        values = _values(module, name, group)
    except EffaceError:
        raise
    except Exception as error:  # whatever a stranger's kernels raise
        raise EffaceError(
            f"{called} {storage.words}, and its values cannot be read ({_short(error)}): {REMEDY}."
        ) from error
    if values is None or values.is_meta or not values.is_floating_point():
        raise EffaceError(f"{called} {storage.words}, and its values cannot be read: {REMEDY}.")
    return values.float() if values.dtype.itemsize < 2 else values


def _values(module: nn.Module, name: str, group: Any) -> Tensor | None:
    """The same, which may raise anything; None where there is nothing to read."""
    parameter = module._parameters.get(name)
    if parameter is None:
        return None
    if group is not None:
        return _in_group(group, parameter)
    if parameter.is_quantized:
        return parameter.dequantize()
    if parameter.is_meta or type(parameter) in (nn.Parameter, Tensor):
        return read_parameter(module, name)
    return _UNPACK.get(type(parameter).__name__, _dequantised)(module, parameter).detach()


def read_parameter(module: Any, name: str) -> Tensor:
    """A module's own parameter as it is kept, read from its file or from accelerate's store while it is not in memory."""
    parameter = getattr(module, name)
    stored = stored_of(parameter)
    if stored is not None:
        return stored.read(parameter.dtype)
    store = _store_of(module)
    return store[name] if parameter.is_meta and store is not None else parameter.detach()


def sample_parameter(module: Any, name: str, step: int, count: int, group: Any = None) -> Tensor | None:
    """Every `step`-th value of a module's own parameter, flattened (values), at most `count`; of a file no more is kept.

    None where the values cannot be read.
    """
    parameter = module._parameters.get(name)
    if parameter is not None and (stored := stored_of(parameter)) is not None:
        return stored.sample(step, count).to(parameter.dtype)
    try:
        return values_of(module, name, group).flatten()[::step][:count]
    except EffaceError:
        return None


def stored_of(parameter: Tensor) -> Stored | None:
    """Where the values of a parameter on the meta device lie; None where nobody said."""
    return getattr(parameter, "stored", None) if parameter.is_meta else None


def disk_group(module: nn.Module) -> Any:
    """The group of diffusers' offloading that keeps a module and what is in it in a file; None where there is none.

    What the parameters hold then is nothing.
    """
    registry: Any = getattr(module, "_diffusers_hook", None)
    hook = None if registry is None else registry.get_hook("group_offloading")
    return hook.group if hook is not None and getattr(hook.group, "offload_to_disk_path", None) else None


def disk_group_at(network: nn.Module, path: str) -> Any:
    """The group that keeps the module at a path of a network, by itself or with a block around it."""
    module, groups = network, [disk_group(network)]
    for step in path.split(".") if path else ():
        module = module.get_submodule(step)
        groups.append(disk_group(module))
    return next((group for group in reversed(groups) if group is not None), None)


def _in_group(group: Any, parameter: Tensor) -> Tensor:
    """A parameter's values in the file of its group; those in memory before the file is written."""
    key = group.tensor_to_key.get(parameter)
    if key is None or not Path(group.safetensors_file_path).exists():
        return parameter.detach()
    with safe_open(group.safetensors_file_path, framework="pt") as file:
        return file.get_tensor(key)


def _store_of(module: Any) -> Any:
    """Where accelerate keeps a module's parameters while they are not in memory."""
    return getattr(getattr(module, "_hf_hook", None), "weights_map", None)


def _dequantised(module: nn.Module, parameter: Tensor) -> Tensor:
    """By the tensor's own method, as torchao and quanto have it."""
    return parameter.dequantize()


def _of_bitsandbytes(module: Any, parameter: Any) -> Tensor:
    """Of bitsandbytes, in 4 or 8 bits; not yet packed before it is moved to its device."""
    from peft.utils.integrations import dequantize_bnb_weight

    if parameter.is_floating_point():
        return parameter
    return dequantize_bnb_weight(parameter, state=getattr(module, "state", None))  # 4 bits keep theirs in the tensor


def _of_gguf(module: nn.Module, parameter: Any) -> Tensor:
    """Of llama.cpp's blocks, as diffusers keeps them."""
    from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

    return dequantize_gguf_tensor(parameter)


def _of_shards(module: nn.Module, parameter: Any) -> Tensor:
    """Of a tensor that several devices share."""
    return parameter.full_tensor()


_UNPACK: dict[str, Callable[[nn.Module, Any], Tensor]] = {
    "Params4bit": _of_bitsandbytes, "Int8Params": _of_bitsandbytes, "GGUFParameter": _of_gguf, "DTensor": _of_shards,
}  # fmt: skip
"""Class of a parameter -> how its library dequantises it, where that is no method of the tensor."""


def _short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__} {error}".split())[:120]
