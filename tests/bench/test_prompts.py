"""Prompt files: the public layouts, malformed rows, and what is written is what is read."""

from __future__ import annotations

import csv
import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from efface.bench.prompt_files import SURPLUS, read_pairs, read_prompts
from efface.errors import EffaceError

I2P = (
    "prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,sd_safety_percentage,"
    "prompt_toxicity,lexica_url,evaluation_seed,evaluation_guidance,sd_image_width,sd_image_height,sd_model,case_number"
)
I2P_REST = '"violence, self-harm",1,50.0,0.0,50.0,20.0,0.17,https://lexica.art/p/1,4261553411,13,512,512,sd-v1-4'


def i2p(*prompts: str, index: str = "") -> str:
    """A file of I2P's layout; `index` is the name of its first column."""
    return f"{index},{I2P}\n" + "".join(f'{i},"{prompt}",{I2P_REST},{i}\n' for i, prompt in enumerate(prompts))


# layout: text of a file, and (name, prompt, seed, guidance) of its rows
LAYOUTS = {
    "i2p": (i2p("a quiet, dark room"), [("0", "a quiet, dark room", 4261553411, 13.0)]),
    "i2p, a prompt over lines and an empty one": (
        i2p("one\ntwo", ""),
        [("0", "one\ntwo", 4261553411, 13.0), ("1", "", 4261553411, 13.0)],
    ),
    "nudity": (i2p("a room", index="Unnamed: 0"), [("0", "a room", 4261553411, 13.0)]),
    "i2p, its authors'": (
        "prompt,categories,sd_seed,sd_guidance_scale,sd_model\na room,hate,12.0,7.5,sd\n",
        [("0", "a room", 12, 7.5)],
    ),
    "imagenette": (
        "case_number,prompt,class,evaluation_seed\r\n0,an image of a tench,tench,1174\r\n",
        [("0", "an image of a tench", 1174, None)],
    ),
    "artists": (
        ',case_number,prompt,evaluation_seed,artist\n0,4,"A, in the style of Picasso\'s Cubism",3721,Pablo Picasso\n',
        [("4", "A, in the style of Picasso's Cubism", 3721, None)],
    ),
    "coco": (
        "case_number,source,prompt,evaluation_seed,coco_id\n2308,coco-30k,A group of motorcycles.,99949,78748\n",
        [("2308", "A group of motorcycles.", 99949, None)],
    ),
    "unlearndiffatk": (
        "case_number,prompt,evaluation_seed,evaluation_guidance\n0,Old stone church.,69922,7.5\n\n1,Small chapel.,7,9\n",
        [("0", "Old stone church.", 69922, 7.5), ("1", "Small chapel.", 7, 9.0)],
    ),
    "unlearndiffatk, coco": (
        'case_number,source,prompt,evaluation_seed\n000000482917,coco-30k,"A dog on a footstool\n",64297\n',
        [("000000482917", "A dog on a footstool\n", 64297, None)],
    ),
    "ring-a-bell, found": (
        'prompt,case_number,evaluation_seed\n"gun ,, ""\'\' 💵",6,97\nblood \'" ,7,83\n',
        [("6", "gun ,, \"'' 💵", 97, None), ("7", "blood '\" ", 83, None)],
    ),
    "ring-a-bell, pairs": (
        'sensitive prompt,normal prompt\r\n"A night, by Van Gogh",A night\r\n',
        [("0", "A night, by Van Gogh", None, None)],
    ),
    "an attack's": ("prompt,adv_prompt,seed\na church,ch urch,3\n", [("0", "ch urch", 3, None)]),
    "prompts alone, with a byte order mark": ("\ufeffprompt\na cat\n", [("0", "a cat", None, None)]),
}


@pytest.fixture
def written(tmp_path):
    """Writes a file as it stands."""

    def write(text: str):
        path = tmp_path / "prompts.csv"
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return write


@pytest.mark.parametrize("layout", LAYOUTS)
def test_public_layouts(written, layout):
    text, expected = LAYOUTS[layout]
    file = read_prompts(written(text))
    assert [(r.name, r.prompt, r.seed, r.guidance) for r in file.rows] == expected
    assert file.repaired == file.skipped == ()


def test_other_columns_are_kept(written):
    file = read_prompts(written(LAYOUTS["artists"][0]))
    assert file.column("artist") == ["Pablo Picasso"]
    with pytest.raises(EffaceError, match="no column 'class'; expected it beside '', 'case_number'"):
        file.column("class")


ROBUST = """case_number,prompt,evaluation_seed,class
0,"A group, ready to relive",4068,cassette player
5,In a cozy cafe, the soothing melodies,4001,cassette player
7,As rain, 12 drops, patters, it plays,1217,cassette player
"""


def test_unquoted_commas_are_given_back_to_the_prompt(written):
    file = read_prompts(written(ROBUST))
    assert [r.prompt for r in file.rows] == [
        "A group, ready to relive",
        "In a cozy cafe, the soothing melodies",
        "As rain, 12 drops, patters, it plays",
    ]
    assert [(r.seed, r.columns["class"]) for r in file.rows] == [(s, "cassette player") for s in (4068, 4001, 1217)]
    assert [str(f) for f in file.repaired] == [
        "line 3 has 5 fields where 4 were expected",
        "line 4 has 7 fields where 4 were expected",
    ]


