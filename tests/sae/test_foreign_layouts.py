"""Autoencoders in other tools' layouts reconstruct as those tools do, or are refused by the name of what they do otherwise.

Every layout is compared with its formula written out, and with the tool itself where it is installed:

    pip install --no-deps --target DIR sae-lens eai-sparsify dictionary-learning   (and what they import)
    PYTHONPATH=DIR pytest tests/sae/test_foreign_layouts.py
"""

from __future__ import annotations

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from efface.errors import EffaceError
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.files import load_sae, sae_hash, save_sae
from efface.sae.lookup import open_sae
from efface.sae.saelens import save_saelens
from readme import blocks

WIDTH, LATENTS, K = 16, 64, 8
G = torch.Generator().manual_seed(0)
W = torch.randn(LATENTS, WIDTH, generator=G) / 4
B = torch.randn(LATENTS, generator=G) / 10
V = F.normalize(W, dim=1)
C = torch.randn(WIDTH, generator=G) / 10
X = torch.randn(32, WIDTH, generator=G)
LENGTHS = torch.linspace(0.2, 3, LATENTS)
PRE = (X - C) @ W.T + B
THRESHOLD = 0.4


def top(z, k=K):
    """All but the k largest of each row set to zero."""
    best = z.topk(k, dim=-1)
    return torch.zeros_like(z).scatter(-1, best.indices, best.values)


