"""What each attack minimises, against naive code on the raw networks; its first step; and the algebra of the searches."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import efface
import tiny
from attacked import CHURCH, Field
from efface.attacks import ATTACKS, configured, mma, p4d, ring_a_bell
from efface.attacks.base import Problem
from efface.attacks.genetic import Odds, children, fitness_of
from efface.attacks.simplex import onto_simplex, sampled
from efface.attacks.vocabulary import tokens_of, words
from efface.erasures.switch import ModelVariant
from efface.models.model import Settings
from efface.training.images import draw_concept_images
from rounding import assert_rounded

SETTINGS: Settings = {"steps": 2, "guidance": 5.0}


# Naive code: raw networks only.


def framed(tokenizer, rows):
    """Begin, content, end, padding (batch tokens)."""
    whole = [[tokenizer.bos_token_id, *row, tokenizer.eos_token_id] for row in rows]
    return torch.tensor([row + [tokenizer.pad_token_id] * (tiny.LENGTH - len(row)) for row in whole])


@contextmanager
def written(encoder, rows):
    """The token embedding gives `rows` (batch content width) in the content's places."""

    def hook(module, args, output):
        return torch.cat([output[:, :1], rows, output[:, 1 + rows.shape[1] :]], dim=1)

    handle = encoder.get_input_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def states_of(pipe, rows):
    """Text states of content tokens, and the pooled text, as each pipeline's own encode_prompt takes them."""
    if not hasattr(pipe, "text_encoder_2"):
        states = pipe.text_encoder(framed(pipe.tokenizer, rows))[0]
        return states, torch.stack([s[len(row) + 1] for s, row in zip(states, rows, strict=True)])
    encoders = (pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2)
    found = [encoder(framed(tok, rows), output_hidden_states=True) for tok, encoder in encoders]
    return torch.cat([f.hidden_states[-2] for f in found], dim=-1), found[1].text_embeds


def noisy(pipe, clean, noise, level):
    """√ᾱ x + √(1 − ᾱ) ε."""
    a = pipe.scheduler.alphas_cumprod[level.long()].reshape(-1, 1, 1, 1)
    return a.sqrt() * clean + (1 - a).sqrt() * noise


def right(pipe, clean, noise, level):
    """ε, or v = √ᾱ ε − √(1 − ᾱ) x."""
    a = pipe.scheduler.alphas_cumprod[level.long()].reshape(-1, 1, 1, 1)
    return noise if pipe.scheduler.config.prediction_type == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * clean


def adam(values, gradient, lr, eps=1e-8):
    """The first step of Adam: its moments cancel, up to ε."""
    return values - lr * gradient / (gradient.abs() + eps)


def assert_first_step(found, before, gradient, lr, after=lambda values: values):
    """A search's gradient is the naive one, and its values are what Adam makes of its own gradient.

    Of the naive gradient Adam makes the same but for entries near zero: their step is ±lr by the sign of their rounding.
    Rounding is multiplied by up to 10⁴ on the way back through denoiser and text encoder.
    """
    own = found["0|exp_avg"] / 0.1  # 1 − β₁
    assert ((own - gradient).abs() <= 1e-2 * gradient.abs().amax(-1, keepdim=True)).all()
    torch.testing.assert_close(found["0|value"], after(adam(before, own, lr)), rtol=0, atol=1e-3 * lr)


# The attacks.


@pytest.fixture(scope="module", params=["sd1", "sd2"])
def problem(request):
    """Two samples on a tiny pipeline: ε- and v-prediction, two tokenizers."""
    return problem_of(tiny.PIPELINES[request.param]())


def problem_of(pipe):
    model = efface.Model(pipe)
    erased = ModelVariant(model, (efface.erase(pipe, CHURCH, method="uce", rows="all", keep=[]),))
    from efface.concepts.sample import SEEDS, Sample
    from efface.models.sampling import sample_latents

    samples = tuple(Sample(prompt, SEEDS.attack + k) for k, prompt in enumerate(CHURCH.prompts()))
    latents = sample_latents(model, [s.prompt for s in samples], [s.seed for s in samples], SETTINGS, 2)
    return Problem(
        original=ModelVariant(model),
        erased=erased,
        concept=CHURCH,
        samples=samples,
        latents=latents,
        settings=SETTINGS,
        seed=0,
    )


