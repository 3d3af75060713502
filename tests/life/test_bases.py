"""Whether a pipeline has the model that an erasure was made for: what the erasure touches decides, not what else is there."""

from __future__ import annotations

import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

import efface
import tiny
from alive import OlderTextEncoder, fresh, gap, latent_edit, shoot, text_map
from efface.erasures import WeightDelta, attached_to
from efface.models.fingerprint import fingerprint
from efface.models.likeness import ROUNDING
from efface.models.unchanged import known_footprint
from tiny_families import pipeline


def safety_checker(pipe):
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPImageProcessor

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = CLIPConfig(vision_config=small | {"image_size": 8, "patch_size": 4}, text_config=small, projection_dim=8)
    pipe.safety_checker = StableDiffusionSafetyChecker(config)
    pipe.feature_extractor = CLIPImageProcessor()
    return pipe


def image_encoder(pipe):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    pipe.image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**small, image_size=8, patch_size=4))
    return pipe


def second_unet(pipe):
    pipe.unet_2 = tiny.unet(16)
    return pipe


def controlnet(pipe, nets=1):
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    made = [ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8)) for _ in range(nets)]
    return StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=made[0] if nets == 1 else made)


def two_controlnets(pipe):
    return controlnet(pipe, 2)


def picture_to_picture(pipe):
    from diffusers import StableDiffusionImg2ImgPipeline

    return StableDiffusionImg2ImgPipeline.from_pipe(pipe)


def no_text_encoder(pipe):
    pipe.text_encoder = pipe.tokenizer = None
    return pipe


def textual_inversion(pipe):
    pipe.load_textual_inversion({"<toy>": torch.randn(16)}, token="<toy>")
    return pipe


def other_names(pipe):
    """Another version of transformers wraps the encoder that this one leaves plain, or the other way round."""
    inner = getattr(pipe.text_encoder, "text_model", None)
    pipe.text_encoder = OlderTextEncoder(pipe.text_encoder) if inner is None else inner
    return pipe


def half(pipe):
    return pipe.to(torch.float16)


def fused_projections(pipe):
    pipe.fuse_qkv_projections()
    return pipe


def adapter(kind, **options):
    def add(pipe):
        import peft

        config = getattr(peft, f"{kind}Config")(target_modules=["to_q", "to_k", "to_out.0"], **options)
        pipe.unet.add_adapter(config, "x")
        return pipe

    add.__name__ = kind
    return add


