"""The door to a vision-language model: what is read of a picture, where it can be edited, answers in batches, folders."""

from __future__ import annotations

import pytest
import torch

import efface
from efface.errors import EffaceError, UsageError
from efface.models.vlm import load_vlm, reading
from tiny_vlm import logits, patches, tiny_processor, tiny_vlm

PICTURES = patches("red", 3)
QUESTIONS = ["what is in the picture ?", "is there a cat ?", "which style ?"]


@pytest.fixture
def vlm():
    return tiny_vlm()


def test_sites_are_what_the_answer_depends_on(vlm):
    assert [site.name for site in vlm.sites()] == ["projector", *(f"vision_tower.layers.{i}" for i in (2, 1, 0))]
    before = logits(vlm, PICTURES)
    for site in vlm.sites():
        handle = site.hook(lambda states: states + 1).register()
        assert not torch.equal(logits(vlm, PICTURES), before), site.name
        handle.remove()
    assert torch.equal(logits(vlm, PICTURES), before)


def test_the_last_layer_changes_nothing_and_is_refused(vlm):
    before = logits(vlm, PICTURES)
    handle = vlm.layers[3].register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    assert torch.equal(logits(vlm, PICTURES), before)
    handle.remove()
    with pytest.raises(UsageError, match=r"layers\.3 changes nothing: of 4 layers the model reads hidden state -2"):
        vlm.site("vision_tower.layers.3")


@pytest.mark.parametrize(
    "name", ["vision_tower.layers.4", "vision_tower.layers", "vision_tower.layers.-1", "unet.mid_block"]
)
def test_other_names_are_refused(vlm, name):
    with pytest.raises(UsageError, match="no site"):
        vlm.site(name)


@pytest.mark.parametrize(("layer", "last"), [(-1, 3), (-2, 2), (2, 1), ([-2, -3], 2), ([1, 3], 2)])
def test_the_layer_that_is_read_follows_the_configuration(layer, last):
    vlm = tiny_vlm(layer=layer)
    assert vlm.last_read == last
    assert vlm.features(PICTURES, vlm.site("projector")).shape == (
        3,
        16,
        32 * (len(layer) if isinstance(layer, list) else 1),
    )


def test_features_are_what_the_projector_is_given(vlm):
    seen = []
    handle = vlm.network.model.multi_modal_projector.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    logits(vlm, PICTURES)
    handle.remove()
    found = vlm.features(PICTURES, vlm.site("projector"), batch=2)
    assert torch.allclose(found, seen[0], atol=1e-5)
    assert torch.equal(found, vlm.features(PICTURES, vlm.site("vision_tower.layers.2"), batch=2))


def test_an_edit_of_the_layer_that_is_read_is_one_of_the_projectors_input(vlm):
    found = []
    for name in ("projector", "vision_tower.layers.2"):
        handle = vlm.site(name).hook(lambda states: states * states.abs()).register()
        found.append(logits(vlm, PICTURES))
        handle.remove()
    assert torch.equal(*found)


def test_the_class_token_is_neither_read_nor_edited(vlm):
    site, states = vlm.site("vision_tower.layers.1"), torch.randn(2, 17, 32)
    assert torch.equal(site.read(states), states[:, 1:])
    changed = site.changed(states, torch.zeros_like)
    assert torch.equal(changed[:, 0], states[:, 0])
    assert not changed[:, 1:].any()


def test_reading_stands_behind_edits(vlm):
    site, parts = vlm.site("vision_tower.layers.2"), []
    handle = site.hook(torch.zeros_like).register()
    with reading(site, parts):
        logits(vlm, PICTURES)
    handle.remove()
    assert not parts[0].any()


def test_answers_of_a_batch_are_those_of_single_questions(vlm):
    together = vlm.answers(PICTURES, QUESTIONS, longest=4)
    assert len(together) == 3
    assert together == [vlm.answers([p], [q], longest=4)[0] for p, q in zip(PICTURES, QUESTIONS, strict=True)]
    assert together == vlm.answers(PICTURES, QUESTIONS, batch=2, longest=4)


def test_a_picture_is_asked_of_every_question(vlm):
    with pytest.raises(UsageError, match="2 questions were asked of 3 pictures"):
        vlm.answers(PICTURES, QUESTIONS[:2])


def test_questions_are_put_by_the_chat_template_or_as_llavas(vlm):
    assert vlm.prompt("what ?") == "USER: <image>\nwhat ? ASSISTANT:"
    template = (
        "{% for m in messages %}{% for p in m['content'] %}{{ p.get('text', '<image>') }} {% endfor %}{% endfor %}"
    )
    vlm.processor = tiny_processor(template)
    assert vlm.prompt("what ?") == "<image> what ? "


def test_no_picture_and_values_that_are_not_finite_are_refused(vlm):
    site = vlm.site("projector")
    with pytest.raises(UsageError, match="no picture"):
        vlm.features([], site)
    vlm.layers[0].mlp.fc1.weight.data[0, 0] = float("nan")
    with pytest.raises(EffaceError, match="not finite"):
        vlm.features(PICTURES, site)


def test_a_folder_is_the_same_model(vlm, tmp_path):
    vlm.network.save_pretrained(tmp_path / "model")
    vlm.processor.save_pretrained(tmp_path / "model")
    loaded = efface.load(tmp_path / "model", device="cpu")
    assert torch.equal(logits(loaded, PICTURES), logits(vlm, PICTURES))
    assert not loaded.difference(vlm.footprint()).text
    half = load_vlm(tmp_path / "model", dtype=torch.bfloat16, device="cpu")
    assert not half.difference(vlm.footprint()).text
    with pytest.raises(UsageError, match="variant is 'fp16'"):
        efface.load(tmp_path / "model", variant="fp16")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(EffaceError, match="could not be loaded"):
        load_vlm(tmp_path / "model")
    with pytest.raises(EffaceError, match="no vision-language model"):
        load_vlm(tmp_path)


def test_other_weights_and_other_shapes_are_other_models(vlm):
    assert vlm.difference(tiny_vlm(0).footprint()).text == ""
    assert vlm.difference(tiny_vlm(1).footprint()).text.startswith("other weights")
    assert vlm.difference(tiny_vlm(0, layer=[-2, -3]).footprint()).structural


def test_what_is_no_llava_is_refused(vlm):
    with pytest.raises(EffaceError, match="LlamaModel is no vision-language model"):
        efface.VisionLanguageModel(vlm.network.model.language_model, vlm.processor)
