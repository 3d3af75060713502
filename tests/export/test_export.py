"""Exports against the tools that read them: diffusers itself, its reader of checkpoints, and the weights by hand."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import efface
import tiny
from efface.cli import main
from efface.erasures import Provenance, WeightDelta, attached_to
from efface.export import ExportConfig, export, lora, peft_folder
from efface.export.edit import Edit
from efface.export.names import CHECKPOINT, kohya_name, original_unet, split
from efface.models.fingerprint import fingerprint
from efface.models.footprint import Footprint
from tiny_families import pipeline

pytestmark = pytest.mark.filterwarnings("ignore:the erasure does not reach")
CONCEPT = efface.Concept("church", anchor="cat", templates=("a {}", "a {} in noto style"))


@pytest.fixture(scope="module")
def made():
    """Makes an erasure of a tiny family once."""
    kept = {}

    def run(name, method="rece", **options):
        key = (name, method, *options.items())
        if key not in kept:
            kept[key] = efface.erase(pipeline(name), CONCEPT, method=method, keep=["a dog"], **options)
        return kept[key]

    return run


def weights(pipe):
    return {
        f"{n}.{k}": v.clone() for n, c in efface.Model(pipe).components().items() for k, v in c.state_dict().items()
    }


def metadata(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["efface"])


@pytest.mark.parametrize(("name", "keys"), [
    ("sd1", "diffusers"), ("sd1", "kohya"), ("sd2", "kohya"), ("sdxl", "diffusers"), ("sdxl", "kohya"),
    ("sd35", "diffusers"), ("flux-dev", "diffusers"), ("flux-dev", "kohya"), ("sana", "diffusers"),
    ("lumina2", "diffusers"), ("qwen-image", "diffusers"), ("z-image", "diffusers"), ("flux2-klein", "diffusers"),
])  # fmt: skip
def test_a_lora_does_what_the_erasure_does(name, keys, made, tmp_path):
    pipe, erasure = pipeline(name), made(name)
    before = weights(pipe)
    config = ExportConfig("lora", keys=keys, error=1e-4, pictures=True, steps=2)
    done = export(erasure, pipe, tmp_path / "e.safetensors", config)
    assert done.difference.mean < 0.05
    assert done.effect.mean > 10 * done.difference.mean
    assert done.error <= 1e-4
    assert metadata(done.path)["concepts"][0]["name"] == "church"
    assert [p.name for p in tmp_path.iterdir()] == ["e.safetensors"]
    for key, tensor in weights(pipe).items():
        assert torch.equal(tensor, before[key]), key
    assert attached_to(pipe) == []


def test_keys_are_those_that_diffusers_saves(made, tmp_path):
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = copy.deepcopy(pipeline("sdxl"))
    export(made("sdxl"), pipe, tmp_path / "ours.safetensors", ExportConfig("lora"))
    pipe.unet.add_adapter(
        LoraConfig(r=2, target_modules=r".*attn2\.to_(k|v)|add_embedding\.linear_1", init_lora_weights=False)
    )
    pipe.save_lora_weights(
        tmp_path, unet_lora_layers=get_peft_model_state_dict(pipe.unet), weight_name="theirs.safetensors"
    )
    ours, theirs = (load_file(tmp_path / f"{who}.safetensors") for who in ("ours", "theirs"))
    assert set(ours) == set(theirs)
    for key, tensor in theirs.items():
        axis = 0 if key.endswith("lora_A.weight") else 1  # the rank's
        assert tensor.shape[1 - axis] == ours[key].shape[1 - axis]


def test_the_product_is_the_edit_and_alpha_is_the_rank(made, tmp_path):
    pipe, erasure = pipeline("sd1"), made("sd1")
    done = export(erasure, pipe, tmp_path / "e.safetensors", ExportConfig("lora", keys="kohya", scale=0.5))
    tensors = load_file(done.path)
    model = efface.Model(pipe)
    for name, weight in Edit([erasure], model).weights.items():
        _, path, _ = split(name, model.components())
        base = f"lora_unet_{path}".replace(".", "_")
        up, down = tensors[f"{base}.lora_up.weight"].double(), tensors[f"{base}.lora_down.weight"].double()
        assert tensors[f"{base}.alpha"].item() == up.shape[1] == done.notes["rank"]
        m = torch.eye(16, dtype=torch.float64) + 0.5 * (erasure.matrix - torch.eye(16, dtype=torch.float64))
        expected = weight.double() @ m - weight.double()
        assert (up @ down - expected).norm() <= 1e-3 * expected.norm()


@pytest.mark.parametrize("to", ["lora", "peft"])
def test_a_lora_that_does_not_do_the_same_is_not_written(to, made, tmp_path):
    with pytest.raises(efface.EffaceError, match=r"of what the erasure changes there; expected at most 0\.05"):
        export(made("sd1"), pipeline("sd1"), tmp_path / "e.safetensors", ExportConfig(to, rank=1))
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_differ_are_not_written(made, tmp_path):
    config = ExportConfig("lora", rank=8, tolerance=0.4, pictures=True, steps=2)
    done = export(made("sd1"), pipeline("sd1"), tmp_path / "e.safetensors", config)
    share = done.difference.mean / done.effect.mean
    assert done.error < share / 2  # so that the matrices pass where the pictures do not
    config = ExportConfig("lora", rank=8, tolerance=share / 2, pictures=True, steps=2)
    with pytest.raises(efface.EffaceError, match="draws pictures that differ"):
        export(made("sd1"), pipeline("sd1"), tmp_path / "again.safetensors", config)
    assert [path.name for path in tmp_path.iterdir()] == ["e.safetensors"]


@pytest.mark.parametrize(
    ("module", "options"),
    [(lora, {"to": "lora"}), (lora, {"to": "lora", "keys": "kohya"}), (peft_folder, {"to": "peft"})],
)
def test_an_empty_lora_is_not_written(module, options, made, tmp_path, monkeypatch):
    right = module.adapter_of

    def zeroed(edit, config):
        adapter = right(edit, config)
        return adapter._replace(factors={name: (0 * up, down) for name, (up, down) in adapter.factors.items()})

    monkeypatch.setattr(module, "adapter_of", zeroed)
    with pytest.raises(efface.EffaceError, match=r"differs in .* from the erasure by 1 of what"):
        export(made("sd1"), pipeline("sd1"), tmp_path / "e.safetensors", ExportConfig(**options))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keys", ["diffusers", "kohya"])
def test_a_key_that_no_layer_takes_is_an_error(keys, made, tmp_path, monkeypatch):
    right = lora.lora_tensors

    def wrong(products, model, keys):
        tensors = right(products, model, keys)
        return {key.replace("mid_block", "mid_blok"): tensor for key, tensor in tensors.items()}

    monkeypatch.setattr(lora, "lora_tensors", wrong)
    with pytest.raises(efface.EffaceError, match=r"took 6 of 8 edited layers|cannot load the LoRA"):
        export(made("sd1"), pipeline("sd1"), tmp_path / "e.safetensors", ExportConfig("lora", keys=keys))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sd1", "sdxl", "pixart-alpha"])
def test_a_folder_for_diffusers(name, made, tmp_path):
    pipe = pipeline(name)
    before = weights(pipe)
    done = export(made(name), pipe, tmp_path / "out", ExportConfig("diffusers", pictures=True, steps=2))
    assert done.difference.mean < 0.05
    assert json.loads((tmp_path / "out" / "efface.json").read_text())["method"] == "rece"
    reloaded = efface.load(tmp_path / "out")
    assert fingerprint(efface.Model(reloaded)).difference(fingerprint(efface.Model(pipe)))
    for key, tensor in weights(pipe).items():
        assert torch.equal(tensor, before[key]), key


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd35"])
def test_the_edited_network_alone(name, made, tmp_path):
    """It is read by diffusers and stands in the pipeline for the attached erasure."""
    pipe, erasure = pipeline(name), made(name)
    before = weights(pipe)
    done = export(erasure, pipe, tmp_path / "out", ExportConfig("component", pictures=True, steps=2))
    network = "transformer" if name == "sd35" else "unet"
    assert done.notes["components"] == [network]
    assert done.difference.mean < 0.05
    assert {p.name for p in (tmp_path / "out").iterdir()} == {network, "efface.json"}
    read = type(getattr(pipe, network)).from_pretrained(tmp_path / "out" / network)
    for full, weight in Edit([erasure], efface.Model(pipe)).weights.items():
        torch.testing.assert_close(read.state_dict()[full.removeprefix(f"{network}.")], erasure.fold(full, weight, 1.0))
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights(pipe).items())


def test_an_edit_of_the_text_encoder_is_the_text_encoder_alone(made, tmp_path):
    pipe = pipeline("sd1")
    name = next(k for k in weights(pipe) if k.startswith("text_encoder.") and k.endswith("layers.0.mlp.fc2.weight"))
    change = 0.3 * torch.randn(weights(pipe)[name].shape, generator=torch.Generator().manual_seed(0))
    erasure = WeightDelta(made("sd1").provenance, {name: change})
    done = export(erasure, pipe, tmp_path / "out", ExportConfig("component", pictures=True, steps=2))
    assert done.notes == {"components": ["text_encoder"], "layers": 1}
    assert done.effect.mean > 10 * done.difference.mean
    read = type(pipe.text_encoder).from_pretrained(tmp_path / "out" / "text_encoder")
    own = name.removeprefix("text_encoder.")
    torch.testing.assert_close(read.state_dict()[own], weights(pipe)[name] + change)


def checkpoint(pipe, path):
    """A single file with a UNet in the original layout, a second averaged one, and a tensor of another network."""
    unet = pipe.unet
    tensors = {}
    for name, tensor in unet.state_dict().items():
        module, _, parameter = name.rpartition(".")
        tensors[f"{CHECKPOINT}{original_unet(module, unet.config)}.{parameter}"] = tensor.clone().contiguous()
    tensors |= {key.replace(CHECKPOINT, "model_ema.", 1): tensor.clone() for key, tensor in tensors.items()}
    tensors["first_stage_model.decoder.conv_in.weight"] = torch.ones(2, 2)
    save_file(tensors, path, {"format": "pt", "author": "someone"})
    return tensors


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_a_single_file(name, made, tmp_path):
    pipe, erasure = pipeline(name), made(name)
    before = checkpoint(pipe, tmp_path / "model.safetensors")
    done = export(
        erasure,
        pipe,
        tmp_path / "out.safetensors",
        ExportConfig("single-file", pictures=True, steps=2),
        source=tmp_path / "model.safetensors",
    )
    assert done.difference.mean < 0.05
    after = load_file(done.path)
    assert not [key for key in after if key.startswith("model_ema.")]
    assert set(after) == {key for key in before if not key.startswith("model_ema.")}
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    pooled = {"model.diffusion_model.label_emb.0.0.weight"} if name == "sdxl" else set()
    assert len(changed) == done.notes["layers"] == 8 + len(pooled)
    assert {key for key in changed if ".attn2.to_" not in key} == pooled
    with safe_open(done.path, framework="pt") as file:
        assert file.metadata()["author"] == "someone"


def test_a_single_file_needs_the_models_own_checkpoint(made, tmp_path):
    target = ExportConfig("single-file")
    with pytest.raises(efface.UsageError, match="needs the model as a"):
        export(made("sd1"), pipeline("sd1"), tmp_path / "out.safetensors", target, source="emoji")
    save_file({"other": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(efface.EffaceError, match=r"has no tensor model\.diffusion_model"):
        export(
            made("sd1"), pipeline("sd1"), tmp_path / "out.safetensors", target, source=tmp_path / "other.safetensors"
        )
    with pytest.raises(efface.EffaceError, match="UNet of SD"):
        export(
            made("sd35"), pipeline("sd35"), tmp_path / "out.safetensors", target, source=tmp_path / "other.safetensors"
        )


STABLE_DIFFUSION_1 = {"cross_attention_dim": 768}
STABLE_DIFFUSION_2 = {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
STABLE_DIFFUSION_XL = {
    "cross_attention_dim": 2048, "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816, "use_linear_projection": True,
    "attention_head_dim": (5, 10, 20),
}  # fmt: skip


@pytest.mark.parametrize(
    "config", [STABLE_DIFFUSION_1, STABLE_DIFFUSION_2, STABLE_DIFFUSION_XL], ids=["sd1", "sd2", "sdxl"]
)
def test_names_of_the_original_layout_are_those_that_diffusers_reads(config):
    """Every tensor of the released architectures, carried through diffusers' own reader by a number."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    numbers, tensors = {}, {}
    for number, name in enumerate(unet.state_dict()):
        module, _, parameter = name.rpartition(".")
        numbers[name] = number
        tensors[f"{CHECKPOINT}{original_unet(module, unet.config)}.{parameter}"] = torch.tensor([number])
    assert len(tensors) == len(numbers)
    read = convert_ldm_unet_checkpoint(tensors, unet.config)
    assert {name: int(tensor) for name, tensor in read.items()} == numbers


