"""Weights that are no plain numbers in memory: maps and edits of activations act on any, folding refuses, values are read exactly."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import efface
import tiny
from alive import fresh, gap, latent_edit, shoot, text_map
from efface.erasures import attached_to
from efface.export import ExportConfig, export
from efface.families.storage import disk_group_at, storage_of, values_of


def each_linear(network, make):
    """Every linear layer of a network replaced by what `make` makes of it."""
    for path, layer in list(network.named_modules()):
        if type(layer) is nn.Linear:
            owner, _, name = path.rpartition(".")
            setattr(network.get_submodule(owner), name, make(layer))


def stored_in_fp8(pipe, folder):
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)


def by_accelerate_to_disk(pipe, folder):
    from accelerate import disk_offload

    disk_offload(pipe.unet, str(folder), execution_device=torch.device("cpu"))


def by_groups_to_disk(kind, **options):
    def offload(pipe, folder):
        pipe.unet.enable_group_offload(
            onload_device=torch.device("cpu"), offload_type=kind, offload_to_disk_path=str(folder), **options
        )

    offload.__name__ = kind
    return offload


def torchao(name, **options):
    def quantise(pipe, folder):
        quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")
        quantization.quantize_(
            pipe.unet, getattr(quantization, name)(**options), filter_fn=lambda layer, _: isinstance(layer, nn.Linear)
        )

    quantise.__name__ = name
    return quantise


def gguf(kind):
    def quantise(pipe, folder):
        library = pytest.importorskip("gguf", reason="gguf is not installed")
        from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter

        def packed(layer):
            if layer.in_features % 32:
                return layer
            made = GGUFLinear(layer.in_features, layer.out_features, layer.bias is not None, torch.float32)
            values = library.quants.quantize(layer.weight.detach().numpy(), library.GGMLQuantizationType[kind])
            number = library.GGMLQuantizationType[kind]
            made.weight = GGUFParameter(torch.from_numpy(values), quant_type=number)
            made.bias = layer.bias
            return made

        each_linear(pipe.unet, packed)

    quantise.__name__ = kind
    return quantise


def bitsandbytes(kind):
    def quantise(pipe, folder):
        library = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")

        def packed(layer):
            if kind == "Linear8bitLt":
                made = library.nn.Linear8bitLt(
                    layer.in_features, layer.out_features, layer.bias is not None, has_fp16_weights=False
                )
                made.weight = library.nn.Int8Params(layer.weight.detach(), requires_grad=False, has_fp16_weights=False)
            else:
                made = library.nn.Linear4bit(
                    layer.in_features, layer.out_features, layer.bias is not None, quant_type="nf4"
                )
                made.weight = library.nn.Params4bit(layer.weight.detach(), requires_grad=False, quant_type="nf4")
            made.bias = layer.bias
            return made.to("cpu")

        each_linear(pipe.unet, packed)

    quantise.__name__ = kind
    return quantise


DISK = [
    by_accelerate_to_disk,
    by_groups_to_disk("leaf_level"),
    by_groups_to_disk("block_level", num_blocks_per_group=1),
]
PACKED = [
    torchao("Int8WeightOnlyConfig"), torchao("Float8WeightOnlyConfig"), gguf("Q8_0"), gguf("Q4_0"),
    bitsandbytes("Linear4bit"), bitsandbytes("Linear8bitLt"),
]  # fmt: skip
KEPT = [stored_in_fp8, *DISK, *PACKED]


def wide(seed=0):
    """A pipeline whose text states are 32 wide, as blocks of quantisers need."""
    torch.manual_seed(seed)
    pipe = tiny.stable_diffusion(seed=seed)
    pipe.text_encoder = tiny.text_encoder(32, pipe.tokenizer)
    pipe.unet = tiny.unet(32)
    return pipe


@pytest.fixture(scope="module")
def made():
    """An erasure of the plain model."""
    return efface.erase(wide(), efface.Concept("church", anchor="cat"), method="uce", keep=["a dog"])


@pytest.mark.parametrize("keep", KEPT, ids=lambda keep: keep.__name__)
def test_a_map_acts_on_any_layer_and_is_not_folded(keep, made, tmp_path):
    pipe = wide()
    keep(pipe, tmp_path)
    plain = shoot(pipe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.attach(pipe)
    assert efface.check(pipe).intact
    assert gap(shoot(pipe), plain) > 1e-4
    made.remove(pipe)
    assert gap(shoot(pipe), plain) == 0.0
    with pytest.raises(efface.EffaceError, match=r"attn2\.to_[kv]\.weight is (stored in float8|offloaded|quantised)"):
        made.attach(pipe, fold=True)
    assert attached_to(pipe) == []
    assert gap(shoot(pipe), plain) == 0.0


@pytest.mark.parametrize("keep", KEPT, ids=lambda keep: keep.__name__)
def test_other_weights_are_told_through_any_storage(keep, made, tmp_path):
    pipe = wide(seed=1)
    keep(pipe, tmp_path)
    shoot(pipe)
    with pytest.raises(efface.EffaceError, match="other weights"):
        made.attach(pipe)


@pytest.mark.parametrize("keep", KEPT, ids=lambda keep: keep.__name__)
def test_an_erasure_is_made_of_any_storage(keep, made, tmp_path):
    """Of its exact values: the erasure fits the plain model, and is nearly the one that was made of it."""
    pipe = wide()
    keep(pipe, tmp_path)
    again = efface.erase(pipe, efface.Concept("church", anchor="cat"), method="uce", keep=["a dog"])
    change = again.matrix - made.matrix
    assert float(change.norm() / (made.matrix - torch.eye(32)).norm()) < 0.1
    again.attach(wide())
    delta = efface.erase(pipe, efface.Concept("church", anchor="cat"), method="uce", target="tensor", keep=["a dog"])
    with pytest.raises(efface.EffaceError, match=r"is (stored in float8|offloaded|quantised)"):
        delta.attach(pipe)


@pytest.mark.parametrize("keep", [stored_in_fp8, *PACKED], ids=lambda keep: keep.__name__)
def test_values_are_those_that_the_layer_computes_with(keep, tmp_path):
    pipe = wide()
    keep(pipe, tmp_path)
    for projection in efface.Model(pipe).text_projections():
        assert storage_of(projection.module, "weight").coarse
        weight = projection.weight().double()
        assert weight.shape == (projection.module.out_features, projection.width)
        computed = projection.module(torch.eye(projection.width)).detach().double().T
        # Kernels that quantise the input as well, or compute in bfloat16, round once more.
        assert float((weight - computed).norm() / computed.norm()) < 2e-2


@pytest.mark.parametrize("offload", DISK, ids=lambda keep: keep.__name__)
def test_values_on_disk_are_read_from_there(offload, tmp_path):
    pipe, plain = wide(), wide()
    offload(pipe, tmp_path)
    shoot(pipe)
    for name, layer in plain.unet.named_modules():
        if type(layer) is nn.Linear:
            values = values_of(pipe.unet.get_submodule(name), "weight", disk_group_at(pipe.unet, name))
            assert torch.equal(values, layer.weight), name


@pytest.mark.parametrize("keep", [stored_in_fp8, *DISK, *PACKED], ids=lambda keep: keep.__name__)
def test_an_edit_of_activations_acts_on_any_layer(keep, tmp_path):
    edit = latent_edit(tmp_path / "sae")
    pipe = fresh()
    keep(pipe, tmp_path / "weights")
    plain = shoot(pipe)
    edit.attach(pipe)
    assert gap(shoot(pipe), plain) > 0
    edit.remove(pipe)
    assert gap(shoot(pipe), plain) == 0.0


def test_what_has_no_values_is_attached_by_names_and_shapes_and_said(made):
    pipe = wide()
    pipe.unet.to("meta")
    pipe.text_encoder = pipe.tokenizer = None
    with pytest.warns(UserWarning, match="not compared"):
        made.attach(pipe)
    assert len(attached_to(pipe)) == 1
    made.remove(pipe)
    with pytest.raises(efface.EffaceError, match="on the meta device"), pytest.warns(UserWarning, match="not compared"):
        made.attach(pipe, fold=True)


def test_numbers_that_nobody_can_read_are_refused_by_what_computes_with_them():
    """A layer of a library that efface does not know: eight bits and no scale."""
    pipe = wide()
    layer = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k
    layer.weight = nn.Parameter(torch.zeros(layer.weight.shape, dtype=torch.int8), requires_grad=False)
    with pytest.raises(efface.EffaceError, match=r"to_k\.weight is quantised \(int8\), and its values cannot be read"):
        efface.erase(pipe, "church", method="uce", target="tensor", keep=[])


@pytest.mark.parametrize("part", ["text_encoder", "unet"])
def test_what_cannot_compute_says_which_weight_and_why(part):
    pipe = wide()
    getattr(pipe, part).to("meta")
    model = efface.Model(pipe)
    with pytest.raises(efface.EffaceError, match=rf"^{part}\.\S+ is on the meta device, .*plain weights in memory\.$"):
        model.latents(model.encode(["a church"]), seeds=[0], steps=1, guidance=2.0)


def test_packed_weights_are_not_exported_as_a_network(made, tmp_path):
    pipe = wide()
    stored_in_fp8(pipe, tmp_path)
    for to in ("component", "diffusers"):
        with pytest.raises(efface.EffaceError, match="is stored in float8_e4m3fn"):
            export(made, pipe, tmp_path / to, ExportConfig(to, steps=1))
        assert not (tmp_path / to).exists()


def test_a_layer_without_a_weight_is_mapped():
    """As of a library that keeps what it computes with elsewhere."""

    class Elsewhere(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.in_features, self.out_features = layer.in_features, layer.out_features
            self.held = [layer]

        def forward(self, states):
            return self.held[0](states)

    pipe = fresh()
    plain = shoot(pipe)
    each_linear(pipe.unet, Elsewhere)
    text_map().attach(pipe)
    assert gap(shoot(pipe), plain) > 1e-3
    text_map().remove(pipe)
    with pytest.raises(efface.EffaceError, match="kept by a layer of another kind"):
        text_map().attach(pipe, fold=True)
