"""Closed forms read text encoders and key and value matrices alone, and make the same erasure as from the whole model."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import efface
import tiny
from efface.erasers import ERASERS
from efface.erasers.base import ClosedForm
from efface.models.clip_tokens import ClipTokens
from efface.models.fingerprint import fingerprint
from efface.models.spelling import spell
from efface.models.text_only import TextPipeline

pytestmark = pytest.mark.filterwarnings("ignore:the erasure does not reach the pooled text")
METHODS = {
    "rece": ("rece", {}), "uce": ("uce", {"keep": ["a cat"]}), "uce-tensor": ("uce", {"target": "tensor", "keep": []}),
    "preserve": ("preserve", {"keep": ["a cat"]}), "project": ("project", {"keep": ["a cat"]}),
}  # fmt: skip


def plain(pipe, folder):
    pipe.save_pretrained(folder)


def half(pipe, folder):
    pipe.to(torch.float16).save_pretrained(folder)


def variant(pipe, folder):
    pipe.to(torch.float16).save_pretrained(folder, variant="fp16")


def sharded(pipe, folder):
    pipe.save_pretrained(folder, max_shard_size="20KB")
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    assert len(list((folder / "text_encoder").glob("*-of-*.safetensors"))) > 1


def sharded_variant(pipe, folder):
    pipe.to(torch.float16).save_pretrained(folder, variant="fp16", max_shard_size="10KB")
    assert len(list((folder / "unet").glob("*fp16*-of-*"))) + len(list((folder / "unet").glob("*-of-*fp16*"))) > 1


def older(pipe, folder):
    """With the names that transformers before 5.6, and most files on the Hub, give a text encoder's tensors."""
    pipe.save_pretrained(folder)
    for file in folder.glob("text_encoder*/model.safetensors"):
        tensors = load_file(file)
        names = spell([name.removeprefix("text_model.") for name in tensors], old=True)
        save_file(dict(zip(names, tensors.values(), strict=True)), file, {"format": "pt"})


def on_the_hub(pipe, folder):
    """With the files of tokenizers that pipelines on the Hub have."""
    pipe.save_pretrained(folder)
    for file in folder.glob("tokenizer*/tokenizer.json"):
        model = json.loads(file.read_text())["model"]
        (file.parent / "vocab.json").write_text(json.dumps(model["vocab"]))
        (file.parent / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, model["merges"])))
        config = json.loads((file.parent / "tokenizer_config.json").read_text())
        kept = {"model_max_length": config["model_max_length"], "pad_token": config["pad_token"]}
        (file.parent / "tokenizer_config.json").write_text(json.dumps(kept | {"tokenizer_class": "CLIPTokenizer"}))
        file.unlink()


LAYOUTS = {
    "sd1": plain, "sd2": plain, "sdxl": plain, "sd1-half": half, "sdxl-half": half, "sd1-variant": variant,
    "sdxl-sharded": sharded, "sd1-sharded-variant": sharded_variant, "sd1-older": older, "sdxl-older": older,
    "sd1-hub": on_the_hub, "sdxl-hub": on_the_hub,
}  # fmt: skip


@pytest.fixture(scope="module", params=list(LAYOUTS))
def pair(request, tmp_path_factory):
    """A pipeline loaded whole, and its text alone."""
    folder = tmp_path_factory.mktemp("models") / request.param
    LAYOUTS[request.param](tiny.PIPELINES[request.param.partition("-")[0]](), folder)
    from diffusers import DiffusionPipeline

    options = {"variant": "fp16"} if "variant" in request.param else {}
    whole = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **options)
    text = efface.load(folder, device="cpu", text_only=True)
    assert isinstance(text, TextPipeline)
    assert isinstance(text.tokenizer, ClipTokens) == request.param.endswith("hub")
    return whole, text


def test_the_fingerprint_is_that_of_the_whole_model(pair):
    whole, text = pair
    assert all(parameter.is_meta for parameter in text.unet.parameters())
    assert fingerprint(efface.Model(text)) == fingerprint(efface.Model(whole))


@pytest.mark.parametrize("method", list(METHODS))
def test_the_erasure_is_that_of_the_whole_model(pair, method, monkeypatch, tmp_path):
    name, options = METHODS[method]
    made = []
    for number, pipeline in enumerate(pair):
        monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / str(number)))  # neither may have what the other found
        made.append(efface.erase(pipeline, "church", method=name, **options))
    whole, text = made
    assert text.provenance.base == whole.provenance.base
    assert text.provenance.keep == whole.provenance.keep
    assert (method != "rece") or len(text.provenance.keep) == 16
    assert text.tensors().keys() == whole.tensors().keys()
    for part, tensor in whole.tensors().items():
        # Weights that lie elsewhere in memory may be read by another kernel: float32's rounding, times the condition of the solve.
        assert (text.tensors()[part] - tensor).norm() <= 1e-4 * tensor.norm()
    whole_pipeline, _ = pair
    with text.attached(whole_pipeline):
        pass


