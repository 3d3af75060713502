"""Networks that several pipeline objects share: views of one pipeline, and pipelines of their own."""

from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack

import pytest
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionPipeline, StableDiffusionXLImg2ImgPipeline
from PIL import Image

import efface
from alive import assert_same, delta, fresh, gap, own, shoot, text_map, weights
from efface.erasures import attached_to
from efface.models.caller import pipeline_at_work
from tiny_families import refiner

GREY = Image.new("RGB", (16, 16), (128, 128, 128))


def image_to_image(pipe):
    return shoot(pipe, image=GREY, strength=0.9)


@pytest.mark.parametrize("made", ["from_pipe", "components"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_views_share_what_is_attached(made, when):
    pipe = fresh()
    parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}

    def convert():
        if made == "from_pipe":
            return StableDiffusionImg2ImgPipeline.from_pipe(pipe)
        return StableDiffusionImg2ImgPipeline(**parts, requires_safety_checker=False)

    view = convert()
    view.set_progress_bar_config(disable=True)
    plain = image_to_image(view)
    if when == "before":
        view = convert()
    text_map().attach(pipe)
    if when == "after":
        view = convert()
    view.set_progress_bar_config(disable=True)
    erased = image_to_image(view)
    assert gap(erased, plain) > 1e-4
    assert [a.erasure for a in attached_to(view)] == [text_map()]
    text_map("dog").attach(view)
    assert len(attached_to(pipe)) == 2
    text_map().remove(view)
    text_map("dog").remove(pipe)
    assert gap(image_to_image(view), plain) == 0.0
    assert attached_to(pipe) == attached_to(view) == []
    assert not any(m._forward_pre_hooks for m in pipe.unet.modules())


def test_from_pipe_with_a_scheduler_of_its_own_begins_with_the_same():
    pipe = fresh()
    plain = shoot(pipe)
    text_map().attach(pipe)
    erased = shoot(pipe)
    scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    other = StableDiffusionPipeline.from_pipe(pipe, scheduler=scheduler)
    other.set_progress_bar_config(disable=True)
    text_map().remove(pipe)
    assert gap(shoot(pipe), plain) == 0.0
    assert gap(shoot(other), erased) == 0.0
    text_map().remove(other)
    assert gap(shoot(other), plain) == 0.0


def test_a_view_whose_scheduler_is_replaced_keeps_its_erasures():
    pipe = fresh()
    text_map().attach(pipe)
    view = StableDiffusionPipeline.from_pipe(pipe)
    view.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    assert gap(shoot(view), shoot(pipe)) == 0.0
    assert len(attached_to(view)) == len(attached_to(pipe)) == 1


def test_a_pipeline_of_its_own_draws_its_own_pictures_and_says_that_they_are_unprotected():
    pipe = fresh()
    other = own(pipe)
    plain = shoot(other)
    text_map().attach(pipe)
    with pytest.warns(UserWarning, match=r"no erasure attached, while another pipeline .* erases 'church'"):
        assert gap(shoot(other), plain) == 0.0
    assert attached_to(other) == []
    assert "'church'" in str(efface.check(other))
    shoot(other)  # said once


def test_two_pipelines_over_one_unet_have_their_own():
    base = fresh()
    one, two = own(base), own(base)
    wanted = {}
    for name, pipe, erasure in (("one", one, text_map()), ("two", two, text_map("dog"))):
        with erasure.attached(pipe):
            wanted[name] = shoot(pipe)
    with text_map().attached(one), text_map("dog").attached(two):
        assert gap(shoot(one), wanted["one"]) == gap(shoot(two), wanted["two"]) == 0.0
        assert gap(wanted["one"], wanted["two"]) > 1e-3
        assert [a.erasure for a in attached_to(one)] == [text_map()]
    assert not any(m._forward_pre_hooks for m in base.unet.modules())


def test_a_network_of_two_pipelines_called_by_itself_is_refused():
    base = fresh()
    one, two = own(base), own(base)
    states = efface.Model(base).encode(["a church"]).states
    with text_map().attached(one), text_map("dog").attached(two):
        with pytest.raises(efface.EffaceError, match="called by itself"):
            base.unet(torch.zeros(1, 4, 8, 8), 1, states)
        assert pipeline_at_work() is None


@pytest.mark.parametrize("erasure", [text_map, delta], ids=["folded map", "weights"])
def test_folding_into_a_shared_network_is_refused(erasure):
    base = fresh()
    other = own(base)
    before = weights(base)
    with pytest.raises(efface.EffaceError, match="another pipeline"):
        erasure().attach(base, fold=True)
    assert_same(base, before)
    assert attached_to(base) == attached_to(other) == []
    del other
    with erasure().attached(base, fold=True):
        assert efface.check(base).intact
    assert_same(base, before)


def test_a_pipeline_over_folded_weights_says_so_and_can_take_them_off():
    pipe = fresh()
    before = weights(pipe)
    text_map().attach(pipe, fold=True)
    other = own(pipe)
    assert gap(shoot(other), shoot(pipe)) == 0.0
    assert [a.erasure for a in attached_to(other)] == [text_map()]
    text_map().remove(other)
    assert attached_to(pipe) == attached_to(other) == []
    assert_same(pipe, before)


@pytest.mark.filterwarnings("ignore:the erasure does not reach")
def test_one_text_encoder_under_two_denoisers():
    base = fresh("sdxl")
    second = refiner()
    parts = second.components | {"text_encoder_2": base.text_encoder_2, "tokenizer_2": base.tokenizer_2}
    second = StableDiffusionXLImg2ImgPipeline(**{k: v for k, v in parts.items() if k != "image_encoder"})
    second.set_progress_bar_config(disable=True)
    plain = efface.Model(second).encode(["a church"]).states
    erasure = efface.erase(base, efface.Concept("church", anchor="cat"), method="uce", keep=[])
    with erasure.attached(base):
        assert torch.equal(efface.Model(second).encode(["a church"]).states, plain)
        assert attached_to(second) == []


def test_two_calls_at_once_on_one_pipeline_are_refused():
    pipe, said = fresh(), []
    plain = shoot(pipe)
    text_map().attach(pipe)
    erased = shoot(pipe)

    def in_between(pipe, step, timestep, tensors):
        worker = threading.Thread(target=another)
        worker.start()
        worker.join()
        return tensors

    def another():
        for attempt in (
            lambda: shoot(pipe),
            lambda: text_map("dog").attach(pipe),
            lambda: text_map().remove(pipe),
        ):
            try:
                attempt()
            except efface.EffaceError as error:
                said.append(str(error))

    assert gap(shoot(pipe, callback_on_step_end=in_between), erased) == 0.0
    assert len(said) == 6
    assert all("another thread" in sentence for sentence in said)
    text_map().remove(pipe)
    assert gap(shoot(pipe), plain) == 0.0


def test_a_second_request_with_the_same_policy_while_the_first_draws_is_counted():
    pipe, counts = fresh(), []

    def in_between(pipe, step, timestep, tensors):
        worker = threading.Thread(target=lambda: counts.append(_enter(pipe)))
        worker.start()
        worker.join()
        return tensors

    def _enter(pipe):
        with text_map().attached(pipe):
            return attached_to(pipe)[0].count

    with text_map().attached(pipe):
        shoot(pipe, callback_on_step_end=in_between)
        assert counts == [2, 2]
        assert attached_to(pipe)[0].count == 1


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_overlapping_blocks_of_different_erasures_on_one_pipeline_are_refused(how):
    pipe = fresh()
    with text_map().attached(pipe):
        expected = shoot(pipe)
    order: list[str] = []

    def other():
        try:
            with text_map("dog").attached(pipe):
                order.append("attached")
        except efface.EffaceError as error:
            order.append(str(error))

    if how == "tasks":
        got = asyncio.run(separate(pipe, other))
    else:
        with text_map().attached(pipe):
            worker = threading.Thread(target=other)
            worker.start()
            worker.join()
            got = shoot(pipe)
    assert gap(got, expected) == 0.0
    assert len(order) == 1
    assert "another thread or task" in order[0]
    with text_map().attached(pipe), text_map("dog").attached(pipe):  # one flow may compose
        assert len(attached_to(pipe)) == 2


async def separate(pipe, other):
    """Two tasks that begin side by side, the second while the first is in its block."""
    inside, done = asyncio.Event(), asyncio.Event()

    async def first():
        with text_map().attached(pipe):
            inside.set()
            await done.wait()
            return shoot(pipe)

    async def second():
        await inside.wait()
        other()
        done.set()

    return (await asyncio.gather(first(), second()))[0]


def test_a_callback_may_change_what_is_attached():
    pipe = fresh()
    plain = shoot(pipe)

    def after_first(pipe, step, timestep, tensors):
        if step == 0:
            text_map().remove(pipe)
        return tensors

    text_map().attach(pipe)
    erased = shoot(pipe)
    text_map().attach(pipe)
    text_map().remove(pipe)
    mixed = shoot(pipe, callback_on_step_end=after_first)
    assert gap(mixed, erased) > 1e-4
    assert gap(mixed, plain) > 1e-4
    assert gap(shoot(pipe), plain) == 0.0


def stress(threads: int, draws: int) -> list[str]:
    """What went wrong when threads drew at once, each with its own pipeline over the same networks and random policies."""
    base = fresh()
    policies = [(), ("church",), ("dog",), ("church", "dog"), ("dog", "church"), ("garbage truck",)]
    states, negative = base.encode_prompt("a church", "cpu", 1, True)  # tokenizers are not for threads
    pipes = [own(base) for _ in range(threads)]

    def draw(pipe, policy):
        with ExitStack() as stack:
            for noun in policy:
                stack.enter_context(text_map(noun).attached(pipe))
            return shoot(pipe, None, prompt_embeds=states, negative_prompt_embeds=negative)

    expected = {policy: draw(pipes[0], policy) for policy in policies}
    wrong: list[str] = []
    together = threading.Barrier(threads)

    def work(number: int) -> None:
        choice = torch.Generator().manual_seed(number)
        together.wait()
        for _ in range(draws):
            policy = policies[int(torch.randint(len(policies), (), generator=choice))]
            try:
                if (difference := gap(draw(pipes[number], policy), expected[policy])) > 0:
                    wrong.append(f"thread {number} with {policy}: {difference}")
            except Exception as error:
                wrong.append(f"thread {number} with {policy}: {type(error).__name__}: {error}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(m._forward_pre_hooks for m in base.unet.modules()):
        wrong.append("hooks were left behind")
    return wrong


@pytest.mark.filterwarnings("ignore:this StableDiffusionPipeline has no erasure attached")
def test_threads_with_pipelines_of_their_own():
    assert not stress(threads=4, draws=6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this StableDiffusionPipeline has no erasure attached")
def test_many_threads_with_pipelines_of_their_own():
    """Shortened from 200 draws a thread, which `python tests/life/test_shared.py 8 200` runs."""
    assert not stress(threads=8, draws=40)


if __name__ == "__main__":
    import sys
    import warnings

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    threads, draws = map(int, sys.argv[1:])
    found = stress(threads, draws)
    print(f"{threads} threads x {draws} draws: {len(found)} differ", *found[:5], sep="\n")
    raise SystemExit(bool(found))