def test_kohyas_names_of_released_models():
    with torch.device("meta"):
        xl, one = UNet2DConditionModel(**STABLE_DIFFUSION_XL).config, UNet2DConditionModel(**STABLE_DIFFUSION_1).config
    path = "down_blocks.2.attentions.0.transformer_blocks.1.attn2.to_k"
    assert (
        kohya_name("unet", path, "stable-diffusion-xl", xl)
        == "lora_unet_input_blocks_7_1_transformer_blocks_1_attn2_to_k"
    )
    path = "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_v"
    assert (
        kohya_name("unet", path, "stable-diffusion-xl", xl)
        == "lora_unet_output_blocks_5_1_transformer_blocks_0_attn2_to_v"
    )
    assert (
        kohya_name("unet", path, "stable-diffusion", one)
        == "lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_attn2_to_v"
    )
    assert kohya_name("text_encoder_2", "text_model.encoder.layers.0.mlp.fc1", "stable-diffusion-xl", xl) == (
        "lora_te2_text_model_encoder_layers_0_mlp_fc1"
    )
    with pytest.raises(efface.EffaceError, match="no name for transformer"):
        kohya_name("transformer", "caption_projection.linear_1", "sana", {})


def delta(pipe, deltas):
    model = efface.Model(pipe)
    return WeightDelta(Provenance("uce", {}, (CONCEPT,), fingerprint(model), ("a dog",)), deltas)


