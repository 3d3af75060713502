"""The ComfyUI nodes against attached erasures: the same network, behind as much of ComfyUI's interface as they use."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import efface
import tiny
from efface.erasures import ActivationEdit
from efface.errors import EffaceError
from efface.export.names import original_unet

CHURCH = efface.Concept("church", anchor="cat", templates=("a {}", "a {} in noto style"))
PACK = Path(__file__).parents[2] / "integrations" / "comfyui" / "__init__.py"


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """The pack, imported as ComfyUI does, with a `folder_paths` of its own."""
    paths = types.ModuleType("folder_paths")
    paths.__dict__.update(
        models_dir=tmp_path,
        add_model_folder_path=lambda name, path: None,
        get_filename_list=lambda name: sorted(p.name for p in tmp_path.glob("*.safetensors")),
        get_full_path=lambda name, file: str(tmp_path / file),
    )
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    spec = importlib.util.spec_from_file_location("efface_comfyui", PACK, submodule_search_locations=[str(PACK.parent)])
    pack = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "efface_comfyui", pack)
    spec.loader.exec_module(pack)
    yield pack
    sys.modules.pop("efface_comfyui.nodes", None)


class UNet(nn.Module):
    """A diffusers UNet whose blocks also have the original layout's names, with ComfyUI's call."""

    def __init__(self, unet):
        super().__init__()
        self.unet, layers = unet, unet.config.layers_per_block
        self.num_res_blocks = [layers] * len(unet.down_blocks)
        self.input_blocks = nn.ModuleList([nn.ModuleList([unet.conv_in])])
        self.output_blocks = nn.ModuleList()
        for half, blocks in ((self.input_blocks, unet.down_blocks), (self.output_blocks, unet.up_blocks)):
            for block in blocks:
                attentions = getattr(block, "attentions", [None] * len(block.resnets))
                for resnet, attention in zip(block.resnets, attentions, strict=True):
                    half.append(nn.ModuleList([resnet, *([] if attention is None else [attention])]))
                if half is self.input_blocks and block.downsamplers:
                    half.append(nn.ModuleList(block.downsamplers))
        middle = unet.mid_block
        self.middle_block = nn.ModuleList([middle.resnets[0], middle.attentions[0], middle.resnets[1]])

    def forward(self, x, timesteps, context):
        return self.unet(x, timesteps, encoder_hidden_states=context).sample


class Patcher:
    """ComfyUI's ModelPatcher: patches are kept on the clone and applied when the model runs."""

    def __init__(self, model, options=None, weights=()):
        self.model, self.weights = model, list(weights)
        self.model_options = options or {"transformer_options": {}}

    def clone(self):
        held = self.model_options["transformer_options"].get("patches", {})
        options = self.model_options | {"transformer_options": {"patches": {k: list(v) for k, v in held.items()}}}
        return Patcher(self.model, options, self.weights)

    def set_model_attn2_patch(self, patch):
        self.model_options["transformer_options"].setdefault("patches", {}).setdefault("attn2_patch", []).append(patch)

    def set_model_unet_function_wrapper(self, wrapper):
        self.model_options["model_function_wrapper"] = wrapper

    def add_patches(self, patches, strength):
        self.weights.append((patches, strength))

    def run(self, x, t, context):
        """A call of the sampler's."""
        unet, handles, saved = self.model.diffusion_model, [], {}
        patches = self.model_options["transformer_options"].get("patches", {}).get("attn2_patch", [])

        def attend(module, args, kwargs):
            keys = values = kwargs["encoder_hidden_states"]
            for patch in patches:
                _, keys, values = patch(args[0], keys, values, {})
            assert torch.equal(keys, values)  # the stand-in's networks read one context
            return args, kwargs | {"encoder_hidden_states": keys}

        for name, module in unet.unet.named_modules():
            if name.endswith("attn2"):
                handles.append(module.register_forward_pre_hook(attend, with_kwargs=True))
        state = dict(self.model.named_parameters(remove_duplicate=False))
        for changes, strength in self.weights:
            for key, (kind, (change,)) in changes.items():
                assert kind == "diff"
                saved.setdefault(key, state[key].data.clone())
                state[key].data += strength * change
        call = {"input": x, "timestep": t, "c": {"c_crossattn": context}}
        try:
            wrapper = self.model_options.get("model_function_wrapper")
            return wrapper(self.apply, call) if wrapper else self.apply(x, t, context)
        finally:
            for handle in handles:
                handle.remove()
            for key, value in saved.items():
                state[key].data.copy_(value)

    def apply(self, x, t, c_crossattn):
        return self.model.diffusion_model(x, t, context=c_crossattn)


@pytest.fixture
def comfy(sd):
    model = nn.Module()
    model.diffusion_model = UNet(sd.unet)
    return Patcher(model)


@pytest.fixture
def call(sd):
    generator = torch.Generator().manual_seed(0)
    states = efface.Model(sd).encode(["a church", "a cat in noto style"]).states
    return torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([521.0, 521.0]), states


def made(sd, kind, folder):
    if kind == "autoencoder":
        options = tiny.coder_options(sd, folder / "coder")
        return efface.erase(sd, CHURCH, method="saeuron", keep=["a dog"], **options)
    if kind == "gated":
        return efface.erase(sd, CHURCH, method="gated", margin=-2.0, keep=["a dog", "a cat"], prior="never")
    target = {"target": "tensor"} if kind == "weights" else {}
    return efface.erase(sd, CHURCH, method="uce", rows="subject", keep=["a dog"], **target)


