"""Policies: each row of a batch is drawn under its own, in one call of the denoiser."""

from __future__ import annotations

import copy
import pickle
import threading
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from accelerate import cpu_offload_with_hook
from hypothesis import given
from hypothesis import strategies as st

import efface
from alive import delta, fresh, gap, own, text_map
from efface.erasures import WeightDelta, attached_to
from efface.erasures.keyed import TextKey
from efface.erasures.policies import in_common_order
from efface.models.model import Model
from policy_erasures import GUARDS, erasures_of_every_kind, guard, low_rank_delta
from tiny_families import CASES

PROMPTS = ["a church", "a dog", "a church in noto style", "a garbage truck"]
POLICIES = [None, "eu", "kids", "eu"]
REACHES = pytest.mark.filterwarnings("ignore:the erasure does not reach")
pytestmark = REACHES


def shoot(pipe, **more):
    """Pictures of four prompts by a pipeline, or by policies (batch height width 3)."""
    call = {"num_inference_steps": 2, "guidance_scale": 4.0, "output_type": "np", "prompt": [*PROMPTS]} | more
    rows = len(call["prompt"]) * call.get("num_images_per_prompt", 1)
    generators = [torch.Generator().manual_seed(seed) for seed in range(rows)]
    torch.manual_seed(0)
    return pipe(generator=generators, **call).images


def alone(pipe, erasures, **more):
    """The same batch with erasures attached to the whole of it."""
    with ExitStack() as stack:
        for erasure in erasures:
            stack.enter_context(erasure.attached(pipe))
        return shoot(pipe, **more)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """An erasure of every kind that a policy may have."""
    return erasures_of_every_kind(tmp_path_factory.mktemp("sae"))