def tool(name: str) -> Any:
    """A tool's package, or a skip that says how to get it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(
                f"{name} is not installed ({error}): its own forward was NOT compared; see this file's first lines"
            )


def folder_of(path, config, tensors, weights):
    path.mkdir(parents=True)
    (path / "cfg.json").write_text(json.dumps(config))
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, path / weights)
    return path


def assert_close(found, expected):
    """To rounding: sums of WIDTH and K products of numbers of about 1 in float32."""
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-5, atol=2e-6 * WIDTH)


# SAELens

LENS = {
    "architecture": "topk", "d_in": WIDTH, "d_sae": LATENTS, "k": K, "dtype": "float32", "device": "cpu",
    "apply_b_dec_to_input": True, "normalize_activations": "none", "reshape_activations": "none",
    "rescale_acts_by_decoder_norm": False, "metadata": {"sae_lens_version": "6.54.12", "model_name": "tiny"},
}  # fmt: skip
LENS_TENSORS = {"W_enc": W.T, "b_enc": B, "W_dec": V, "b_dec": C}
OLD = {k: v for k, v in LENS.items() if k not in ("k", "metadata", "architecture", "rescale_acts_by_decoder_norm")} | {
    "architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "hook_name": "blocks.0",
    "finetuning_scaling_factor": False, "context_size": 128, "sae_lens_training_version": None,
}  # fmt: skip
JUMP = {"architecture": "jumprelu"}
PLAIN = {"architecture": "standard", "activation_fn_str": "relu", "activation_fn_kwargs": {}}
RAW = X @ W.T + B
SAELENS = {
    "topk": (LENS, {}, top(PRE.relu()) @ V + C),
    "nothing subtracted": (LENS | {"apply_b_dec_to_input": False}, {}, top(RAW.relu()) @ V + C),
    "in units of decoder rows": (
        LENS | {"rescale_acts_by_decoder_norm": True},
        {"W_dec": V * LENGTHS[:, None]},
        top(PRE.relu() * LENGTHS) / LENGTHS @ (V * LENGTHS[:, None]) + C,
    ),
    "in units of decoder rows, nothing subtracted": (
        LENS | {"rescale_acts_by_decoder_norm": True, "apply_b_dec_to_input": False},
        {"W_dec": V * LENGTHS[:, None]},
        top(RAW.relu() * LENGTHS) / LENGTHS @ (V * LENGTHS[:, None]) + C,
    ),
    "decoder rows of any length": (LENS, {"W_dec": V * LENGTHS[:, None]}, top(PRE.relu()) @ (V * LENGTHS[:, None]) + C),
    "one threshold": (
        {k: v for k, v in LENS.items() if k != "k"} | JUMP,
        {"threshold": torch.full((LATENTS,), THRESHOLD)},
        torch.where(PRE > THRESHOLD, PRE, 0.0) @ V + C,
    ),
    "standard": ({k: v for k, v in LENS.items() if k != "k"} | {"architecture": "standard"}, {}, PRE.relu() @ V + C),
    "version 5, k in activation_fn_kwargs": (OLD, {}, top(PRE.relu()) @ V + C),
    "version 5, relu": (OLD | PLAIN, {}, PRE.relu() @ V + C),
    "version 5, factors": (
        OLD | {"finetuning_scaling_factor": True},
        {"finetuning_scaling_factor": LENGTHS},
        (top(PRE.relu()) * LENGTHS) @ V + C,
    ),
    "version 3, factors of one": (OLD, {"scaling_factor": torch.ones(LATENTS)}, top(PRE.relu()) @ V + C),
}  # fmt: skip


@pytest.mark.parametrize("name", SAELENS)
def test_saelens_is_read_as_its_formula_says(name, tmp_path):
    config, tensors, expected = SAELENS[name]
    sae = load_sae(folder_of(tmp_path / "sae", config, LENS_TENSORS | tensors, "sae_weights.safetensors"))
    assert_close(sae(X), expected)
    save_sae(sae, tmp_path / "again")
    assert_close(load_sae(tmp_path / "again")(X), expected)


@pytest.mark.parametrize("name", [name for name in SAELENS if "factor" not in name])
def test_saelens_is_read_as_saelens_reads_it(name, tmp_path):
    """Version 6 ignores the factors of earlier ones."""
    sae_lens = tool("sae_lens")
    config, tensors, _ = SAELENS[name]
    folder = folder_of(tmp_path / "sae", config, LENS_TENSORS | tensors, "sae_weights.safetensors")
    assert_close(load_sae(folder)(X), sae_lens.SAE.load_from_disk(folder)(X))


@pytest.mark.parametrize("rule", ["topk", "batchtopk", "threshold"])
def test_saelens_reads_what_is_written(rule, tmp_path):
    sae_lens = tool("sae_lens")
    sae = SparseAutoencoder(SAEConfig(WIDTH, LATENTS, K, rule))
    sae.threshold.fill_(THRESHOLD)
    save_saelens(sae, tmp_path / "sae", "unet.a", "emoji")
    assert_close(sae_lens.SAE.load_from_disk(tmp_path / "sae")(X), sae.at_inference()(X))


LENS_REFUSED = {
    "layer_norm": ({"normalize_activations": "layer_norm"}, {}, "normalize_activations is 'layer_norm'"),
    "constant norm": ({"normalize_activations": "constant_norm_rescale"}, {}, "normalize_activations"),
    "an average norm": ({"normalize_activations": "expected_average_only_in"}, {}, "normalize_activations"),
    "whitening": ({"normalize_activations": "covariance_whitening"}, {}, "normalize_activations"),
    "heads": ({"reshape_activations": "hook_z"}, {}, "reshape_activations is 'hook_z'"),
    "one head": ({"hook_head_index": 3}, {}, "hook_head_index is '3'"),
    "gated": ({"architecture": "gated"}, {}, "architecture is 'gated'"),
    "absolute values": ({"architecture": "abstopk"}, {}, "architecture is 'abstopk'"),
    "a transcoder": ({"architecture": "transcoder", "d_out": WIDTH}, {}, "architecture is 'transcoder'"),
    "temporal": ({"architecture": "temporal"}, {}, "architecture is 'temporal'"),
    "tanh": ({"activation_fn": "tanh-relu"}, {}, "activation_fn is 'tanh-relu'"),
    "an option of the activation": ({"activation_fn_kwargs": {"k": 8, "softcap": 1}}, {}, "softcap is '1'"),
    "ignored by the tool": (JUMP | {"rescale_acts_by_decoder_norm": True}, {}, "rescale_acts_by_decoder_norm"),
    "an entry of tomorrow": ({"input_scale": 2.0}, {}, "input_scale is '2.0'"),
    "gates under other names": ({}, {"gate.weight": W}, "the tensor 'gate.weight'"),
    "factors that nobody announces": ({}, {"finetuning_scaling_factor": LENGTHS}, "finetuning_scaling_factor"),
    "thresholds of their own": (JUMP, {"threshold": LENGTHS}, "a threshold for every latent"),
    "no k": ({"k": None}, {}, "k is None"),
    "other widths": ({"d_sae": 2 * LATENTS}, {}, "its configuration says"),
}  # fmt: skip


@pytest.mark.parametrize("name", LENS_REFUSED)
def test_what_saelens_computes_otherwise_is_refused_by_name(name, tmp_path):
    config, tensors, sentence = LENS_REFUSED[name]
    if config.get("architecture") == "jumprelu" and not tensors:
        tensors = {"threshold": torch.zeros(LATENTS)}
    folder = folder_of(tmp_path / "sae", LENS | config, LENS_TENSORS | tensors, "sae_weights.safetensors")
    with pytest.raises(EffaceError) as error:
        load_sae(folder)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


# sparsify and SAeUron

SPARSIFY = {
    "activation": "topk", "expansion_factor": 4, "normalize_decoder": True, "num_latents": 0, "k": K, "multi_topk": False,
    "skip_connection": False, "transcode": False, "d_in": WIDTH,
}  # fmt: skip
SPARSIFY_TENSORS = {"encoder.weight": W, "encoder.bias": B, "W_dec": V, "b_dec": C}
SAEURON = {
    "expansion_factor": 4, "normalize_decoder": True, "num_latents": 0, "k": K, "batch_topk": True, "sample_topk": False,
    "input_unit_norm": False, "multi_topk": False, "d_in": WIDTH,
}  # fmt: skip


@pytest.mark.parametrize(
    "config", [SPARSIFY, SPARSIFY | {"signed": False}, SAEURON], ids=["sparsify", "older", "SAeUron"]
)
def test_sparsify_is_read_as_its_formula_says(config, tmp_path):
    sae = load_sae(folder_of(tmp_path / "sae", config, SPARSIFY_TENSORS, "sae.safetensors"))
    assert_close(sae(X), top(PRE.relu()) @ V + C)


def test_sparsify_is_read_as_sparsify_reads_it(tmp_path):
    sparsify = tool("sparsify")
    theirs = sparsify.SparseCoder(WIDTH, sparsify.SparseCoderConfig(expansion_factor=4, k=K))
    with torch.no_grad():
        for ours, value in {"encoder.weight": W, "encoder.bias": B, "W_dec": V, "b_dec": C}.items():
            theirs.get_parameter(ours).copy_(value)
    theirs.save_to_disk(tmp_path / "sae")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for CUDA's bfloat16
        expected = theirs(X).sae_out
    assert_close(load_sae(tmp_path / "sae")(X), expected)
    mine = SparseAutoencoder(SAEConfig(WIDTH, LATENTS, K))
    save_sae(mine, tmp_path / "mine", site="unet.a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_close(sparsify.SparseCoder.load_from_disk(tmp_path / "mine")(X).sae_out, mine(X))


SPARSIFY_REFUSED = {
    "groupmax": ({"activation": "groupmax"}, {}, "activation is 'groupmax'"),
    "a transcoder": ({"transcode": True}, {}, "transcode is 'True'"),
    "signed": ({"signed": True}, {}, "signed is 'True'"),
    "a skip connection": ({"skip_connection": True}, {"W_skip": torch.eye(WIDTH)}, "skip_connection is 'True'"),
    "an unannounced skip": ({}, {"W_skip": torch.eye(WIDTH)}, "the tensor 'W_skip'"),
    "4 k latents": ({"multi_topk": True}, {}, "multi_topk is 'True'"),
    "unit norm": ({"input_unit_norm": True}, {}, "input_unit_norm is 'True'"),
    "an entry of tomorrow": ({"jumprelu": True}, {}, "jumprelu is 'True'"),
    "gates": ({}, {"encoder_gate.weight": W}, "the tensor 'encoder_gate.weight'"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPARSIFY_REFUSED)
def test_what_sparsify_computes_otherwise_is_refused_by_name(name, tmp_path):
    config, tensors, sentence = SPARSIFY_REFUSED[name]
    folder = folder_of(tmp_path / "sae", SPARSIFY | config, SPARSIFY_TENSORS | tensors, "sae.safetensors")
    with pytest.raises(EffaceError) as error:
        load_sae(folder)
    assert sentence in str(error.value)


@pytest.mark.parametrize("weights", ["sae.safetensors", "sae_weights.safetensors"])
@pytest.mark.parametrize("name", ["mean.pt", "activation_scaler.json", "std.safetensors", "norm_factor.npy"])
def test_a_file_that_may_scale_the_inputs_is_refused_by_name(name, weights, tmp_path):
    both = (LENS, LENS_TENSORS) if weights == "sae_weights.safetensors" else (SPARSIFY, SPARSIFY_TENSORS)
    folder = folder_of(tmp_path / "sae", *both, weights)
    load_sae(folder)
    (folder / name).write_bytes(b"{}")
    with pytest.raises(EffaceError, match=f"holds {name}"):
        load_sae(folder)


# dictionary_learning


def test_a_pickle_of_dictionary_learning_is_refused_with_the_way_out(tmp_path):
    torch.save({"encoder.weight": W, "decoder.weight": V.T, "encoder.bias": B, "b_dec": C}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderTopK", "k": K}}))
    for read in (load_sae, lambda folder: open_sae(str(folder), "unet.a")):
        with pytest.raises(EffaceError, match=r"ae\.pt is a pickle of dictionary_learning.*docs/saeuron\.md"):
            read(tmp_path)


@pytest.mark.parametrize("kind", ["AutoEncoderTopK", "BatchTopKSAE", "AutoEncoder"])
def test_the_way_out_keeps_what_dictionary_learning_computes(kind, tmp_path):
    """The lines in docs/saeuron.md, on a dictionary of every kind that efface's autoencoder can be."""
    tool("dictionary_learning")
    homes = {
        "AutoEncoderTopK": "dictionary_learning.trainers.top_k", "BatchTopKSAE": "dictionary_learning.trainers.batch_top_k",
        "AutoEncoder": "dictionary_learning.dictionary",
    }  # fmt: skip
    options = {} if kind == "AutoEncoder" else {"k": K}
    ae = getattr(importlib.import_module(homes[kind]), kind)(WIDTH, LATENTS, **options)
    with torch.no_grad():
        ae.encoder.weight.copy_(W)
        ae.encoder.bias.copy_(B)
        ae.decoder.weight.copy_(V.T)
        (ae.bias if kind == "AutoEncoder" else ae.b_dec).copy_(C)
        if kind == "BatchTopKSAE":
            ae.threshold.fill_(THRESHOLD)
    shared = {"ae": ae, "folder": str(tmp_path / "sae")}
    exec(snippet(), shared)
    assert_close(load_sae(tmp_path / "sae")(X), ae(X))