@pytest.mark.parametrize("kind", ["text", "gated", "weights", "autoencoder"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_node_does_what_attaching_does(sd, nodes, comfy, call, tmp_path, kind, strength):
    erasure = made(sd, kind, tmp_path)
    erasure.save(tmp_path / "church.safetensors")
    node = nodes.NODE_CLASS_MAPPINGS[f"EffaceApply{'AutoencoderEdit' if kind == 'autoencoder' else 'Erasure'}"]
    assert node.INPUT_TYPES()["required"]["erasure"] == (["church.safetensors"],)
    with torch.no_grad():
        plain = comfy.run(*call)
        (patched,) = getattr(node(), node.FUNCTION)(comfy, "church.safetensors", strength)
        found = patched.run(*call)
        with erasure.attached(sd, scale=strength):
            expected = comfy.run(*call)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert (expected - plain).abs().max() > 1e-3
        assert torch.equal(comfy.run(*call), plain), "the model itself was changed"
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in sd.unet.modules())


@pytest.mark.parametrize("method", ["joint", "gated"])
def test_pooled_text_is_mapped_before_the_call(nodes, comfy, tmp_path, method):
    xl = tiny.stable_diffusion_xl()
    own = {"margin": -2.0} if method == "gated" else {}
    erasures = [
        efface.erase(xl, concept, method=method, keep=["a truck"], prior="never", aliases=False, **own)
        for concept in (CHURCH, efface.Concept("dog", anchor="art", templates=("a {}",)))
    ]
    text = efface.Model(xl).encode(["a church", "a dog"])
    labels = torch.cat([text.pooled, torch.arange(8.0).reshape(2, 4)], dim=1)
    seen = []
    patched = comfy
    for number, erasure in enumerate(erasures):
        erasure.save(tmp_path / f"{number}.safetensors")
        (patched,) = nodes.NODE_CLASS_MAPPINGS["EffaceApplyErasure"]().apply(patched, f"{number}.safetensors", 0.5)
    wrapper = patched.model_options["model_function_wrapper"]
    call = {"input": torch.zeros(2), "timestep": torch.zeros(2), "c": {"c_crossattn": text.states, "y": labels}}
    wrapper(lambda x, t, **conditions: seen.append(conditions["y"]), call)
    expected = text.pooled
    for erasure in reversed(erasures):  # the last node reads the text first
        expected = erasure.map_both(text.states, expected, 0.5)[1]
    torch.testing.assert_close(seen[0][:, :-4], expected)
    assert torch.equal(seen[0][:, -4:], labels[:, -4:])
    assert not torch.allclose(expected, text.pooled)


def test_nodes_in_a_row_compose_as_attachments_do(sd, nodes, comfy, call, tmp_path):
    first, second = made(sd, "text", tmp_path), efface.erase(sd, "dog", method="uce", rows="all", keep=[], ridge=0.01)
    edit = made(sd, "autoencoder", tmp_path)
    patched = comfy
    weaker = ActivationEdit(
        edit.provenance, {site: e._replace(shift=e.shift + 0.5) for site, e in edit.edits.items()}, edit.saes
    )
    for number, erasure in enumerate((first, second, edit, weaker)):
        erasure.save(tmp_path / f"{number}.safetensors")
        name = "EffaceApplyAutoencoderEdit" if isinstance(erasure, ActivationEdit) else "EffaceApplyErasure"
        (patched,) = nodes.NODE_CLASS_MAPPINGS[name]().apply(
            patched, f"{number}.safetensors", 1.0 if number < 3 else 0.5
        )
    again = efface.Erasure.load(tmp_path / "3.safetensors")
    with torch.no_grad(), first.attached(sd), second.attached(sd), edit.attached(sd):
        swapped = comfy.run(*call)
        with again.attached(sd, scale=0.5):
            expected = comfy.run(*call)
    with torch.no_grad():
        torch.testing.assert_close(patched.run(*call), expected, rtol=1e-4, atol=1e-5)
    assert (swapped - expected).abs().max() > 1e-4


def test_what_does_not_fit_is_refused_in_a_sentence(sd, nodes, comfy, call, tmp_path):
    made(sd, "text", tmp_path).save(tmp_path / "text.safetensors")
    made(sd, "autoencoder", tmp_path).save(tmp_path / "edit.safetensors")
    apply, edit = (nodes.NODE_CLASS_MAPPINGS[name]() for name in nodes.NODE_CLASS_MAPPINGS)
    with pytest.raises(EffaceError, match="Apply autoencoder edit"):
        apply.apply(comfy, "edit.safetensors", 1.0)
    with pytest.raises(EffaceError, match="Apply erasure"):
        edit.apply(comfy, "text.safetensors", 1.0)
    (patched,) = apply.apply(comfy, "text.safetensors", 1.0)
    x, t, states = call
    with pytest.raises(EffaceError, match="16 wide, this model's are 24"):
        patched.run(x, t, torch.randn(2, states.shape[1], 24))


def test_the_stand_in_has_the_original_names(sd, comfy):
    """Every module of the UNet stands where the converter of checkpoints says."""
    modules = dict(comfy.model.diffusion_model.named_modules(remove_duplicate=False))
    for name, module in sd.unet.named_modules():
        if "attentions." in name and not name.endswith("attentions"):
            assert modules[original_unet(name, sd.unet.config)] is module
