"""CLIP's tokens without transformers are those of its class, for every way in which pipelines on the Hub name them."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

import tiny
from efface.models.clip_tokens import ClipTokens

BEGIN, END = "<|startoftext|>", "<|endoftext|>"
CALLS = (
    {"padding": "max_length", "max_length": 12, "truncation": True},
    {"padding": "max_length", "max_length": 40, "truncation": True},
    {"padding": True},
)


def flagged(content, **more):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, **more}


CONFIGS = {
    "texts": ({"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": END}, {}),
    "flags": (
        {
            "add_prefix_space": False, "bos_token": flagged(BEGIN, __type="AddedToken"), "do_lower_case": True,
            "eos_token": flagged(END, __type="AddedToken"), "errors": "replace", "pad_token": END,
            "unk_token": flagged(END, __type="AddedToken"),
        },
        {"bos_token": flagged(BEGIN), "eos_token": flagged(END), "pad_token": END, "unk_token": flagged(END)},
    ),
    "other-padding": ({"pad_token": "!"}, {"bos_token": flagged(BEGIN), "eos_token": END, "pad_token": "!"}),
    "flags-last": ({"pad_token": "!"}, {"eos_token": END, "unk_token": flagged(END), "pad_token": "!"}),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request, tmp_path_factory):
    """The tokenizer of transformers and ours from one folder, as the Hub's pipelines have it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    write(folder, *CONFIGS[request.param])
    return CLIPTokenizer.from_pretrained(folder), ClipTokens(folder)


def write(folder, config, special):
    model = json.loads(tiny.tokenizer().backend_tokenizer.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]) + "\n")
    config = {"model_max_length": 40, "tokenizer_class": "CLIPTokenizer"} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if special:
        (folder / "special_tokens_map.json").write_text(json.dumps(special))


def test_every_step_is_the_same(pair):
    theirs, ours = pair
    assert json.loads(ours.backend_tokenizer.to_str()) == json.loads(theirs.backend_tokenizer.to_str())
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "model_max_length")
    assert [getattr(ours, name) for name in names] == [getattr(theirs, name) for name in names]
    assert (len(ours), ours.get_vocab()) == (len(theirs), theirs.get_vocab())


@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=3))
def test_every_answer_is_the_same(pair, texts):
    theirs, ours = pair
    texts = [*texts, f"a church{END} it's"]
    for options in CALLS:
        expected, found = (tokenizer(texts, return_tensors="pt", **options) for tokenizer in pair)
        assert torch.equal(found.input_ids, expected.input_ids)
        assert torch.equal(found.attention_mask, expected.attention_mask)
    for text in texts:
        ids = theirs(text, add_special_tokens=False).input_ids
        assert ours(text, add_special_tokens=False).input_ids == ids
        assert ours.decode(ids) == theirs.decode(ids)


@pytest.mark.parametrize("more", [{"added_tokens_decoder": {}}, {"extra": 1}])
def test_a_tokenizer_with_additions_is_left_to_transformers(tmp_path, more):
    write(tmp_path, more, {})
    with pytest.raises(ValueError, match="with additions"):
        ClipTokens(tmp_path)


def test_tokens_added_beside_the_vocabulary_are_left_to_transformers(tmp_path):
    write(tmp_path, {}, {"additional_special_tokens": ["<mine>"]})
    with pytest.raises(ValueError, match="with additions"):
        ClipTokens(tmp_path)
    (tmp_path / "special_tokens_map.json").unlink()
    (tmp_path / "added_tokens.json").write_text("{}")
    with pytest.raises(ValueError, match="with additions"):
        ClipTokens(tmp_path)