def snippet() -> str:
    """The lines of the documentation that save a dictionary, without those that open it."""
    found = blocks((Path(__file__).parents[2] / "docs" / "saeuron.md").read_text(), "python")
    (block,) = [block for block in found if "from dictionary_learning" in block]
    return block.split("# its tensors, in a layout that efface reads\n")[1]


# SDXL-unbox

UNBOX = {"n_dirs_local": LATENTS, "d_model": WIDTH, "k": K, "auxk": 8, "dead_steps_threshold": 100}


def unbox(path, config=UNBOX, **more):
    """A folder as the tool's own `save_to_disk` writes it."""
    path.mkdir(parents=True, exist_ok=True)
    state = {
        "encoder.weight": W, "decoder.weight": V.T.contiguous(), "pre_bias": C, "latent_bias": B,
        "stats_last_nonzero": torch.zeros(LATENTS, dtype=torch.long),
    } | more  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    torch.save({"state_dict": state}, path / "state_dict.pth")
    torch.save(torch.rand(LATENTS), path / "mean.pt")
    torch.save(torch.rand(LATENTS), path / "std.pt")
    return path


def test_unbox_is_read_as_its_formula_says_and_reads_differences(tmp_path):
    sae = load_sae(unbox(tmp_path / "sae"))
    assert sae.config.reads == "difference"
    assert_close(sae(X), top(PRE).relu() @ V + C)
    other = load_sae(unbox(tmp_path / "other", UNBOX | {"output_or_diff": "output"}))
    assert other.config.reads == "output"
    assert sae_hash(other) != sae_hash(sae)
    save_sae(sae, tmp_path / "again")
    assert load_sae(tmp_path / "again").config == sae.config
    with pytest.raises(EffaceError, match="which SAELens's layout cannot say"):
        save_saelens(sae, tmp_path / "lens", "unet.a", "tiny")