def loss_of(problem, rows, ids, clean, noise, level):
    """Σ of each row's mean |target − ε(z, t, text)|² under the erasure, with content embeddings `rows`."""
    pipe = problem.model.pipeline
    with problem.erased.attached(), written(pipe.text_encoder, rows):
        states = pipe.text_encoder(framed(pipe.tokenizer, ids))[0]
        output = pipe.unet(noisy(pipe, clean, noise, level), level, encoder_hidden_states=states).sample
    return (output - right(pipe, clean, noise, level)).square().flatten(1).mean(1).sum()


def test_ring_a_bell(pipe):
    model, table = efface.Model(pipe), words(efface.Model(pipe), CHURCH, "all")
    ids = table.ids[torch.randint(len(table.ids), (5, 4), generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        pairs = [(f"a {w}", f"a {o}") for w, o in (("church", "cat"),)] + [
            ("a church in noto style", "a cat in noto style")
        ]
        rows = [[tokens_of(model, prompt) for prompt in pair] for pair in pairs]
        vector = sum(states_of(pipe, [a])[0][0] - states_of(pipe, [b])[0][0] for a, b in rows) / 2
        target = states_of(pipe, [rows[0][0]])[0][0] + 2.0 * vector
        expected = (states_of(pipe, ids.tolist())[0] - target).square().sum((1, 2))
    assert_rounded(ring_a_bell.concept_vector(model, CHURCH).states, vector)
    torch.testing.assert_close(ring_a_bell.distance(model, ids, target, batch=2), expected, rtol=5e-4, atol=0)


def test_mma(pipe):
    model = efface.Model(pipe)
    table = words(model, CHURCH, "all")
    prompts = torch.randint(len(table.ids), (3, 4), generator=torch.Generator().manual_seed(1))
    goal = states_of(pipe, [tokens_of(model, "a church")])[1].detach()[0]
    cosine = torch.nn.functional.cosine_similarity
    expected = torch.stack([1 - cosine(states_of(pipe, [table.ids[p].tolist()])[1], goal[None])[0] for p in prompts])
    torch.testing.assert_close(mma.losses(model, table, prompts, goal), expected.detach(), rtol=0, atol=1e-4)
    slope = mma.gradient(model, table, prompts[0], goal)
    # Against differences: a little of another word mixed into each place.
    place, word, little = 2, 7, 1e-2

    def mixed(share):
        rows = table.table[prompts[0]].clone()
        rows[place] += share * table.table[word]
        text = model.encode_tokens([table.ids[prompts[0]].tolist()], rows[None])
        return float(1 - cosine(mma.pooled(text).double(), goal.double()[None])[0])

    with torch.no_grad():
        difference = (mixed(little) - mixed(-little)) / (2 * little)
    assert slope[place, word].item() == pytest.approx(difference, rel=0.05, abs=2e-4)


@pytest.mark.parametrize("place", ["prefix", "suffix"])
def test_unlearndiff(problem, place):
    """One step at one timestep: points of the simplex after Adam with weight decay, projected back."""
    config = configured("unlearndiff", timesteps=1, iterations=1, length=2, lr=1e-4, weight_decay=0.1, place=place)
    found = next(ATTACKS.load("unlearndiff").search(problem, config, None))
    table = words(problem.model, CHURCH, "all")
    points = torch.full((2, 2, len(table.ids)), 1 / len(table.ids))
    drawn = torch.stack(
        [p.multinomial(1, generator=g)[:, 0] for p, g in zip(points, problem.generators(1, 0, 0), strict=True)]
    )
    hot = torch.nn.functional.one_hot(drawn, len(table.ids)).float().requires_grad_()
    embedding = problem.model.pipeline.text_encoder.get_input_embeddings().weight.detach()
    gradient = torch.zeros_like(points)
    for k, own in enumerate(problem.contents()):
        added, new = hot[k] @ embedding[table.ids], table.ids[drawn[k]].tolist()
        rows = torch.cat([added, embedding[own]] if place == "prefix" else [embedding[own], added])[None]
        ids = [[*new, *own] if place == "prefix" else [*own, *new]]
        level = problem.timesteps(1)
        loss = loss_of(problem, rows, ids, problem.latents[k : k + 1], problem.randn(2, 0, 0)[k : k + 1], level)
        gradient += torch.autograd.grad(loss, hot)[0]
    assert_first_step(found.state, points, gradient + 0.1 * points, 1e-4, onto_simplex)
    assert (found.state["0|value"] - points).abs().max() > 5e-5
    for value, candidate, own in zip(found.state["0|value"], found.candidates, problem.contents(), strict=True):
        first = 0 if place == "prefix" else len(own)
        assert [*candidate.ids[:first], *candidate.ids[first + 2 :]] == own
        # After one step a fifth of all words and more may share the largest value: each of them may be taken.
        chosen = (table.ids == torch.tensor(candidate.ids[first : first + 2])[:, None]).nonzero()[:, 1:]
        assert torch.equal(value.gather(1, chosen), value.amax(1, keepdim=True))


def test_p4d(problem):
    config = configured("p4d", length=3, iterations=1, every=1, lr=1e-2, weight_decay=0.1)
    found = next(ATTACKS.load("p4d").search(problem, config, None))
    table = words(problem.model, CHURCH, "all")
    pipe = problem.model.pipeline
    at, level = p4d.noised_batch(problem, 0)
    torch.testing.assert_close(at, noisy(pipe, problem.latents, problem.randn(2, 0), level))
    for k, (generator, t) in enumerate(zip(problem.generators(0), problem.samples, strict=True)):
        soft = table.table[torch.randint(len(table.ids), (3,), generator=generator)].requires_grad_()
        cosines = torch.nn.functional.cosine_similarity(soft[:, None], table.table[None], dim=-1)
        nearest = cosines.argmax(-1)
        with torch.no_grad():
            goal = pipe.unet(
                at[k : k + 1], level[k], encoder_hidden_states=states_of(pipe, [tokens_of(problem.model, t.prompt)])[0]
            ).sample
        rows = (table.table[nearest] - soft).detach() + soft
        ids = [table.ids[nearest].tolist()]
        with problem.erased.attached(), written(pipe.text_encoder, rows[None]):
            states = pipe.text_encoder(framed(pipe.tokenizer, ids))[0]
            output = pipe.unet(at[k : k + 1], level[k], encoder_hidden_states=states).sample
        gradient = torch.autograd.grad((output - goal).square().mean(), soft)[0]
        own = {name: found.state[name][k] for name in ("0|exp_avg", "0|value")}
        assert_first_step(own, soft.detach() * (1 - 1e-2 * 0.1), gradient, 1e-2)


@pytest.mark.parametrize("name", ["inversion", "pund"])
def test_learnt_embeddings(problem, name):
    """One step of AdamW on the new word's embedding; PUND searches the original, inversion the erased model."""
    config = configured(name, images=2, iterations=1, batch=2, lr=1e-2)
    found = next(ATTACKS.load(name).search(problem, config, None))
    pictures = draw_concept_images(problem.original.model, problem.concept.prompts(), 2, problem.settings)
    noised_batch = pictures.batch(2, 0, 0)
    embedding = problem.model.pipeline.text_encoder.get_input_embeddings().weight.detach()
    v = embedding.mean(0).requires_grad_()
    target = problem if name == "inversion" else dataclasses.replace(problem, erased=problem.original)
    loss = torch.zeros(())
    for k, member in enumerate(noised_batch.members):
        prompt = pictures.prompts[member]
        before, _, after = prompt.partition("church")
        head, tail = (tokens_of(problem.model, part.strip()) for part in (before, after))
        new = [*head, v, *tail] if name == "inversion" else [*head, *tail, v]
        rows = torch.stack([v if part is v else embedding[part] for part in new])[None]
        ids = [[0 if part is v else part for part in new]]
        one = slice(k, k + 1)
        loss = (
            loss
            + loss_of(target, rows, ids, noised_batch.clean[one], noised_batch.noise[one], noised_batch.timesteps[one])
            / 2
        )
    gradient = torch.autograd.grad(loss if name == "inversion" else loss / loss.detach(), v)[0]
    assert_first_step(found.state, v.detach() * (1 - 1e-2 * 0.01), gradient, 1e-2)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_other_tokenizers_and_pairs_of_them(family):
    """Every search on another tokenizer, and on two text encoders."""
    field = Field(tiny.PIPELINES[family]())
    for row in ("ring-a-bell", "ring-a-bell-soft", "unlearndiff", "p4d-k", "pund", "inversion", "mma"):
        findings = field.run(row)
        assert findings.complete
        assert all(t.trace for t in findings.samples)


# The algebra.

PROMPTS = st.integers(1, 6).flatmap(
    lambda length: st.lists(st.lists(st.integers(0, 9), min_size=length, max_size=length), min_size=2, max_size=8)
)


@settings(deadline=None)
@given(PROMPTS, st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32))
def test_a_child_is_the_head_of_one_parent_and_the_tail_of_another_but_for_one_word(rows, crossover, mutation, seed):
    parents = torch.tensor(rows)
    born = children(parents, 12, Odds(crossover, mutation, 10), torch.Generator().manual_seed(seed))
    assert born.shape == (12, parents.shape[1])
    assert int(born.min()) >= 0
    assert int(born.max()) < 10
    for child in born.tolist():
        spliced = [m[:cut] + f[cut:] for m in rows for f in rows for cut in range(1, len(child) + 1)]
        differing = min(sum(a != b for a, b in zip(child, other, strict=True)) for other in spliced)
        assert differing <= (mutation > 0)
        if crossover == 0 and mutation == 0:
            assert child in rows


@settings(deadline=None)
@given(PROMPTS, st.integers(0, 2**32))
def test_no_prompt_is_measured_twice(rows, seed):
    """The fitness is what measuring every child gives; what is measured is new, and all different."""
    parents, asked = torch.tensor(rows), []

    def measure(prompts):
        asked.extend(map(tuple, prompts.tolist()))
        return (prompts * torch.arange(1.0, 1 + prompts.shape[1])).sum(1).cos()

    born = children(parents, 12, Odds(0.5, 0.25, 10), torch.Generator().manual_seed(seed))
    expected, known = measure(born), measure(parents)
    asked.clear()
    torch.testing.assert_close(fitness_of(born, parents, known, measure), expected)
    assert len(asked) == len(set(asked))
    assert not set(asked) & set(map(tuple, rows))


VECTORS = st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=12)


