"""The protocols end to end on a tiny pipeline, every number against a count of its own."""

from __future__ import annotations

import csv
import io
import json
import pickle
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
from PIL import Image

import efface
import tiny
import tiny_judges
from efface.bench.prompt_files import read_prompts
from efface.bench.protocols.artists import Artists
from efface.bench.protocols.base import Drawing, load_erasures
from efface.bench.protocols.coco import Coco
from efface.bench.protocols.estimate import cost
from efface.bench.protocols.i2p import I2P
from efface.bench.protocols.imagenette import Imagenette
from efface.bench.protocols.prompts import Prompts
from efface.bench.protocols.run import Run, watchers
from efface.bench.protocols.unlearncanvas import Plan, UnlearnCanvas, style_of
from efface.bench.table import as_csv, as_json, markdown
from efface.cli import main
from efface.cli.bench import artists, coco, common, i2p, imagenette, unlearncanvas
from efface.cli.bench import prompts as prompts_command
from efface.cli.bench.options import Shared
from efface.concepts.sample import Sample
from efface.errors import EffaceError, UsageError
from efface.judges.labels import UNLEARNCANVAS_OBJECTS, UNLEARNCANVAS_STYLES
from efface.metrics.pixels import Pixels
from efface.models.model import Model
from tiny_judges import Blocks, Brightness, Hues, Spots, hue, spots

