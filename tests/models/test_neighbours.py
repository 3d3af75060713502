"""States of short sequences, and orders of words that are kept in the cache folder."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

import efface
import tiny
from efface.models import neighbours
from efface.models.model import Model

CHURCH = efface.Concept("church", templates=("a {} in noto style",))
WORDS = ("cat", "dog", "truck", "art", "garbage truck")


def words(model):
    return {word: model.token_spans()[0].ids(word) for word in WORDS}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder."""
    monkeypatch.setenv("EFFACE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_short_sequences_have_the_states_of_padded_ones(pipe):
    model = Model(pipe)
    span = model.token_spans()[0]
    prompts = ["a church in noto style", "", "cat", "garbage truck", "a dog", "zebra"]
    for batch in (2, 64):
        positions = [span.position(prompt) for prompt in prompts]
        short = neighbours.states_at(model, prompts, positions, batch=batch)
        padded = model.encode(prompts).states[range(len(prompts)), positions]
        # Sums over other numbers of rows, in float32.
        torch.testing.assert_close(short, padded, rtol=1e-4, atol=1e-4 * float(padded.abs().max()))


def test_states_that_depend_on_what_follows_are_read_from_whole_prompts(sd, monkeypatch):
    monkeypatch.setattr("efface.families.unet.CAUSAL", set())
    model = Model(sd)
    text = model.encode(["a church in noto style"])
    assert torch.equal(neighbours.states_at(model, ["a church in noto style"], [2]), text.states[:, 2])


def test_the_order_is_that_of_cosine_similarity_at_the_subject(pipe, cache):
    model = Model(pipe)
    span = model.token_spans()[0]
    found = neighbours.nearest(model, CHURCH, words(model), len(WORDS))

    def state(word):
        prompt = CHURCH.templates[0].replace("{}", word)
        return model.encode([prompt]).states[0, span.position(f"a {word}", prompt)]

    like = {word: float(F.cosine_similarity(state(word), state("church"), dim=0)) for word in WORDS}
    fits = [word for word in WORDS if not span.truncated(CHURCH.templates[0].replace("{}", word))]
    assert sorted(found) == sorted(fits)
    values = [like[word] for word in found]
    assert all(a >= b - 1e-4 for a, b in pairwise(values))


def test_an_order_is_kept_by_what_it_depends_on(cache, monkeypatch):
    pipe = tiny.stable_diffusion()
    model = Model(pipe)
    first = neighbours.nearest(model, CHURCH, words(model), 8)
    (file,) = cache.glob("neighbours-*.json")
    assert json.loads(file.read_text()) == first
    with monkeypatch.context() as patch:
        patch.setattr(neighbours, "_ranked", lambda *a: 1 / 0)
        assert neighbours.nearest(Model(tiny.stable_diffusion()), CHURCH, words(model), 8) == first
        with pytest.raises(ZeroDivisionError):  # other words
            neighbours.nearest(model, CHURCH, {"cat": words(model)["cat"]}, 8)
        with pytest.raises(ZeroDivisionError):  # another concept
            neighbours.nearest(model, efface.Concept("cat"), words(model), 8)
        with pytest.raises(ZeroDivisionError):  # other weights
            neighbours.nearest(Model(tiny.stable_diffusion(seed=1)), CHURCH, words(model), 8)
        with torch.no_grad():  # one weight that no sample covers
            pipe.text_encoder.get_input_embeddings().weight.view(-1)[-1] += 1
        with pytest.raises(ZeroDivisionError):
            neighbours.nearest(model, CHURCH, words(model), 8)
    for damaged in ("damaged", "[1]", '["nothing"]', "{}"):
        file.write_text(damaged)
        assert neighbours.nearest(Model(tiny.stable_diffusion()), CHURCH, words(model), 8) == first


def test_encoders_with_adapters_or_hooks_keep_nothing(cache):
    pipe = tiny.stable_diffusion()
    handle = pipe.text_encoder.register_forward_hook(lambda module, args, output: None)
    neighbours.nearest(Model(pipe), CHURCH, words(Model(pipe)), 8)
    assert not list(cache.glob("*"))
    handle.remove()
    neighbours.nearest(Model(pipe), CHURCH, words(Model(pipe)), 8)
    assert len(list(cache.glob("neighbours-*"))) == 1