@settings(deadline=None)
@given(VECTORS, st.integers(0, 2**32))
def test_the_nearest_point_of_the_simplex(values, seed):
    """No point of the simplex is on the other side of it: (x − p)·(q − p) ≤ 0 for every q."""
    x = torch.tensor(values, dtype=torch.double)
    p = onto_simplex(x)
    assert p.sum().item() == pytest.approx(1)
    assert float(p.min()) >= 0
    corners = torch.eye(len(x), dtype=torch.double)
    others = torch.rand(20, len(x), dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    q = torch.cat([corners, others / others.sum(1, keepdim=True).clamp(min=1e-9)])
    assert float(((q - p) @ (x - p)).max()) <= 1e-9
    torch.testing.assert_close(onto_simplex(p), p)


def test_drawn_words_carry_the_gradient_of_the_points():
    weights = torch.tensor([[[0.2, 0.8, 0.0], [0.0, 0.0, 1.0]]], requires_grad=True)
    hot = sampled(weights, [torch.Generator().manual_seed(0)])
    assert hot.sum(-1).tolist() == [[1, 1]]
    assert hot[0, 1].tolist() == [0, 0, 1]
    assert hot[0, 0, 2] == 0
    slope = torch.randn(1, 2, 3)
    (hot * slope).sum().backward()
    torch.testing.assert_close(weights.grad, slope)