FEW = Drawing(steps=2, guidance=3.0)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny pipeline that reads whole prompts, and erasures, on disk."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "LENGTH", 48)
        pipe = tiny.stable_diffusion()
    pipe.save_pretrained(folder / "model")
    for name in ("church", "dog", "Van Gogh", "Dogs"):
        concept = efface.Concept(name, "style" if name == "Van Gogh" else "object", anchor="cat")
        efface.erase(pipe, concept, method="uce", keep=["a truck"]).save(folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def model(home):
    """The pipeline."""
    return Model(efface.load(home / "model"))


@pytest.fixture
def file(tmp_path):
    """Writes a file of prompts and reads it."""

    def write(text: str, name: str = "prompts.csv"):
        (tmp_path / name).write_text(text)
        return read_prompts(tmp_path / name)

    return write


def drawn(model, samples, path=None):
    """The pictures of samples, those of one guidance together, without any bookkeeping."""
    found = {}
    with efface.Erasure.load(path).attached(model.pipeline) if path else nullcontext():
        for own in dict.fromkeys(sample.guidance for sample in samples):
            members = [sample for sample in samples if sample.guidance == own]
            prompts, seeds = [s.prompt for s in members], [s.seed for s in members]
            pictures = model.draw(prompts, seeds=seeds, steps=2, guidance=3.0 if own is None else own)
            found |= {sample.name: picture for sample, picture in zip(members, pictures, strict=True)}
    return [found[sample.name] for sample in samples]


def ran(model, protocol, paths, folder, **options):
    """A run that has ended."""
    run = Run(model, protocol, load_erasures(paths), folder, drawing=FEW, **options)
    run.run()
    return run


I2P_FILE = """,prompt,categories,evaluation_seed,evaluation_guidance,case_number
0,a church in noto style,"violence, hate",4261553411,7,10
1,a dog,hate,12,3,11
2,"a cat,
a dog",hate,13,7,12
3,,hate,14,1,13
"""


def test_i2p_counts_what_a_detector_finds(model, home, file, tmp_path):
    protocol = I2P(file(I2P_FILE), Spots())
    assert [(s.name, s.seed, s.guidance) for s in protocol.samples[:2]] == [("10", 4261553411, 7.0), ("11", 12, 3.0)]
    run = ran(model, protocol, [home / "church.safetensors"], tmp_path / "run")
    unerased, line = run.rows()
    before, after = (
        np.array([spots(p) for p in drawn(model, protocol.samples, path)])
        for path in (None, home / "church.safetensors")
    )
    for row, counts in ((unerased, before), (line, after)):
        assert row.cells["pictures with any"].value == (counts.sum(1) > 0).mean()
        assert row.cells["all classes"] == (counts.sum(), (counts.sum(1) > 0).sum())
        for i, label in enumerate(Spots.classes):
            assert row.cells[label] == (counts[:, i].sum(), (counts[:, i] > 0).sum())
    assert before.sum() > 0
    assert line.cells["change"].difference == (after.sum(1) > 0).mean() - (before.sum(1) > 0).mean()
    assert (line.name, line.method, line.concepts) == ("church", "uce", "church")
    assert line.cells["bytes"] == (home / "church.safetensors").stat().st_size
    assert protocol.notes() == ["labels that count: RED, GREEN, BLUE"]


def test_every_prompt_is_drawn_with_its_own_guidance(model, file, tmp_path):
    one, other = (
        ran(model, I2P(file(f"prompt,seed,guidance\na church,1,{g}\na dog,2,3\n"), Hues(*map(str, range(9999)))), [], tmp_path / g)
        for g in ("3", "9")
    )  # fmt: skip
    labels = [[e["detector"]["label"] for e in run.entries(None)] for run in (one, other)]
    assert labels[0][0] != labels[1][0]
    assert labels[0][1] == labels[1][1]
    assert not {u.key for u in one.units(None)} & {u.key for u in other.units(None)[:1]}


IMAGENETTE_FILE = "case_number,prompt,class,evaluation_seed\n" + "".join(
    f"{i},an image of a {name},{name},{i}\n" for i, name in enumerate(("church", "Dog", "tench") * 4)
)


def test_imagenette_is_top_one_of_the_erased_class_and_the_others(model, home, file, tmp_path):
    protocol = Imagenette(file(IMAGENETTE_FILE), Hues("dog", "tench", "church"))
    paths = [home / "church.safetensors", home / "dog.safetensors"]
    lines = ran(model, protocol, paths, tmp_path / "run").rows()

    def right(path):
        names = ("dog", "tench", "church")
        pictures = drawn(model, protocol.samples, path)
        return np.array(
            [names[hue(p, 3)] == s.concept.lower() for p, s in zip(pictures, protocol.samples, strict=True)], float
        )

    before = right(None)
    assert lines[0].cells["all classes"].value == before.mean()
    for line, path, gone in zip(lines[1:3], paths, ("church", "Dog"), strict=True):
        after, is_gone = right(path), np.array([s.concept == gone for s in protocol.samples])
        assert line.cells["erased"].value == after[is_gone].mean()
        assert line.cells["others"].value == after[~is_gone].mean()
        assert line.cells["erased change"].difference == pytest.approx((after - before)[is_gone].mean())
        assert line.cells["others change"].difference == pytest.approx((after - before)[~is_gone].mean())
        assert (line.cells["erased"].pictures, line.cells["others"].pictures) == (4, 8)
    assert (lines[3].name, lines[3].concepts) == ("mean", "2 classes")
    values = [line.cells["erased"].value for line in lines[1:3]]
    assert lines[3].cells["erased"].value == pytest.approx(sum(values) / 2)
    with pytest.raises(EffaceError, match="no class 'tench'"):
        Imagenette(file(IMAGENETTE_FILE), Hues("dog", "church"))
    with pytest.raises(EffaceError, match="Van Gogh erases Van Gogh, which is no class"):
        Run(model, protocol, load_erasures([home / "Van Gogh.safetensors"]), tmp_path / "never")
    assert not (tmp_path / "never").exists()


ARTISTS_FILE = ",case_number,prompt,evaluation_seed,artist\n" + "".join(
    f"{i},{i},a {noun} in art style,{i},{artist}\n"
    for i, (noun, artist) in enumerate([("church", "Church"), ("cat", "Cat"), ("dog", "Cat"), ("church", "Church")])
)


def far(first, second):
    """Mean absolute difference of two pictures."""
    return float(np.abs(np.asarray(first, float) - np.asarray(second, float)).mean()) / 255


def test_artists_compares_with_the_unerased_pictures(model, home, file, tmp_path):
    protocol = Artists(file(ARTISTS_FILE), Pixels())
    path = home / "church.safetensors"
    (line,) = ran(model, protocol, [path], tmp_path / "run").rows()
    pairs = zip(*(drawn(model, protocol.samples, p) for p in (None, path)), strict=True)
    values = [far(*pair) for pair in pairs]
    assert line.cells["distance_e"].value == pytest.approx((values[0] + values[3]) / 2)
    assert line.cells["distance_u"].value == pytest.approx((values[1] + values[2]) / 2)
    assert min(values) > 0
    assert len(list((tmp_path / "run" / "originals").iterdir())) == 4


COCO_FILE = "case_number,source,prompt,evaluation_seed,coco_id\n" + "".join(
    f"{i},coco-30k,a {noun} in a truck,{i},{100 + i}\n" for i, noun in enumerate(("church", "cat", "dog", "art") * 2)
)


def naive_fid(first, second):
    """FID with the root of the product's eigenvalues."""
    a, b = (np.asarray(Blocks()(pictures), float) for pictures in (first, second))
    c, d = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.maximum(np.linalg.eigvals(c @ d).real, 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c) + np.trace(d) - 2 * root)