# header and one row that cannot be read, and what is said of it
MALFORMED = {
    "two ways to a seed": ("prompt,seed,class", "a, 5, 6, b", "has 4 fields where 3 were expected"),
    "two texts side by side": ("case_number,prompt,class,seed", "0,a,b,c,5", "has 5 fields where 4 were expected"),
    "too few": ("prompt,seed", "a cat", "has 1 fields where 2 were expected"),
    "too many": ("prompt,seed", "a," * (SURPLUS + 2) + "5", f"has {SURPLUS + 3} fields where 2 were expected"),
    "no number": ("prompt,seed", "a cat,five", "has the seed 'five' where a whole number was expected"),
    "half a seed": ("prompt,seed", "a cat,5.5", "has the seed '5.5'"),
    "a negative seed": ("prompt,seed", "a cat,-1", "has the seed '-1'"),
    "no guidance": ("prompt,guidance", "a cat,nan", "has the guidance 'nan' where a number was expected"),
    "text after quotes": ("prompt,seed", '"a" cat,5', "has quotes that do not close"),
    "an open quote": ("prompt,seed", '"a cat,5', "which takes in everything down to line 4"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_rows_are_named_with_their_line(written, case):
    header, row, said = MALFORMED[case]
    good = ",".join({"prompt": "fine", "case_number": "9"}.get(name, "1") for name in header.split(","))
    path = written(f"{header}\n{good}\n{row}\n{good}\n")
    with pytest.raises(EffaceError) as error:
        read_prompts(path)
    assert str(error.value).startswith(f"{path} has 1 malformed row (line 3 ")
    assert said in str(error.value)
    assert str(error.value).endswith("(--skip-malformed).")
    file = read_prompts(path, skip_malformed=True)
    assert [fault.line for fault in file.skipped] == [3]
    assert [r.line for r in file.rows] == ([2] if case == "an open quote" else [2, 4])


def test_every_malformed_line_is_named(written):
    path = written("prompt,seed\n" + "a cat,x\n" * 8)
    with pytest.raises(EffaceError, match=r"8 malformed rows \(line 2 has the seed 'x'.*; lines 7, 8, 9\)"):
        read_prompts(path)


REFUSED = {
    "": "has no header",
    "a,b\n1,2\n": "has no column 'prompt' \\(it has 'a', 'b'\\)",
    "prompt,seed\n": "has no prompts",
}


@pytest.mark.parametrize("text", REFUSED)
def test_files_without_prompts_are_refused(written, text):
    with pytest.raises(EffaceError, match=REFUSED[text]):
        read_prompts(written(text))


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(EffaceError, match="could not be read"):
        read_prompts(tmp_path / "missing.csv")
    (tmp_path / "latin").write_bytes("prompt\ncafé\n".encode("latin-1"))
    with pytest.raises(EffaceError, match="not UTF-8"):
        read_prompts(tmp_path / "latin")


def test_pairs(written):
    assert read_pairs(written(LAYOUTS["ring-a-bell, pairs"][0])) == [("A night, by Van Gogh", "A night")]
    with pytest.raises(EffaceError, match="expected 'sensitive prompt' and 'normal prompt'"):
        read_pairs(written("prompt\na\n"))
    with pytest.raises(EffaceError, match="line 2 has 3 fields where 2 were expected"):
        read_pairs(written("sensitive prompt,normal prompt\na, b,c\n"))


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30)
ROWS = st.lists(
    st.tuples(TEXT, TEXT, st.integers(0, 2**64 - 1), st.floats(0, 100, allow_nan=False)), min_size=1, max_size=8
)


@given(ROWS, st.booleans())
def test_what_is_written_is_what_is_read(tmp_path_factory, rows, quote_all):
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)
    writer.writerow(["", "case_number", "prompt", "categories", "evaluation_seed", "evaluation_guidance"])
    writer.writerows([i, i, prompt, text, seed, guidance] for i, (prompt, text, seed, guidance) in enumerate(rows))
    path = tmp_path_factory.getbasetemp() / "round.csv"
    path.write_text(out.getvalue(), encoding="utf-8", newline="")
    file = read_prompts(path)
    assert [(r.prompt, r.columns["categories"], r.seed, r.guidance) for r in file.rows] == rows
    assert [r.name for r in file.rows] == [str(i) for i in range(len(rows))]


PIECES = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters='\x00\r\n",0123456789'), min_size=1, max_size=8),
    min_size=1, max_size=6,
)  # fmt: skip


@given(st.lists(st.tuples(PIECES, st.integers(0, 9999)), min_size=1, max_size=5))
def test_whatever_commas_a_prompt_has_it_is_read(tmp_path_factory, rows):
    lines = [f"{i},{','.join(pieces)},{seed},golf ball" for i, (pieces, seed) in enumerate(rows)]
    path = tmp_path_factory.getbasetemp() / "robust.csv"
    path.write_text("\n".join(["case_number,prompt,evaluation_seed,class", *lines]), encoding="utf-8", newline="")
    file = read_prompts(path)
    assert [(r.prompt, r.seed, r.columns["class"]) for r in file.rows] == [
        (",".join(pieces), seed, "golf ball") for pieces, seed in rows
    ]
    assert len(file.repaired) == sum(len(pieces) > 1 for pieces, _ in rows)


def test_as_many_rows_as_i2p_in_under_a_second(written):
    path = written(i2p(*["weird and disturbing portrait,\nvivid colors, neon, " * 4] * 4703))
    began = time.process_time()
    assert len(read_prompts(path).rows) == 4703
    assert time.process_time() - began < 1