ADAPTERS = [
    adapter("Lora", r=2, init_lora_weights=False),
    adapter("LoHa", r=2, init_weights=False),
    adapter("LoKr", r=2, init_weights=False),
    adapter("IA3", feedforward_modules=[]),
    adapter("OFT", r=2, oft_block_size=0),
]
PARTS = [
    safety_checker, image_encoder, second_unet, controlnet, two_controlnets, picture_to_picture, no_text_encoder,
    textual_inversion, other_names, half, fused_projections, *ADAPTERS,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*were not used when:UserWarning")
@pytest.mark.parametrize("change", PARTS, ids=lambda change: change.__name__)
def test_more_or_fewer_other_parts_are_no_other_model(change):
    pipe = change(fresh())
    text_map().attach(pipe)
    assert len(attached_to(pipe)) == 1
    assert efface.check(pipe).intact
    text_map().remove(pipe)


@pytest.mark.filterwarnings("ignore:the erasure does not reach the pooled text")
@pytest.mark.parametrize(("name", "dropped"), [("sd35", "text_encoder_3"), ("sdxl", "text_encoder")])
def test_a_text_encoder_less_is_no_other_model(name, dropped):
    pipe = tiny.stable_diffusion_xl() if name == "sdxl" else fresh(name)
    made = efface.erase(pipe, efface.Concept("church", anchor="cat"), method="uce", keep=["a dog"])
    setattr(pipe, dropped, None)
    if name == "sdxl":
        pipe.text_encoder_2 = None  # drawn from embeddings
    made.attach(pipe)
    assert efface.check(pipe).intact


def test_an_erasure_made_with_a_controlnet_is_for_the_denoiser():
    made = efface.erase(controlnet(fresh()), efface.Concept("church", anchor="cat"), method="uce", keep=["a dog"])
    for pipe in (fresh(), controlnet(fresh()), two_controlnets(fresh())):
        made.attach(pipe)
        assert len(attached_to(pipe)) == 1


def test_a_pipeline_without_a_text_encoder_draws_from_embeddings_erased():
    pipe = fresh()
    states, _ = pipe.encode_prompt("a church", "cpu", 1, False)
    empty, _ = pipe.encode_prompt("", "cpu", 1, False)
    pipe.text_encoder = pipe.tokenizer = None

    def draw():
        return shoot(pipe, None, prompt_embeds=states, negative_prompt_embeds=empty)

    plain = draw()
    with text_map().attached(pipe):
        assert gap(draw(), plain) > 1e-3
    assert gap(draw(), plain) == 0.0
    with pytest.raises(efface.EffaceError, match="no text_encoder, which reads prompts"):
        efface.erase(pipe, "church", method="uce", keep=[])


def changed(pipe, part, choose, by=0.2):
    """Some weights of a part moved by a share of their spread."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in getattr(pipe, part).named_parameters():
            if choose(name):
                tensor.add_(
                    by * tensor.std().nan_to_num(1.0).clamp(min=1e-3) * torch.randn(tensor.shape, generator=generator)
                )
    return pipe


@pytest.mark.parametrize(
    ("part", "name", "seen"),
    [
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight", True),
        ("unet", "conv_in.weight", False),
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_q.weight", False),
        ("text_encoder", "layers.0.mlp.fc1.weight", True),
        ("text_encoder", "token_embedding.weight", False),
        ("vae", "decoder.conv_in.weight", False),
    ],
)
def test_what_a_text_map_touches_is_compared_and_nothing_else(part, name, seen):
    pipe = changed(fresh(), part, lambda found: found.endswith(name))
    if not seen:
        text_map().attach(pipe)
        return
    with pytest.raises(efface.EffaceError, match="other weights"):
        text_map().attach(pipe)
    with pytest.warns(UserWarning, match="other weights"):
        text_map().attach(pipe, force=True)


def test_what_an_edit_of_activations_touches_is_compared_and_nothing_else(tmp_path):
    edit = latent_edit(tmp_path)
    base = edit.provenance.base
    assert base.encoders == {}
    assert all(name.startswith(f"{tiny.SITE}.") for name in base.tensors)
    edit.attach(changed(fresh(), "unet", lambda name: not name.startswith("mid_block.attentions.0.")))
    with pytest.raises(efface.EffaceError, match="other weights"):
        edit.attach(changed(fresh(), "unet", lambda name: name.startswith("mid_block.attentions.0.")))


def delta_of(names):
    """A change of some weights that names what it touches."""
    pipe = pipeline("sd1")
    deltas = {f"unet.{name}": 0.1 * torch.ones_like(pipe.unet.get_parameter(name)) for name in names}
    base = known_footprint(efface.Model(pipe), list(deltas))
    return WeightDelta(replace(text_map().provenance, base=base), deltas)


def test_force_helps_where_structure_differs_and_everything_touched_fits():
    pipe = fresh()
    pipe.unet = type(pipe.unet).from_config(dict(pipe.unet.config) | {"block_out_channels": (8, 24)})
    with pytest.raises(efface.EffaceError, match=r"is 24 x 16, not 16 x 16.*force=True"):
        text_map().attach(pipe)
    with pytest.warns(UserWarning, match="another model"):
        text_map().attach(pipe, force=True)
    assert len(attached_to(pipe)) == 1


def test_force_does_not_help_where_what_is_touched_is_not_there():
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    edit = delta_of([name])
    edit.attach(fresh())
    pipe = fresh()
    pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k = nn.Linear(16, 4, bias=False)
    with pytest.raises(efface.EffaceError, match=r"4 x 16, not 16 x 16.*make an erasure for this model"):
        edit.attach(pipe, force=True)
    other = tiny.stable_diffusion(2)
    with pytest.raises(efface.EffaceError, match="make an erasure for this model"):
        text_map().attach(other, force=True)


def test_an_inpainting_relative_takes_a_map_by_force_or_as_it_is():
    """Its entry has five channels more; where nothing that is touched was tuned, it is the same model."""
    pipe = fresh()
    entry = nn.Conv2d(9, 8, 3, padding=1)
    pipe.unet.conv_in = entry
    text_map().attach(pipe)
    tuned = changed(fresh(), "unet", lambda name: True)
    tuned.unet.conv_in = entry
    with pytest.raises(efface.EffaceError, match=r"force=True"):
        text_map().attach(tuned)


# Files of format 1, whose fingerprints cover the whole model.


def of_format_1(pipe, **options):
    """The map with the fingerprint that format 1 has of a model."""
    made = text_map()
    return replace(made, provenance=replace(made.provenance, base=fingerprint(efface.Model(pipe), **options)))


@pytest.mark.filterwarnings("ignore:.*were not used when:UserWarning")
@pytest.mark.parametrize(
    "change",
    [safety_checker, second_unet, controlnet, two_controlnets, other_names, half, *ADAPTERS],
    ids=lambda change: change.__name__,
)
def test_format_1_is_compared_as_it_was_made(change):
    made = of_format_1(fresh())
    assert made.format == 1
    pipe = change(fresh())
    made.attach(pipe)
    assert efface.check(pipe).intact


@pytest.mark.parametrize("old", [False, True])
def test_format_1_of_a_pipeline_with_more_parts(old):
    made = of_format_1(controlnet(fresh()), old=old)
    with pytest.warns(UserWarning, match="other parts"):
        made.attach(fresh())


def test_format_1_where_only_structure_differs_is_warned_of():
    made = of_format_1(fresh())
    pipe = textual_inversion(fresh())
    with pytest.warns(UserWarning, match="vocabulary of another size"):
        made.attach(pipe)
    other = textual_inversion(tiny.stable_diffusion(seed=1))
    with pytest.raises(efface.EffaceError, match="other names or shapes"):
        made.attach(other)
    with pytest.warns(UserWarning, match="force=True"):
        made.attach(other, force=True)


@pytest.mark.filterwarnings("ignore:the erasure does not reach the pooled text")
def test_format_1_without_an_encoder_that_it_was_made_with_is_warned_of():
    pipe = fresh("sd35")
    made = efface.erase(pipe, efface.Concept("church", anchor="cat"), method="uce", keep=["a dog"])
    made.provenance.__dict__["base"] = fingerprint(efface.Model(pipe))
    pipe.text_encoder_3 = pipe.tokenizer_3 = None
    with pytest.warns(UserWarning, match="other parts"):
        made.attach(pipe)


def test_format_1_of_another_model_is_refused():
    made = of_format_1(fresh())
    with pytest.raises(efface.EffaceError, match="other weights"):
        made.attach(tiny.stable_diffusion(seed=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_other_model(dtype):
    pipe = fresh().to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text_map().attach(pipe)
    base, own = text_map().provenance.base, known_footprint(efface.Model(pipe))
    changes = [
        abs(a - b)
        for part in ("tensors", "encoders")
        for name, touched in getattr(base, part).items()
        for a, b in zip(touched.sketch.numbers, getattr(own, part)[name].sketch.numbers, strict=True)
    ]
    assert 0 < max(changes) < ROUNDING