def test_a_single_file(tmp_path, monkeypatch):
    pipe = tiny.stable_diffusion()
    pipe.save_pretrained(tmp_path / "config")
    file = tmp_path / "model.safetensors"
    save_file(checkpoint_of(pipe), file)
    config = tmp_path / "config"
    text = efface.load(file, device="cpu", config=config, text_only=True)
    assert all(parameter.is_meta for parameter in text.unet.parameters())
    assert text.vae is None
    made = []
    for number, pipeline in enumerate((pipe, text)):
        monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / str(number)))
        made.append(efface.erase(pipeline, "church", method="rece"))
    assert made[0].provenance.base == made[1].provenance.base
    assert all(torch.equal(made[1].tensors()[part], tensor) for part, tensor in made[0].tensors().items())


def checkpoint_of(pipe):
    """A tiny pipeline's networks under the names of the original Stable Diffusion."""
    from efface.export.names import CHECKPOINT, original_unet

    tensors = {}
    for name, tensor in pipe.unet.state_dict().items():
        path, _, parameter = name.rpartition(".")
        tensors[f"{CHECKPOINT}{original_unet(path, pipe.unet.config)}.{parameter}"] = tensor.contiguous()
    for name, tensor in pipe.text_encoder.state_dict().items():
        tensors[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor.contiguous()
    return tensors


def damaged(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def without_weights(folder):
    (folder / "text_encoder" / "model.safetensors").unlink()


@pytest.mark.parametrize("change", [damaged, without_weights])
def test_what_does_not_fit_is_loaded_whole_and_refused_there(change, tmp_path):
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    change(tmp_path / "model")
    with pytest.raises(efface.EffaceError, match="no pipeline could be loaded"):
        efface.load(tmp_path / "model", device="cpu", text_only=True)


@pytest.mark.parametrize(("part", "kind"), [
    ("text_encoder", ["transformers", "T5EncoderModel"]), ("unet", ["diffusers", "UNet2DModel"]),
    ("controlnet", ["diffusers", "ControlNetModel"]), ("tokenizer", [None, None]),
])  # fmt: skip
def test_other_networks_are_none_of_its_business(part, kind, tmp_path):
    from efface.models.text_only import from_folder

    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    assert from_folder(tmp_path / "model", "cpu") is not None
    file = tmp_path / "model" / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {part: kind}))
    assert from_folder(tmp_path / "model", "cpu") is None


def test_other_families_are_loaded_whole(tmp_path):
    from tiny_families import pipeline

    pipeline("sd35").save_pretrained(tmp_path / "model")
    loaded = efface.load(tmp_path / "model", device="cpu", text_only=True)
    assert not any(parameter.is_meta for parameter in loaded.transformer.parameters())


def test_the_text_alone_draws_nothing(tmp_path):
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    text = efface.load(tmp_path / "model", device="cpu", text_only=True)
    with pytest.raises(efface.EffaceError, match="cannot draw"):
        text("a church")
    with pytest.raises(RuntimeError, match="load the model whole"):
        text.unet(torch.zeros(1))


def test_which_methods_read_only_text():
    closed = {name for name in ERASERS.builtin if isinstance(ERASERS.load_builtin(name), ClosedForm)}
    drawn = {"saeuron", "anchored", "esd", "ca", "sdd", "doco", "sculpting", "kpop", "spm", "geom", "itd"}
    trained = {"hirm", "mace", "receler", "advunlearn", "stereo", "aegis", "eraseflow", "unsee"}
    guards = {"sld", "negative-prompt", "safree", "seot", "concept-steerers", "crg"}
    others = drawn | trained | guards | {"sauce"}
    assert closed == set(ERASERS.builtin) - others


def test_the_command_loads_the_text_alone_unless_something_is_drawn(tmp_path, monkeypatch):
    import efface.models.load as load
    from efface.cli import main

    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    asked = []
    real = load.load
    monkeypatch.setattr(
        load, "load", lambda name, **options: asked.append(options.get("text_only", False)) or real(name, **options)
    )
    words = ["erase", "uce", str(tmp_path / "model"), "church", "--keep", "none", "-o", str(tmp_path / "e.safetensors")]
    assert main(words) == 0
    assert main([*words, "--preview", str(tmp_path / "sheet.png"), "--steps", "1"]) == 0
    assert asked == [True, False]


def test_files_of_several_variants_and_none_plain(tmp_path):
    from efface.models.text_only import _tensors

    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    folder = tmp_path / "model" / "unet"
    file = folder / "diffusion_pytorch_model.safetensors"
    for name in ("fp16", "bf16"):
        shutil.copy(file, folder / f"diffusion_pytorch_model.{name}.safetensors")
    assert {s.path for s in _tensors(folder, "diffusion_pytorch_model", None).values()} == {file}
    chosen = _tensors(folder, "diffusion_pytorch_model", "bf16").values()
    assert all(re.search(r"\.bf16\.", stored.path.name) for stored in chosen)
    file.unlink()
    with pytest.raises(ValueError, match="several variants"):
        _tensors(folder, "diffusion_pytorch_model", None)