@pytest.mark.parametrize("kind", ["textmap", "gated-map", "activation", "adapter", "gated-delta", "delta", "text-edit"])
def test_every_row_is_that_of_the_same_batch_under_its_policy_alone(kind, kinds):
    pipe = fresh().to(torch.float64)
    held = {"eu": [kinds[kind], text_map("dog")], "kids": [text_map("dog"), kinds[kind]]}
    if kind == "delta":  # weights of projections come before maps
        held["kids"] = held["kids"][1:]
    plain = shoot(pipe)
    expected = {None: plain} | {name: alone(pipe, erasures) for name, erasures in held.items()}
    with efface.Policies(pipe, held) as policies:
        mixed = shoot(policies, policy=POLICIES)
        none = shoot(policies, policy=None)
        whole = shoot(policies, policy="eu")
    for row, name in enumerate(POLICIES):
        assert gap(mixed[row], expected[name][row]) < 1e-5
    assert np.array_equal(mixed[0], plain[0])
    assert np.array_equal(none, plain)
    assert gap(whole, expected["eu"]) < 1e-5
    assert gap(mixed[2], plain[2]) > 1e-4
    assert np.array_equal(shoot(pipe), plain)
    assert not attached_to(pipe)
    modules = [*pipe.unet.modules(), *pipe.text_encoder.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


@pytest.mark.parametrize("method", GUARDS)
@pytest.mark.parametrize("negatives", [None, ["a dog", "", "a cat", "a dog"]])
def test_every_row_has_the_guards_of_its_policy_alone(method, negatives):
    pipe, more = fresh().to(torch.float64), {"num_inference_steps": 3, "num_images_per_prompt": 2}
    if negatives:
        more["negative_prompt"] = negatives
    dog = guard("crg", "dog")
    held = {"eu": [guard(method), text_map("dog")], "kids": [dog] if method == "crg" else [dog, guard(method)]}
    plain = shoot(pipe, **more)
    expected = {None: plain} | {name: alone(pipe, erasures, **more) for name, erasures in held.items()}
    with efface.Policies(pipe, held) as policies:
        mixed = shoot(policies, policy=POLICIES, **more)
        whole = shoot(policies, policy="eu", **more)
    for row in range(2 * len(POLICIES)):
        assert gap(mixed[row], expected[POLICIES[row // 2]][row]) < 1e-5
    assert np.array_equal(mixed[:2], plain[:2])
    assert gap(whole, expected["eu"]) < 1e-5
    assert gap(alone(pipe, [guard(method)], **more), plain) > 1e-4
    assert np.array_equal(shoot(pipe, **more), plain)


@pytest.mark.filterwarnings("ignore:the model was distilled")
@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux-dev", "qwen-image"])
def test_guards_of_other_families(name):
    case, pipe = CASES[name], fresh(name)
    more = case.call | {"height": case.side, "width": case.side, case.guidance: 4.0}
    if name == "qwen-image":
        more["negative_prompt"] = ["a dog", " ", " ", "a cat"]
    method = "sld" if name == "flux-dev" else "negative-prompt"
    options = {"preset": "max", "warmup": 0.0} if method == "sld" else {}
    church = efface.erase(pipe, efface.Concept("church", anchor="cat", templates=("a {}",)), method=method, **options)
    plain, eu, both = (alone(pipe, held, **more) for held in ([], [church], [church, text_map("dog", name)]))
    with efface.Policies(pipe, {"eu": [church], "kids": [church, text_map("dog", name)]}) as policies:
        mixed = shoot(policies, policy=POLICIES, **more)
    for row, policy in enumerate(POLICIES):
        assert gap(mixed[row], {None: plain, "eu": eu, "kids": both}[policy][row]) < 1e-4
    assert np.array_equal(mixed[0], plain[0])
    assert gap(eu, plain) > 1e-4


def test_a_guard_and_an_erasure_of_the_text_encoder_share_no_policy(kinds):
    pipe = fresh()
    for other in (kinds["text-edit"], low_rank_delta()):
        with pytest.raises(efface.EffaceError, match="'eu' holds a guard and, for 'church', an erasure of the text"):
            efface.Policies(pipe, {"eu": [guard("sld"), other]})
        with efface.Policies(pipe, {"eu": [guard("sld")], "kids": [other]}) as policies:
            assert np.isfinite(shoot(policies, policy=POLICIES)).all()
    assert not attached_to(pipe)


@pytest.mark.parametrize("name", ["sdxl", "sd3", "flux-dev", "qwen-image"])
def test_other_families(name):
    case, pipe = CASES[name], fresh(name)
    more = case.call | {"height": case.side, "width": case.side, "num_images_per_prompt": 2}
    more |= {case.guidance: 4.0} | ({"negative_prompt": [" "] * len(PROMPTS)} if name == "qwen-image" else {})
    church, dog = text_map("church", name), text_map("dog", name)
    plain, eu, kids = (alone(pipe, erasures, **more) for erasures in ([], [church], [dog, church]))
    with efface.Policies(pipe, {"eu": [church], "kids": [dog, church]}) as policies:
        mixed = shoot(policies, policy=POLICIES, **more)
    expected = np.stack([{None: plain, "eu": eu, "kids": kids}[POLICIES[row // 2]][row] for row in range(8)])
    assert gap(mixed, expected) < 1e-4
    assert np.array_equal(mixed[:2], plain[:2])
    assert gap(eu, plain) > 1e-3


def test_rows_that_cannot_be_told_apart_are_refused_and_one_policy_for_all_is_served():
    case, pipe = CASES["z-image"], fresh("z-image")
    more = case.call | {"height": case.side, "width": case.side}
    church = text_map("church", "z-image")
    eu = alone(pipe, [church], **more)
    with efface.Policies(pipe, {"eu": [church]}) as policies:
        with pytest.raises(efface.EffaceError, match="which is of which policy"):
            shoot(policies, policy=["eu", None, None, "eu"], **more)
        assert gap(shoot(policies, policy="eu", **more), eu) == 0.0


@pytest.mark.parametrize(
    "more", [{"guidance_scale": 1.0}, {"num_images_per_prompt": 3}, {"negative_prompt": ["a dog"] * 4}]
)
def test_halves_and_pictures_follow_their_prompt(more):
    pipe = fresh()
    plain, eu = alone(pipe, [], **more), alone(pipe, [text_map()], **more)
    pictures = more.get("num_images_per_prompt", 1)
    with efface.Policies(pipe, {"eu": [text_map()]}) as policies:
        mixed = shoot(policies, policy=["eu", None, None, "eu"], **more)
    for row in range(4 * pictures):
        chosen = eu if row // pictures in (0, 3) else plain
        assert gap(mixed[row], chosen[row]) < 1e-5


def test_the_denoiser_is_called_once_a_step():
    pipe, calls = fresh(), []
    pipe.unet.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    with efface.Policies(pipe, {"eu": [text_map()], "kids": [text_map("dog")]}) as policies:
        shoot(policies, policy=[*POLICIES[:3], None])
    assert calls == [8, 8]


def test_text_states_are_given():
    pipe = fresh()
    states, negative = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    more = {"prompt_embeds": states, "negative_prompt_embeds": negative}
    expected = alone(pipe, [text_map()])
    with efface.Policies(pipe, {"eu": [text_map()]}) as policies, policies.select("eu"):
        assert gap(shoot(pipe), expected) == 0.0
    with efface.Policies(pipe, {"eu": [text_map()]}) as policies:
        generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
        drawn = policies(
            policy=["eu"] * 4, generator=generators, num_inference_steps=2, guidance_scale=4.0, output_type="np", **more
        ).images
    assert gap(drawn, expected) < 1e-5


def test_an_erasure_of_the_text_encoder_says_that_given_states_pass_it():
    pipe = fresh()
    states, negative = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    encoder = {n: d for n, d in low_rank_delta().deltas.items() if n.startswith("text_encoder")}
    policies = efface.Policies(pipe, {"eu": [WeightDelta(low_rank_delta().provenance, encoder)]})
    with pytest.warns(UserWarning, match="lives in the text encoder"):
        policies(policy="eu", prompt_embeds=states, negative_prompt_embeds=negative, num_inference_steps=1)


def church_and_dog(pipe):
    return efface.Policies(pipe, {"eu": [text_map()], "kids": [text_map("dog")]})


REFUSED = {
    "no policy is said": (lambda pipe, p: shoot(pipe), "the call says none"),
    "an unknown one": (
        lambda pipe, p: shoot(p, policy=["eu", "kid", None, None]),
        r"no policy 'kid' \(is 'kids' meant\?\)",
    ),
    "too few": (lambda pipe, p: shoot(p, policy=["eu", "kids"]), "2 policies were given for 4 prompts"),
    "for one prompt": (lambda pipe, p: p("a church", policy=["eu", "kids"]), "2 policies were given for 1 prompt:"),
    "a network by itself": (
        lambda pipe, p: pipe.unet(torch.zeros(2, 4, 8, 8), 1, torch.zeros(2, 12, 16)),
        "attached to this UNet2DConditionModel",
    ),
    "other policies": (lambda pipe, p: efface.Policies(pipe, {"x": [text_map()]}), "has other policies"),
    "for every row as well": (
        lambda pipe, p: text_map().attach(pipe),
        "'church' acts on every row .* by a policy as well",
    ),
    "another pipeline, drawn by efface": (
        lambda pipe, p: draw_another_by_hand(p),
        "has none attached, so that nothing",
    ),
    "another pipeline": (lambda pipe, p: draw_another(p), "has none attached, so that nothing would be erased"),
}


def draw_another(policies):
    with policies.select("eu"):
        shoot(fresh())


def draw_another_by_hand(policies):
    with policies.select("eu"):
        Model(fresh()).draw(["a church"], seeds=[0], steps=1)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_a_sentence(case):
    act, sentence = REFUSED[case]
    pipe = fresh()
    with church_and_dog(pipe) as policies:
        expected = shoot(policies, policy=POLICIES)
        with pytest.raises(efface.EffaceError, match=sentence):
            act(pipe, policies)
        assert np.array_equal(shoot(policies, policy=POLICIES), expected)
    assert not attached_to(pipe)


NOT_HELD = {
    "nothing": (dict, "no policy holds an erasure"),
    "twice": (lambda: {"eu": [text_map(), text_map()]}, "stands twice in the policy 'eu'"),
    "a file's name": (lambda: {"eu": ["church.safetensors"]}, "holds a str; expected erasures"),
    "a dense change": (lambda: {"eu": [text_map("dog")], "kids": [delta()]}, "not by factors of low rank"),
    "a key": (
        lambda: {"eu": [text_map("dog"), TextKey(text_map().provenance, torch.zeros(1, 16))]},
        "acts on all rows",
    ),
    "weights under a map": (lambda: {"eu": [text_map(), low_rank_delta()]}, "would change the order"),
    "a vector": (
        lambda: {"eu": [of_weight("unet.mid_block.attentions.0.norm.weight", 16, 1)]},
        "no layer of the weight|GroupNorm",
    ),
    "an embedding": (lambda: {"eu": [of_weight(*embedding())]}, "is of a Embedding"),
}


def embedding():
    """Name and sizes of the text encoder's table of tokens."""
    name, weight = next(
        (name, p) for name, p in fresh().text_encoder.named_parameters() if name.endswith("token_embedding.weight")
    )
    return f"text_encoder.{name}", *weight.shape


def of_weight(name, height, width):
    return WeightDelta(
        text_map().provenance, {f"{name}.up": torch.ones(height, 1), f"{name}.down": torch.ones(1, width)}
    )


@pytest.mark.parametrize("case", NOT_HELD)
def test_what_no_policy_can_hold_is_refused_and_nothing_stays(case):
    make, sentence = NOT_HELD[case]
    pipe = fresh()
    with pytest.raises(efface.EffaceError, match=sentence):
        efface.Policies(pipe, make())
    assert not attached_to(pipe)
    assert not any(module._forward_pre_hooks for module in pipe.unet.modules())


def test_what_is_attached_for_every_row_is_served_beside():
    pipe = fresh()
    expected = {None: alone(pipe, [text_map("dog")]), "eu": alone(pipe, [text_map("dog"), text_map()])}
    with text_map("dog").attached(pipe), efface.Policies(pipe, {"eu": [text_map()]}) as policies:
        with pytest.raises(efface.EffaceError, match="already"):
            text_map("dog").attach(pipe, scale=0.5)
        mixed = shoot(policies, policy=["eu", None, "eu", None])
    for row, name in enumerate(["eu", None, "eu", None]):
        assert gap(mixed[row], expected[name][row]) < 1e-5
    with text_map().attached(pipe), pytest.raises(efface.EffaceError, match="by a policy as well"):
        efface.Policies(pipe, {"eu": [text_map()]})


def test_the_same_policies_again_are_counted():
    pipe = fresh()
    first, second = church_and_dog(pipe), church_and_dog(pipe)
    expected = shoot(first, policy=POLICIES)
    second.remove()
    assert np.array_equal(shoot(first, policy=POLICIES), expected)
    first.remove()
    with pytest.raises(efface.EffaceError, match="nothing would be erased"):
        shoot(first, policy="eu")
    with pytest.raises(efface.EffaceError, match="not attached"):
        first.remove()


def test_copies_and_views_and_replaced_networks_have_them():
    pipe = fresh()
    with church_and_dog(pipe) as policies:
        expected = shoot(policies, policy=POLICIES)
        others = [copy.deepcopy(pipe), pickle.loads(pickle.dumps(pipe)), type(pipe).from_pipe(pipe)]
        for other in others:
            other.set_progress_bar_config(disable=True)
            with policies.select(POLICIES):
                assert np.array_equal(shoot(other), expected)
            with pytest.raises(efface.EffaceError, match="the call says none"):
                shoot(other)
        pipe.unet = copy.deepcopy(fresh().unet)
        assert np.array_equal(shoot(policies, policy=POLICIES), expected)
        report = efface.check(pipe)
        assert report
        assert "'dog', 'church' (by policy)" in str(report)


def test_threads_choose_for_themselves():
    pipe = fresh()
    pipes = [pipe, own(pipe)]
    held = [church_and_dog(each) for each in pipes]
    chosen = [["eu", None, "kids", None], ["kids", "eu", None, "eu"]]
    expected = [shoot(p, policy=names) for p, names in zip(held, chosen, strict=True)]
    found = {}

    def work(number):
        found[number] = [shoot(held[number], policy=chosen[number]) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in (0, 1):
        assert all(np.array_equal(drawn, expected[number]) for drawn in found[number])
    assert gap(expected[0][0], expected[1][0]) > 1e-4


@pytest.mark.slow
def test_compiled(kinds):
    pipe = fresh()
    with efface.Policies(pipe, {"eu": [text_map(), kinds["adapter"]], "kids": [text_map("dog")]}) as policies:
        expected = [shoot(policies, policy=names) for names in (POLICIES, POLICIES[::-1])]
        pipe.unet.compile(backend="eager")
        for names, drawn in zip((POLICIES, POLICIES[::-1]), expected, strict=True):
            assert gap(shoot(policies, policy=names), drawn) < 1e-6


def by_model(unet):
    cpu_offload_with_hook(unet, execution_device="cpu")


def by_groups(unet):
    unet.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")


@pytest.mark.parametrize("offload", [by_model, by_groups])
def test_offloaded(offload, kinds):
    pipe = fresh()
    held = {"eu": [text_map(), kinds["adapter"]], "kids": [kinds["activation"]]}
    with efface.Policies(pipe, held) as policies:
        expected = shoot(policies, policy=POLICIES)
    offload(pipe.unet)
    with efface.Policies(pipe, held) as policies:
        assert gap(shoot(policies, policy=POLICIES), expected) < 1e-6


def test_fused_projections_stop_a_delta_beside_them():
    pipe = fresh()
    with efface.Policies(pipe, {"eu": [low_rank_delta()]}) as policies:
        pipe.unet.fuse_qkv_projections()
        with pytest.raises(efface.EffaceError, match="are fused"):
            shoot(policies, policy=["eu", None, None, "eu"])


class _Named:
    """Something with a digest."""

    def __init__(self, digest: str):
        self.digest = digest


@given(st.lists(st.lists(st.sampled_from("abcde"), unique=True), max_size=5))
def test_every_policy_is_in_the_common_order(lists):
    edits = [edit.digest for edit in in_common_order([[_Named(letter) for letter in held] for held in lists])]
    for held in lists:
        rest = iter(edits)
        assert all(letter in rest for letter in held)
    assert len(edits) <= sum(map(len, lists))
    if len(lists) == 1:
        assert edits == lists[0]