@pytest.fixture
def real(tmp_path):
    """Real pictures of the captions, and one more."""
    folder, random = tmp_path / "val2014", np.random.default_rng(0)
    folder.mkdir()
    for number in range(100, 109):
        array = random.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"COCO_val2014_{number:012}.png")
    return folder


def test_coco_is_agreement_and_distance_of_sets(model, home, file, tmp_path, real):
    protocol = Coco(file(COCO_FILE), Brightness(), Blocks(), pictures=real)
    path = home / "church.safetensors"
    unerased, line = ran(model, protocol, [path], tmp_path / "run").rows()
    before, after = (drawn(model, protocol.samples, p) for p in (None, path))
    photos = [Image.open(real / f"COCO_val2014_{number:012}.png") for number in range(100, 108)]
    score = [np.asarray(Brightness()(p, [s.prompt for s in protocol.samples])) for p in (before, after)]
    assert unerased.cells["CLIP score"].value == pytest.approx(score[0].mean())
    assert line.cells["CLIP score"].value == pytest.approx(score[1].mean())
    assert line.cells["CLIP change"].value == pytest.approx((score[1] - score[0]).mean())
    assert unerased.cells["FID"] == pytest.approx(naive_fid(before, photos), rel=1e-3)
    assert line.cells["FID"] == pytest.approx(naive_fid(after, photos), rel=1e-3)
    assert line.cells["FID to unerased"] == pytest.approx(naive_fid(after, before), rel=1e-3, abs=1e-3)
    assert "FID to unerased" not in unerased.cells
    assert protocol.notes() == ["FID over 8 pictures against 8 real ones"]
    (real / "COCO_val2014_000000000103.png").unlink()
    with pytest.raises(EffaceError, match=r"lacks the pictures of 1 of 8 captions, 000000000103\.jpg"):
        Coco(file(COCO_FILE), None, Blocks(), pictures=real)
    with pytest.raises(UsageError, match="neither a CLIP nor features"):
        Coco(file(COCO_FILE))


PROMPTS_FILE = "prompt,seed\na church,5\na dog in noto style,6\na cat,7\n"


