"""UnlearnCanvas on a tiny pipeline, every number against a count of its own."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from efface.bench.protocols.base import load_erasures
from efface.bench.protocols.unlearncanvas import Plan, UnlearnCanvas, style_of
from efface.concepts.sample import Sample
from efface.errors import EffaceError
from efface.judges.labels import UNLEARNCANVAS_OBJECTS, UNLEARNCANVAS_STYLES
from protocol_runs import CANVAS_PLAN, drawn, naive_fid, ran
from tiny_judges import Blocks, Hues, hue


def test_unlearncanvas_has_the_published_prompts():
    samples = UnlearnCanvas().samples
    assert len(samples) == 51 * 20 * 5
    assert len(UNLEARNCANVAS_STYLES) == 51
    assert len(UNLEARNCANVAS_OBJECTS) == 20
    assert samples[0] == Sample(
        prompt="A Architectures image in Abstractionism style.",
        seed=188,
        shows=("Architectures", "Abstractionism"),
        name="Abstractionism_Architectures_seed188",
    )
    assert {s.seed for s in samples} == {188, 288, 588, 688, 888}
    assert "A Dogs image in Van Gogh style." in {s.prompt for s in samples}
    theirs = UnlearnCanvas(plan=Plan("saeuron")).samples
    assert len(theirs) == 50 * 20 * 5 + 20 * 5
    assert "An image of Dogs in Van Gogh style." in {s.prompt for s in theirs}
    assert [s.prompt for s in theirs[-1:]] == ["An image of Waterfalls."]
    assert not any("Seed" in s.prompt for s in theirs)
    assert (UnlearnCanvas.drawing.steps, UnlearnCanvas.drawing.guidance) == (100, 9.0)
    with pytest.raises(EffaceError, match="'Noto' is no style of UnlearnCanvas"):
        Plan(styles=("Noto",))


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("wording", ["official", "saeuron"])
def test_unlearncanvas_is_ua_ira_cra_and_fid(model, home, tmp_path, data, wording, as_published):
    plan = Plan(wording, CANVAS_PLAN.styles, CANVAS_PLAN.objects, CANVAS_PLAN.seeds)
    styles, objects = Hues("Rust", "Sketch", "Van_Gogh", "Crayon", "Seed_Images"), Hues("Cats", "Dogs")
    protocol = UnlearnCanvas(styles, objects, plan, extract=Blocks(), data=data, as_published=as_published)
    paths = [home / "Van Gogh.safetensors", home / "Dogs.safetensors"]
    unerased, style, thing = ran(model, protocol, paths, tmp_path / "run").rows()
    photographs = "Seed_Images" if wording == "official" else ""

    def truths(path):
        """(style, object, seed) of a sample, whether each judge is right, and the picture."""
        for sample, picture in zip(protocol.samples, drawn(model, protocol.samples, path), strict=True):
            seen = styles.classes[hue(picture, 5)], objects.classes[hue(picture, 2)]
            yield (
                style_of(sample),
                sample.concept,
                seen[0] == style_of(sample),
                seen[1] == sample.concept,
                sample.seed,
                picture,
            )

    def share(hits):
        return np.mean([float(hit) for hit in hits])

    plain = list(truths(None))
    assert unerased.cells["style"].value == share(r for s, _, r, *_ in plain if s)
    assert unerased.cells["object"].value == share(r for _, _, _, r, *_ in plain)

    now = list(truths(paths[0]))
    unstyled = wording == "saeuron" and as_published
    assert style.cells["UA"].value == pytest.approx(1 - share(r for s, _, r, *_ in now if s == "Van_Gogh"))
    assert style.cells["IRA"].value == share(r for s, _, r, *_ in now if s not in ("Van_Gogh", ""))
    assert style.cells["CRA"].value == share(r for s, _, _, r, *_ in now if not unstyled or s == "")
    before = share(r for s, _, r, *_ in plain if s not in ("Van_Gogh", ""))
    assert style.cells["IRA drop"].difference == pytest.approx(before - style.cells["IRA"].value)

    then = list(truths(paths[1]))
    assert thing.cells["UA"].value == pytest.approx(1 - share(r for _, o, _, r, *_ in then if o == "Dogs"))
    assert thing.cells["IRA"].value == share(r for _, o, _, r, *_ in then if o == "Cats")
    assert thing.cells["CRA"].value == share(r for s, _, r, *_ in then if s)
    was = share(r for s, _, r, *_ in plain if s)
    assert thing.cells["CRA drop"].difference == pytest.approx(was - thing.cells["CRA"].value)

    hidden = {"", "Van_Gogh"} | (set() if as_published and wording == "official" else {"Seed_Images"})
    kept = [(s, o, plan.seeds.index(seed) + 1, p) for s, o, _, _, seed, p in now if s not in hidden]
    photos = [Image.open(data / s / o / f"{index}.jpg") for s, o, index, _ in kept]
    assert style.cells["FID"] == pytest.approx(naive_fid([p for *_, p in kept], photos), rel=1e-3)
    assert len(kept) == (8 if photographs and as_published else 4)


def test_unlearncanvas_refuses_a_data_set_with_gaps(data):
    (data / "Crayon" / "Cats" / "2.jpg").unlink()
    with pytest.raises(EffaceError, match=r"Crayon/Cats/2\.jpg is missing; expected .*<style>/<object>/<index>\.jpg"):
        UnlearnCanvas(plan=CANVAS_PLAN, extract=Blocks(), data=data)
    with pytest.raises(EffaceError, match="the judge of the object has no class 'Dogs'"):
        UnlearnCanvas(None, Hues("Cats"), CANVAS_PLAN)


def test_an_erasure_has_one_domain(home):
    (erasure,) = load_erasures([home / "dog.safetensors"], ["Van Gogh style"])
    protocol = UnlearnCanvas(plan=CANVAS_PLAN)
    assert protocol.kind(erasure) == "styles"
    assert protocol.kind(erasure._replace(concepts=("Crayon", "Van_Gogh"))) == "styles"
    assert protocol.kind(erasure._replace(concepts=("cats", "Dogs"))) == "objects"
    with pytest.raises(EffaceError, match="dog erases Van_Gogh and Cats: expected styles or objects, not both"):
        protocol.kind(erasure._replace(concepts=("Cats", "Van_Gogh")))