@pytest.mark.parametrize(
    ("config", "more", "sentence"),
    [
        ({"activation": "jumprelu"}, {}, "activation is 'jumprelu'"),
        ({"output_or_diff": "input"}, {}, "output_or_diff is 'input'"),
        ({}, {"gate.weight": W}, "the tensor 'gate.weight'"),
        ({}, {"mean": C}, "the tensor 'mean'"),
    ],
)
def test_what_unbox_computes_otherwise_is_refused_by_name(config, more, sentence, tmp_path):
    with pytest.raises(EffaceError) as error:
        load_sae(unbox(tmp_path / "sae", UNBOX | config, **more))
    assert sentence in str(error.value)


def test_means_of_inputs_beside_unbox_are_refused(tmp_path):
    folder = unbox(tmp_path / "sae")
    torch.save(torch.rand(WIDTH), folder / "mean.pt")
    with pytest.raises(EffaceError, match=r"mean\.pt has no number for each of the 64 latents"):
        load_sae(folder)


def test_no_code_of_a_pickle_runs(tmp_path):
    folder = unbox(tmp_path / "sae")
    torch.save({"state_dict": {"encoder.weight": print}}, folder / "state_dict.pth")
    with pytest.raises(EffaceError, match="more than tensors"):
        load_sae(folder)


def test_an_own_autoencoder_with_an_entry_that_changes_its_meaning(tmp_path):
    save_sae(SparseAutoencoder(SAEConfig(WIDTH, LATENTS, K)), tmp_path / "sae", site="unet.a", reads_twice=True)
    load_sae(tmp_path / "sae")  # notes are the writer's own
    save_sae(SparseAutoencoder(SAEConfig(WIDTH, LATENTS, K)), tmp_path / "other", transcode=True)
    with pytest.raises(EffaceError, match="transcode is 'True'"):
        load_sae(tmp_path / "other")
    assert set(load_file(tmp_path / "sae" / "sae.safetensors")) == set(SPARSIFY_TENSORS)