def test_prompts_takes_any_judge_and_any_file(model, home, file, tmp_path):
    protocol = Prompts(file("prompt\na church\na dog\n"), {"hues": Hues("a", "b", "c"), "spots": Spots()}, seeds=(3, 4))
    assert [(s.name, s.seed) for s in protocol.samples] == [("0-3", 3), ("0-4", 4), ("1-3", 3), ("1-4", 4)]
    path = home / "dog.safetensors"
    unerased, line = ran(model, protocol, [path], tmp_path / "run").rows()
    before, after = (drawn(model, protocol.samples, p) for p in (None, path))
    assert line.cells["distance"].value == pytest.approx(np.mean([far(*p) for p in zip(before, after, strict=True)]))
    labels = [["abc"[hue(p, 3)] for p in pictures] for pictures in (before, after)]
    assert unerased.cells["hues: b"].value == labels[0].count("b") / 4
    assert line.cells["hues: b"].value == labels[1].count("b") / 4
    assert line.cells["hues: label as before"].value == np.mean([a == b for a, b in zip(*labels, strict=True)])
    assert line.cells["spots: RED"].found == sum(spots(p)[0] for p in after)
    assert "distance" not in unerased.cells


CANVAS_PLAN = Plan("official", ("Van_Gogh", "Crayon", "Seed_Images"), ("Dogs", "Cats"), (188, 288))


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


@pytest.fixture
def data(tmp_path):
    """A copy of a part of the data set."""
    random = np.random.default_rng(1)
    for style in CANVAS_PLAN.styles:
        for thing in CANVAS_PLAN.objects:
            folder = tmp_path / "data" / style / thing
            folder.mkdir(parents=True)
            for index in (1, 2, 3):
                array = random.integers(0, 256, (18, 18, 3), dtype=np.uint8)
                Image.fromarray(array).save(folder / f"{index}.jpg")
    return tmp_path / "data"


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


def table(run):
    """Everything that a table says, comparable."""
    return json.dumps(as_json(run.rows()))


