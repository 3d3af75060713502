"""Copies of pipelines: deepcopy, shallow copies, pickles in another process. A copy has the erasures, and its own of them."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

import efface
from alive import adapter, assert_same, delta, fresh, gap, latent_edit, own, shoot, text_map, weights
from efface.erasures import attached_to

WAYS = ["mapped", "folded", "weights", "activations", "adapter"]


@pytest.fixture
def put_on(tmp_path):
    def run(pipe, way):
        makers = {"weights": delta, "adapter": adapter, "activations": lambda: latent_edit(tmp_path)}
        erasure = makers.get(way, text_map)()
        erasure.attach(pipe, fold=way == "folded")
        return erasure

    return run


@pytest.mark.parametrize("way", WAYS)
def test_deepcopy(way, put_on):
    pipe = fresh()
    before, plain = weights(pipe), shoot(pipe)
    erasure = put_on(pipe, way)
    twin = copy.deepcopy(pipe)
    erased = shoot(twin)
    assert gap(erased, plain) > 1e-4
    assert gap(shoot(pipe), erased) == 0.0
    assert [a.erasure.digest for a in attached_to(twin)] == [erasure.digest]
    assert efface.check(twin).intact
    erasure.attach(twin)  # counted
    erasure.remove(twin)
    assert gap(shoot(twin), erased) == 0.0
    erasure.remove(twin)
    assert_same(twin, before)
    assert gap(shoot(twin), plain) == 0.0
    assert gap(shoot(pipe), erased) == 0.0  # the original keeps its own
    erasure.remove(pipe)
    assert_same(pipe, before)
    assert gap(shoot(pipe), plain) == 0.0


def test_the_copy_may_be_freed_of_it_before_it_ever_drew():
    pipe = fresh()
    plain = shoot(pipe)
    text_map().attach(pipe)
    twin = copy.deepcopy(pipe)
    text_map().remove(twin)
    assert gap(shoot(twin), plain) == 0.0
    assert not any(m._forward_pre_hooks for m in twin.unet.modules())


@pytest.mark.parametrize("used", [False, True])
def test_a_copied_network_in_another_pipeline_is_known(used):
    pipe, other = fresh(), fresh()
    plain = shoot(other)
    if used:  # it had an erasure of its own before
        text_map().attach(other)
        text_map().remove(other)
    text_map().attach(pipe)
    erased = shoot(pipe)
    other.unet = copy.deepcopy(pipe.unet)
    assert gap(shoot(other), erased) == 0.0
    assert len(attached_to(other)) == 1
    text_map().remove(other)
    assert gap(shoot(other), plain) == 0.0
    assert gap(shoot(pipe), erased) == 0.0


def test_a_shallow_copy_with_a_scheduler_of_its_own_goes_its_own_way():
    pipe = fresh()
    plain = shoot(pipe)
    text_map().attach(pipe)
    erased = shoot(pipe)
    twin = copy.copy(pipe)
    twin.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
    assert gap(shoot(twin), erased) == 0.0
    text_map("dog").attach(twin)
    assert gap(shoot(twin), erased) > 1e-4
    assert gap(shoot(pipe), erased) == 0.0
    assert len(attached_to(pipe)) == 1
    text_map().remove(pipe)
    assert gap(shoot(pipe), plain) == 0.0
    assert len(attached_to(twin)) == 2


def _worker(data, folder):
    pipe = pickle.loads(data)
    np.save(folder / "picture.npy", shoot(pipe))
    (folder / "attached").write_text(str(len(attached_to(pipe))))
    for attachment in attached_to(pipe):
        attachment.erasure.remove(pipe)
    np.save(folder / "plain.npy", shoot(pipe))


@pytest.mark.parametrize("way", WAYS)
def test_pickled(way, put_on):
    pipe = fresh()
    plain = shoot(pipe)
    erasure = put_on(pipe, way)
    sent = pickle.loads(pickle.dumps(pipe))
    assert gap(shoot(sent), shoot(pipe)) == 0.0
    assert [a.erasure.digest for a in attached_to(sent)] == [erasure.digest]
    erasure.remove(sent)
    assert gap(shoot(sent), plain) == 0.0


def test_a_pickled_network_called_by_itself_says_so():
    pipe = fresh()
    text_map().attach(pipe)
    sent = pickle.loads(pickle.dumps(pipe))
    text = efface.Model(fresh()).encode(["a church"]).states
    call = {"sample": text.new_zeros(1, 4, 8, 8), "timestep": 1, "encoder_hidden_states": text}
    with pytest.raises(efface.EffaceError, match="another process"):
        sent.unet(**call)
    shoot(sent)
    assert gap(sent.unet(**call).sample.detach().numpy(), pipe.unet(**call).sample.detach().numpy()) == 0.0


@pytest.mark.slow
def test_a_spawned_worker(tmp_path):
    pipe = fresh()
    plain = shoot(pipe)
    text_map().attach(pipe)
    worker = multiprocessing.get_context("spawn").Process(target=_worker, args=(pickle.dumps(pipe), tmp_path))
    worker.start()
    worker.join(200)
    assert (tmp_path / "attached").read_text() == "1"
    assert gap(np.load(tmp_path / "picture.npy"), shoot(pipe)) < 1e-6
    assert gap(np.load(tmp_path / "plain.npy"), plain) < 1e-6


def test_a_pipeline_of_the_parts_of_one_that_is_gone_has_its_erasures():
    pipe = fresh()
    text_map().attach(pipe)
    erased = shoot(pipe)
    pipe = own(pipe)
    assert gap(shoot(pipe), erased) == 0.0
    assert len(attached_to(pipe)) == 1