def test_edits_that_are_no_thin_product(tmp_path):
    pipe = pipeline("sd1")
    names = ["mid_block.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.bias", "time_embedding.linear_1.weight"]
    held = dict(pipe.unet.named_parameters())
    g = torch.Generator().manual_seed(0)
    erasure = delta(pipe, {f"unet.{n}": 0.5 * torch.randn(held[n].shape, generator=g) for n in names})
    with pytest.raises(efface.EffaceError, match="which is no linear layer's matrix"):
        export(erasure, pipe, tmp_path / "e.safetensors", ExportConfig("lora"))
    done = export(erasure, pipe, tmp_path / "patch.safetensors", ExportConfig("diff", pictures=True, steps=2))
    assert set(load_file(done.path)) == {
        "lora_unet_mid_block_resnets_0_conv1.diff", "lora_unet_mid_block_resnets_0_conv1.diff_b",
        "lora_unet_time_embedding_linear_1.diff",
    }  # fmt: skip
    assert done.difference.mean < 0.05
    assert done.effect.mean > 1
    only = delta(pipe, {f"unet.{names[2]}": 0.5 * torch.randn(held[names[2]].shape, generator=g)})
    dense = export(only, pipe, tmp_path / "dense.safetensors", ExportConfig("lora"))
    assert dense.notes["rank"] == min(held[names[2]].shape)


