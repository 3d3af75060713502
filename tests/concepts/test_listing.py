"""Lists of concepts from files."""

from __future__ import annotations

import pytest

from efface.concepts.listing import Entry, read_list
from efface.errors import EffaceError, UsageError

GOOD = {
    "one a line": ("church\n\n  golf ball \n# not this\nchurch\n", [Entry("church"), Entry("golf ball")]),
    "columns": (
        "Greg Rutkowski, style, art\ncat,,dog,kitty; feline\n",
        [Entry("Greg Rutkowski", "style", "art"), Entry("cat", anchor="dog", aliases=("kitty", "feline"))],
    ),
    "a header": ("name,aliases,kind\ncat,kitty,object\n", [Entry("cat", "object", aliases=("kitty",))]),
    "quotes": ('"vase, blue",object\n', [Entry("vase, blue", "object")]),
    "a byte order mark": ("\ufeffcat\n", [Entry("cat")]),
}
BAD = {
    "nothing": ("\n# all\n", "names no concept"),
    "another kind": ("vase, blue\n", "line 1 .* kind 'blue'"),
    "another column": ("name,colour\ncat,red\n", "column 'colour'"),
    "too many columns": ("a,object,b,c,d\n", "5 columns"),
    "no name": (",object\n", "no name"),
}


@pytest.mark.parametrize(("text", "entries"), GOOD.values(), ids=GOOD)
def test_lists(tmp_path, text, entries):
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    assert read_list(path) == entries


@pytest.mark.parametrize(("text", "sentence"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said(tmp_path, text, sentence):
    path = tmp_path / "list.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=sentence):
        read_list(path)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    for name in ("none", "latin"):
        with pytest.raises(EffaceError, match="cannot be read"):
            read_list(tmp_path / name)
