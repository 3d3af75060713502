"""UCE, RECE and SAeUron as their authors ran them: each difference a row, against naive code in float64."""

from __future__ import annotations

import pytest
import torch

import efface
import naive
import tiny
from efface.cli import main
from efface.closed_form.paper_settings import first_weight, neutral_counts, published_keep
from efface.concepts.names import artists
from efface.concepts.presets import ARTISTS, UNSAFE_WORDS
from efface.erasers import ERASERS, rece
from efface.erasers.base import published_config
from efface.io import embedded
from efface.models.model import Model
from efface.sae.autoencoder import SAEConfig, SparseAutoencoder
from efface.sae.statistics import Statistics
from efface.steering.tables import LatentTables, merge_tables
from rounding import assert_rounded

Concept = efface.Concept


@pytest.fixture(scope="module")
def pipe():
    """A tiny Stable Diffusion in float64, so that what is compared is not its rounding."""
    pipeline = tiny.stable_diffusion()
    pipeline.text_encoder.double()
    pipeline.unet.double()
    return pipeline


@pytest.fixture(autouse=True)
def _not_rounded(monkeypatch):
    """Erasures keep float64."""
    for module in ("textmap", "delta"):
        monkeypatch.setattr(f"efface.erasures.{module}.finite_float32", lambda values: values.contiguous())


# The authors' codes, spelled out: raw tokenizer, raw text encoder, one matrix after the other.