def test_what_cannot_be_exported(made, tmp_path):
    pipe, erasure = pipeline("sd1"), made("sd1")
    target, out = ExportConfig("lora"), tmp_path / "e.safetensors"
    steer_latent = efface.erase(
        pipe, CONCEPT, method="saeuron", keep=["a dog"], **tiny.coder_options(pipe, tmp_path / "coder")
    )
    with pytest.raises(efface.EffaceError, match="which no weight does"):
        export(steer_latent, pipe, out, target)
    with erasure.attached(pipe), pytest.raises(efface.EffaceError, match="remove it before exporting"):
        export(erasure, pipe, out, target)
    with pytest.raises(efface.EffaceError, match="nothing to export"):
        export(erasure, pipe, out, ExportConfig("lora", scale=0.0))
    with pytest.raises(efface.EffaceError, match="loads no LoRAs"):
        export(made("pixart-alpha"), pipeline("pixart-alpha"), out, target)
    out.write_bytes(b"something of the user's")
    with pytest.raises(efface.UsageError, match="exists"):
        export(erasure, pipe, out, target)
    with pytest.raises(efface.UsageError, match=r"must be called \.safetensors"):
        export(erasure, pipe, tmp_path / "e.pt", target)
    with pytest.raises(efface.UsageError, match="no erasure was given"):
        export([], pipe, tmp_path / "none.safetensors", target)
    with pytest.raises(efface.UsageError, match="of a LoRA file: export to `lora`"):
        ExportConfig("peft", keys="kohya")
    assert out.read_bytes() == b"something of the user's"