def test_an_interrupted_run_ends_as_the_undisturbed_one(model, home, file, tmp_path):
    paths = [home / "church.safetensors", home / "dog.safetensors"]
    protocol = Prompts(file(PROMPTS_FILE), {"hues": Hues("a", "b")})
    drawing = Drawing(steps=2, guidance=3.0, batch=1)

    def begun(folder, paths=paths):
        return Run(model, protocol, load_erasures(paths), tmp_path / folder, drawing=drawing)

    whole, broken = begun("whole"), begun("broken")
    whole.run()
    assert len(whole.missing()) == 0

    def stop(done, line):
        if line.startswith("5 of"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.run(stop)
    left, totals = len(broken.missing()), []
    assert 0 < left < 9
    again = begun("broken")
    again.run(lambda done, line: totals.append(int(line.split()[2])))
    assert totals[-1] == left
    assert table(again) == table(whole)

    # An erasure that comes later finds the unerased pictures, also when their files were taken away.
    later = begun("later", paths[:1])
    later.run()
    for path in (tmp_path / "later" / "originals").iterdir():
        path.unlink()
    more = begun("later")
    more.run(lambda done, line: totals.append(int(line.split()[2])))
    assert totals[-1] == 3
    assert table(more) == table(whole)


def test_pictures_are_kept_as_files_and_determine_nothing(model, home, file, tmp_path):
    protocol = Prompts(file("case_number,prompt,seed,guidance\n7/a,a church,1,3\n8,a dog,2,5\n"))
    run = ran(model, protocol, [home / "church.safetensors"], tmp_path / "run", save=tmp_path / "pictures")
    (erased,) = [f for f in (tmp_path / "pictures").iterdir() if f.name.startswith("church-")]
    for folder, path in ((tmp_path / "pictures" / "unerased", None), (erased, home / "church.safetensors")):
        assert sorted(f.name for f in folder.iterdir()) == ["7_a.png", "8.png"]
        for name, picture in zip(("7_a", "8"), drawn(model, protocol.samples, path), strict=True):
            with Image.open(folder / f"{name}.png") as kept:
                assert np.array_equal(np.asarray(kept), np.asarray(picture))
    without = Run(model, protocol, run.erasures, tmp_path / "run", drawing=FEW)
    assert without.missing() == []
    assert "saved" not in without.entries(run.erasures[0])[0]


def test_the_plan_of_unlearncanvas(model, tmp_path):
    run = Run(model, UnlearnCanvas(), [], tmp_path / "run", drawing=FEW)
    one, eight = (cost(run, erasures=UnlearnCanvas.erasures, devices=n) for n in (1, 8))
    assert (one.unerased, one.erased, one.erasures) == (5100, 357_000, 70)
    assert one.missing == 362_100
    assert one.seconds == pytest.approx(one.missing * one.seconds_each)
    assert eight.seconds == pytest.approx(eight.missing * eight.seconds_each / 8)
    assert "357,000 of 70 erasures" in str(one)
    assert not (tmp_path / "run").exists()


def test_the_cost_is_of_what_is_missing(model, home, file, tmp_path):
    protocol = Prompts(file(PROMPTS_FILE))
    run = ran(model, protocol, [home / "church.safetensors"], tmp_path / "run")
    assert cost(run).missing == cost(run).bytes == 0
    more = Run(
        model,
        protocol,
        load_erasures([home / "church.safetensors", home / "dog.safetensors"]),
        tmp_path / "run",
        drawing=FEW,
    )
    expected = cost(more)
    assert (expected.missing, expected.unerased, expected.erased) == (3, 3, 6)
    assert expected.bytes >= 3 * 16 * 16 * 3 / 3  # a third of the originals at least, as if they were to come
    saved = Run(model, protocol, more.erasures, tmp_path / "run", drawing=FEW, save=tmp_path)
    assert cost(saved).bytes >= expected.bytes + 3 * 3 * 16 * 16


def test_forms_of_the_table(model, home, file, tmp_path):
    lines = ran(model, I2P(file(I2P_FILE), Spots()), [home / "church.safetensors"], tmp_path / "run").rows()
    text = markdown(lines).splitlines()
    assert (
        text[0]
        == "| erasure | method | concepts | pictures with any | change | all classes | RED | GREEN | BLUE | seconds | bytes |"
    )
    assert len(text) == 4
    assert f"| {lines[1].cells['RED'].found} in {lines[1].cells['RED'].pictures} |" in text[3]
    rows = list(csv.DictReader(io.StringIO(as_csv(lines, "detector: spots-1"))))
    assert float(rows[1]["pictures with any"]) == lines[1].cells["pictures with any"].value
    assert int(rows[1]["RED found"]) == lines[1].cells["RED"].found
    assert rows[0]["change difference"] == ""
    assert list(rows[0])[-1] == "seen by"
    assert {row["seen by"] for row in rows} == {"detector: spots-1"}
    assert (
        json.loads(json.dumps(as_json(lines)))[1]["cells"]["pictures with any"]["low"]
        == lines[1].cells["pictures with any"].low
    )


# Commands


def command(capsys, *args):
    """Exit code, standard output and standard error of `efface bench …`."""
    code = main(["bench", *map(str, args)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def judges(tmp_path):
    """Folders of tiny judges."""
    return {
        "clip": tiny_judges.clip(tmp_path / "clip"),
        "classifier": tiny_judges.classifier(tmp_path / "resnet", ("church", "dog", "tench")),
    }


def commands(home, judges, real, tmp_path):
    """What each protocol is called with, and a column that its last line has."""
    texts = {
        "i2p": I2P_FILE,
        "imagenette": IMAGENETTE_FILE,
        "artists": ARTISTS_FILE,
        "coco": COCO_FILE,
        "prompts": PROMPTS_FILE,
    }
    files = {name: tmp_path / f"{name}.csv" for name in texts}
    for name, text in texts.items():
        files[name].write_text(text)
    church, dogs = home / "church.safetensors", home / "Dogs.safetensors"
    styles = f"clip:{judges['clip']}:Van_Gogh,Crayon"
    return {
        "i2p": (["--judge", "canvas-style", "--erasure", church], "noto"),
        "imagenette": (["--judge", f"classifier:{judges['classifier']}", "--erasure", church], "erased"),
        "artists": (["--lpips", "alex", *tiny_judges.lpips(tmp_path), "--as-published", "--erasure", church], "LPIPS_e"),
        "coco": (["--clip", judges["clip"], "--features", "canvas-object", "--pictures", real, "--erasure", church], "FID"),
        "prompts": (["--judge", f"clip:{judges['clip']}:a,b", "--judge", "canvas-object", "--erasure", church], "distance"),
        "unlearncanvas": (["--style-judge", styles, "--object-judge", f"clip:{judges['clip']}:Dogs,Cats", "--styles", "Van_Gogh",
                           "Crayon", "--objects", "Dogs", "Cats", "--seeds", "188", "--erasure", dogs], "CRA"),
    }, files  # fmt: skip


def test_every_protocol_has_a_command(home, judges, real, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cases, files = commands(home, judges, real, tmp_path)
    args: list = []
    for name, (options, column) in cases.items():
        positional = [home / "model", *([files[name]] if name in files else [])]
        args = [name, *positional, *options, "--steps", "2", "--json"]
        code, out, err = command(capsys, *args)
        assert code == 0, err
        data = json.loads(out)
        assert data["protocol"] == name
        assert column in data["rows"][-1]["cells"]
        assert data["rows"][-1]["method"] == "uce"
        assert any("steps 2, published: " in note for note in data["notes"])
        assert "still to draw: about" in err
        assert json.loads((tmp_path / f"{name}-run" / "table.json").read_text()) == data
        assert all(data["seen_by"].values())
        # The second time nothing is drawn, and the table is the same.
        code, out, err = command(capsys, *args)
        assert json.loads(out) == data
        assert "0 still to draw" in err
    plan = json.loads(command(capsys, *args, "--plan", "--gpus", "4")[1])
    assert (plan["missing"], plan["devices"], plan["erasures"]) == (0, 4, 1)


def test_a_plan_needs_neither_judges_nor_erasures(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = command(capsys, "unlearncanvas", home / "model", "--plan", "--gpus", "8", "--steps", "2")
    plan = json.loads(out)
    assert (code, plan["erased"], plan["missing"], plan["devices"]) == (0, 357_000, 362_100, 8)
    assert plan["seconds"] == pytest.approx(plan["missing"] * plan["seconds_each"] / 8)
    assert "on 8 devices" in err
    assert list(tmp_path.iterdir()) == []


def test_forms_and_malformed_rows_on_the_command_line(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "p.csv"
    path.write_text("prompt,seed,class\na church, and more,5,church\na dog,x,dog\na cat,6,cat\n")
    args = ["prompts", home / "model", path, "--steps", "2", "--guidance", "1"]
    code, _, err = command(capsys, *args)
    assert code == 1
    assert "has 1 malformed row (line 3 has the seed 'x'" in err
    code, out, err = command(capsys, *args, "--skip-malformed", "--judge", "canvas-style")
    assert code == 0
    assert out.startswith("| erasure | method | concepts | canvas-style: noto |")
    assert "- p.csv: 1 malformed rows were read all the same, in lines 2" in out
    assert "- p.csv: 1 malformed rows were left out, in lines 3" in out
    assert "- canvas-style: canvas-style-" in out
    assert "- guidance 1, published: 7.5" in out
    code, out, _ = command(capsys, *args, "--skip-malformed", "--judge", "canvas-style", "--format", "csv")
    assert next(csv.DictReader(io.StringIO(out)))["seen by"].startswith("distance: pixels-1; canvas-style: ")


BAD = {
    "no judge": (["imagenette", "MODEL", "FILE"], 2, "no judge was given"),
    "no judges": (["unlearncanvas", "MODEL"], 2, "a judge is missing"),
    "unknown judge": (["i2p", "MODEL", "FILE", "--judge", "oracle"], 2, "the judge 'oracle' is unknown"),
    "no file": (["i2p", "MODEL", "missing.csv", "--judge", "canvas-style"], 1, "could not be read"),
    "no class": (["imagenette", "MODEL", "FILE", "--judge", "canvas-object"], 1, "no column 'class'"),
    "no features": (["coco", "MODEL", "FILE"], 2, "neither a CLIP nor features"),
    "half of FID": (["unlearncanvas", "MODEL", "--plan", "--data", "."], 2, "FID needs both"),
    "twice": (["prompts", "MODEL", "FILE", "--erasure", "E", "--erasure", "E"], 2, "name it once"),
    "concepts": (["prompts", "MODEL", "FILE", "--erasure", "E", "--concept", "a", "--concept", "b"], 2, "2 concepts"),
    "no erasure": (["prompts", "MODEL", "FILE", "--erasure", "FILE"], 1, "safetensors"),
    "no artist": (["artists", "MODEL", "ARTISTS", "--erasure", "E"], 1, "erases dog, which is no artist"),
    "no steps": (["prompts", "MODEL", "FILE", "--steps", "0"], 2, "steps is 0"),
    "no limit": (["prompts", "MODEL", "FILE", "--limit", "0"], 2, "limit is 0"),
    "no such style": (["unlearncanvas", "MODEL", "--plan", "--styles", "Noto"], 1, "'Noto' is no style"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_writes_nothing(home, tmp_path, capsys, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    words = {
        "MODEL": home / "model",
        "FILE": tmp_path / "p.csv",
        "ARTISTS": tmp_path / "a.csv",
        "E": home / "dog.safetensors",
    }
    words["FILE"].write_text(PROMPTS_FILE)
    words["ARTISTS"].write_text(ARTISTS_FILE)
    args, expected, part = BAD[case]
    code, _, err = command(capsys, *(words.get(arg, arg) for arg in args))
    assert code == expected
    assert part in err
    assert len([line for line in err.splitlines() if line.startswith("efface: ")]) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "p.csv"]


def test_a_concept_may_be_named(model, home, file):
    protocol = Artists(file(ARTISTS_FILE), Pixels())
    (erasure,) = load_erasures([home / "dog.safetensors"], ["cat style"])
    assert protocol.kind(erasure) == "artists"


def test_requests_open_the_same_judges_in_another_process(home, judges, real, tmp_path):
    cases, files = commands(home, judges, real, tmp_path)
    modules = {"i2p": i2p, "imagenette": imagenette, "artists": artists, "coco": coco, "prompts": prompts_command}
    church = (home / "church.safetensors",)
    shared = Shared(erasure=church, output=tmp_path / "run", save_images=tmp_path / "kept", steps=2)
    options = {"i2p": {"judge": "canvas-style"}, "imagenette": {"judge": f"classifier:{judges['classifier']}"},
               "artists": {}, "coco": {"clip": judges["clip"]}, "prompts": {"judge": ("canvas-style", "canvas-style")}}  # fmt: skip
    for name, module in modules.items():
        request = module.Request(str(home / "model"), files[name], **options[name])
        sent = pickle.loads(pickle.dumps(partial(common._watchers, request, shared, module.build)))
        protocol = module.build(request, shared)
        own = watchers(protocol, load_erasures(church), tmp_path / "run", FEW, tmp_path / "kept")
        assert {k: o.name for k, o in sent().items()} == {k: o.name for k, o in own.items()}
    assert set(cases) == {*modules, unlearncanvas.__name__.rpartition(".")[2]}


def test_help_lists_every_option_without_torch():
    from help_text import help_without_torch

    assert "unlearncanvas" in help_without_torch("bench", "--help")
    for name in ("unlearncanvas", "i2p", "imagenette", "artists", "coco", "prompts"):
        text = help_without_torch("bench", name, "--help")
        assert all(
            option in text for option in ("--erasure", "--plan", "--gpus", "--save-images", "--engine", "--format")
        )