def encoded(pipe, text):
    """Text states (tokens width) and the position of the last content token, 0 (the begin token) for an empty text."""
    found = pipe.tokenizer(
        text, padding="max_length", max_length=pipe.tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        return pipe.text_encoder(found.input_ids)[0][0], int(found.attention_mask.sum()) - 2


def from_last_token(pipe, name, anchor):
    """Rows of a concept and its anchor from their last tokens on, cut to equal length."""
    (c, i), (t, j) = encoded(pipe, name), encoded(pipe, anchor)
    count = len(c) - max(i, j)
    return c[i : i + count], t[j : j + count]


def matrices(pipe):
    return {p.name: p.weight().detach() for p in Model(pipe).text_projections()}


def rows_of(pipe, texts):
    """Every position of every text (rows width)."""
    return torch.cat([encoded(pipe, text)[0] for text in texts])


def authors_rece(pipe, names, anchor, keep, *, regulariser, epochs, unsafe):
    """train_uce.py, then train.py (nudity, unsafe content), train_object.py or train_artists.py of the public repository."""
    pairs = [from_last_token(pipe, name, anchor) for name in names]
    first = ["", *keep]
    new = {
        name: naive.uce(
            w, torch.cat([c for c, _ in pairs]), torch.cat([t for _, t in pairs]), rows_of(pipe, first),
            e=1, p=round(max(0.1, 1 / len(first)), 3), lam=0.5,
        )
        for name, w in matrices(pipe).items()
    }  # fmt: skip
    c, t = rows_of(pipe, names), rows_of(pipe, [anchor] * len(names))
    later = rows_of(pipe, [" "] * len(names) if unsafe else first)
    for _ in range(epochs):
        back = naive.derived(list(matrices(pipe).values()), list(new.values()), c, t, regulariser, "regzero")
        new = {n: naive.uce(w, back, t, later, 1, 0.1, 0.1, current=new[n]) for n, w in matrices(pipe).items()}
    return new


def assert_same(pipe, erasure, expected):
    """Folded weights are the expected ones, to 1e-8 of the change."""
    for name, weight in matrices(pipe).items():
        change = (expected[name] - weight).norm()
        assert change > 1e-3
        assert (erasure.fold(f"{name}.weight", weight, 1.0) - expected[name]).norm() <= 1e-8 * change


KEEP = ("a dog", "cat", "art in noto style")
RECE = {
    # kind, names, anchor, keep -> λ_r, epochs, whether the neutral prompt counts once a concept in the epochs
    "nudity": ("explicit", ["nudity"], " ", (), 1e-1, 3, True),
    "three unsafe words": ("explicit", ["hate", "harm", "blood"], " ", (), 1e-1, 2, True),
    "a hard object": ("object", ["church"], " ", (), 1e-3, 1, False),
    "three objects": ("object", ["truck", "cat", "dog"], " ", (), 1e-1, 1, False),
    "an object, two retained": ("object", ["truck"], " ", KEEP[:2], 1e-1, 1, False),
    "a style, three retained": ("style", ["noto"], "art", KEEP[:3], 1e-3, 1, False),
    "a style, many retained": ("style", ["church"], "art", KEEP * 4, 1e-3, 1, False),
}


@pytest.mark.parametrize("case", RECE)
def test_rece(pipe, case):
    kind, names, anchor, keep, regulariser, epochs, unsafe = RECE[case]
    concepts = [Concept(name, kind, anchor=anchor) for name in names]
    keep = tuple(prompt for prompt in keep if not set(prompt.split()) & set(names))
    erasure = efface.erase(pipe, concepts, method="rece", as_published=True, keep=keep)
    expected = authors_rece(pipe, names, anchor, keep, regulariser=regulariser, epochs=epochs, unsafe=unsafe)
    assert_same(pipe, erasure, expected)


def test_rece_retains_every_other_artist_in_both_stages(pipe, monkeypatch):
    monkeypatch.setattr("efface.closed_form.paper_settings.artists", lambda: ("Cat", "Noto Church", "Dog", "A Truck"))
    erasure = efface.erase(pipe, Concept("noto church", "style"), method="rece", as_published=True)
    others = ["Cat", "Dog", "A Truck"]
    assert list(erasure.provenance.keep) == others
    expected = authors_rece(pipe, ["noto church"], "art", others, regulariser=1e-3, epochs=1, unsafe=False)
    assert_same(pipe, erasure, expected)


@pytest.mark.parametrize("name", ARTISTS)
def test_the_list_without_the_artist(name):
    kept = published_keep([Concept(name, "style")])
    gone = set(artists()) - set(kept)
    assert len(kept) == (1734 if name == "Ajin: Demi Human" else 1733)
    assert all(name.lower() in other.lower() for other in gone)
    assert published_keep([Concept(name)]) == ()


def test_the_defaults_stay(pipe):
    """Without `as_published` the UCE stage has the rows and the ridge of the epochs, and the neutral prompt once a concept; of
    summed moments at weight 1 that is the paper's."""
    concepts = [Concept("truck"), Concept("cat")]
    sums = {"moments": "sum", "first_preserve_weight": 1.0}
    erasure = efface.erase(pipe, concepts, method="rece", keep=["a dog"], epochs=0, **sums)
    c, t = rows_of(pipe, ["truck", "cat"]), rows_of(pipe, [" ", " "])
    kept = rows_of(pipe, ["", "", "a dog"])
    assert_same(pipe, erasure, {n: naive.uce(w, c, t, kept, 1, 1, 0.1) for n, w in matrices(pipe).items()})


@pytest.mark.parametrize(("number", "weight"), [(1, 1.0), (2, 0.5), (3, 0.333), (9, 0.111), (10, 0.1), (1734, 0.1)])
def test_weight_of_the_first_stage(number, weight):
    assert first_weight(number) == weight


COUNTS = {
    "unsafe list": ([Concept(word, "explicit") for word in UNSAFE_WORDS], (1, 11)),
    "nudity": ([Concept("nudity", "explicit")], (1, 1)),
    "objects": ([Concept("cat"), Concept("dog")], (1, 1)),
    "styles": ([Concept("noto", "style"), Concept("art", "style")], (1, 1)),
}


@pytest.mark.parametrize("case", COUNTS)
def test_how_often_the_neutral_prompt_counts(case):
    concepts, expected = COUNTS[case]
    assert neutral_counts(concepts, "published") == expected
    assert neutral_counts(concepts, "concepts") == (len(concepts),) * 2


UCE = {
    "an object": ("object", " ", ("a dog", "cat")),
    "a style": ("style", "art", ("a dog in noto style",)),
    "nothing retained": ("object", " ", ()),
}


@pytest.mark.parametrize("case", UCE)
def test_uce_retains_last_tokens(pipe, case):
    """uce_sd_erase.py: the last token of concepts, anchors and retained prompts, λ 0.5, all weights 1."""
    kind, anchor, keep = UCE[case]
    erasure = efface.erase(pipe, Concept("garbage truck", kind), method="uce", as_published=True, keep=list(keep))

    def last(text):
        states, i = encoded(pipe, text)
        return states[i : i + 1]

    c, t = last("garbage truck"), last(anchor.strip())
    kept = torch.cat([last(text) for text in keep]) if keep else c[:0]
    assert_same(pipe, erasure, {n: naive.uce(w, c, t, kept, 1, 1, 0.5) for n, w in matrices(pipe).items()})


def test_the_tensor_target_has_rows_from_the_last_subject_token_on(pipe):
    erasure = efface.erase(pipe, Concept("garbage truck"), method="uce", target="tensor", keep=["a dog"], moments="sum")
    assert erasure.provenance.config["rows"] == "subject"
    pairs, kept = [from_last_token(pipe, "garbage truck", " ")], rows_of(pipe, ["a dog"])
    assert_same(pipe, erasure, {n: naive.tensor_uce(w, pairs, kept, 1, 1, 0.5) for n, w in matrices(pipe).items()})
    for rows in ("last", "all"):
        with pytest.raises(efface.EffaceError, match="expected 'subject' with the tensor target"):
            efface.erase(pipe, "church", method="uce", target="tensor", rows=rows, keep=[])


PUBLISHED = {
    "rece": {
        "rows": "all", "derivation": "regzero", "erase_weight": 1.0, "preserve_weight": 0.1, "ridge": 0.1,
        "first_rows": "subject", "first_preserve_weight": None, "first_ridge": 0.5, "keep_rows": "all", "keep": (),
    },
    "uce": {"edited": "last", "keep_rows": "last", "ridge": 0.5, "erase_weight": 1.0, "preserve_weight": 1.0, "keep": ()},
    "saeuron": {"mode": "published", "gain": "published", "shared": "last", "weighting": "pictures"},
}  # fmt: skip


@pytest.mark.parametrize(("method", "field"), [(m, field) for m, fields in PUBLISHED.items() for field in fields])
def test_values(method, field):
    config = published_config(ERASERS.load(method), [Concept("church")], {})
    assert getattr(config, field) == PUBLISHED[method][field]


def test_what_the_user_names_goes_before_what_the_authors_ran():
    config = published_config(rece, [Concept("Van Gogh", "style")], {"keep": ("a",), "first_ridge": 0.2})
    assert (config.keep, config.first_ridge, config.first_rows) == (("a",), 0.2, "subject")


@pytest.mark.parametrize(("method", "field"), [("rece", "first_ridge"), ("uce", "keep_rows")])
def test_the_command(sd, tmp_path, method, field):
    sd.save_pretrained(tmp_path / "model")
    words = [
        "erase",
        method,
        str(tmp_path / "model"),
        "church",
        "-o",
        str(tmp_path / "e.safetensors"),
        "--as-published",
    ]
    assert main(words) == 0
    provenance = efface.Erasure.load(tmp_path / "e.safetensors").provenance
    assert provenance.config[field] == PUBLISHED[method][field]
    assert provenance.keep == ()
    again = efface.erase(sd, "church", method=method, as_published=True)
    made = efface.Erasure.load(tmp_path / "e.safetensors")
    maps = [(erasure.u @ erasure.v.T).float() for erasure in (made, again)]  # type: ignore[attr-defined]
    assert_rounded(*maps)  # weights that were read from a file may take another kernel


def test_the_embedded_autoencoders_know_how_many_pictures_they_saw():
    """Each of 20 objects in 9 styles and two seeds."""
    for folder in embedded.folder("emoji").glob("sae/unet.*"):
        stats = Statistics.load(folder / "statistics.safetensors")
        assert [stats.counts[i] for i in (0, 19, 20, 28)] == [18, 18, 40, 40]
        assert stats.pictures == 360


# SAeUron's merge.


def tables_of(chosen, seed):
    """Tables of one concept: gates, gains and shifts of the chosen latents at two timesteps (timesteps latents)."""
    g = torch.Generator().manual_seed(seed)
    gate = torch.where(torch.tensor(chosen), torch.rand(2, 6, generator=g), float("inf"))
    return LatentTables(gate, -torch.rand(2, 6, generator=g), torch.zeros(2, 6))


CHOSEN = (
    [[True, True, False, False, False, False], [True, False, False, False, False, False]],
    [[True, False, True, False, False, False], [False, True, False, False, False, False]],
    [[False, True, True, False, False, True], [True, False, False, False, False, False]],
)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_last_concept_wins_a_shared_latent(order):
    """utils/hooks.py: what concepts make of a latent is written one after the other, its own value where it is below the gate."""
    tables = [tables_of(CHOSEN[i], i) for i in order]
    sae = SparseAutoencoder(SAEConfig(4, 6, 6))
    stats = Statistics(("a",), ("object",), torch.tensor([900.0, 100.0]), torch.zeros(1, 2, 6), torch.zeros(2), 1)
    edit = merge_tables(tables, sae, stats, shared="last")
    z = torch.rand(5, 6, generator=torch.Generator().manual_seed(9))
    for t in range(2):
        expected = z.clone()
        for one in tables:
            for i in range(6):
                if one.gate[t, i].isfinite():
                    expected[:, i] = torch.where(z[:, i] > one.gate[t, i], one.gain[t, i] * z[:, i], z[:, i])
        found = z.clone()
        own = z[:, edit.latents]
        found[:, edit.latents] = torch.where(own > edit.gate[t], edit.gain[t] * own + edit.shift[t], own)
        assert torch.equal(found, expected)