@pytest.mark.parametrize(
    "option",
    [
        {"error": 1.0},
        {"error": 0.0},
        {"rank": 0},
        {"steps": 0},
        {"tolerance": 0.0},
        {"error": 0.2},
    ],
)
def test_options_out_of_range(option):
    with pytest.raises(efface.UsageError, match="expected"):
        ExportConfig("lora", **option)


def test_the_command(made, tmp_path, capsys):
    pipe = tiny.stable_diffusion()
    pipe.save_pretrained(tmp_path / "pipe")
    erasure = efface.erase(pipe, CONCEPT, method="uce", keep=["a dog"])
    erasure.save(tmp_path / "e.safetensors")
    out = str(tmp_path / "lora.safetensors")
    args = ["export", str(tmp_path / "e.safetensors"), str(tmp_path / "pipe"), "--to", "lora", "--keys", "kohya"]
    assert main([*args, "-o", out, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["output"], said["difference"], said["precision"]) == (out, None, "float16")
    assert said["error"] <= 1e-3
    assert main([*args, "-o", out]) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*args[:2], *args[3:], "-o", out]) == 2
    assert "an erasure and a model are needed" in capsys.readouterr().err


def test_the_command_with_several_erasures_and_pictures(tmp_path, capsys):
    pipe = tiny.stable_diffusion()
    pipe.save_pretrained(tmp_path / "pipe")
    files = []
    for name in ("church", "dog"):
        files.append(str(tmp_path / f"{name}.safetensors"))
        efface.erase(pipe, efface.Concept(name, anchor="cat"), method="uce", keep=["a truck"]).save(files[-1])
    out = str(tmp_path / "adapter")
    options = ["--to", "peft", "-o", out, "--pictures", "--steps", "2", "--json"]
    assert main(["export", *files, str(tmp_path / "pipe"), *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["difference"]["mean"] <= 0.05 * said["effect"]["mean"]
    note = json.loads((tmp_path / "adapter" / "efface.json").read_text())
    assert [concept["name"] for concept in note["concepts"]] == ["church", "dog"]


def test_another_model_s_weights_are_exported_for_when_that_is_asked_for_only(made):
    """An export may be made for a fine-tune only when that was asked for."""
    erasure = made("sd1")
    assert isinstance(erasure.provenance.base, Footprint)
    with pytest.raises(efface.EffaceError, match="other weights"):
        export(erasure, tiny.stable_diffusion(seed=5), "never", ExportConfig("lora"))
