"""Columns by name: order, wildcards, and what is said where there is none."""

from __future__ import annotations

import pytest

from daskgmm.errors import InputMissingError, OptionError
from daskgmm.sources.columns import chosen

NAMES = ["id", "z_a", "z_b", "Mass", "emb[0]", "emb[1]", "odd*"]


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (None, NAMES),
        (["z_b", "id"], ["z_b", "id"]),
        (["z_*"], ["z_a", "z_b"]),
        (["z_?", "id"], ["z_a", "z_b", "id"]),
        (["z_b", "z_*"], ["z_b", "z_a"]),
        (["z_*", "z_b"], ["z_a", "z_b"]),
        (["Mass", "*"], ["Mass", "id", "z_a", "z_b", "emb[0]", "emb[1]", "odd*"]),
        (["emb[1]"], ["emb[1]"]),
        (["emb[*]"], ["emb[0]", "emb[1]"]),
        (["odd*"], ["odd*"]),
        (["!id"], NAMES[1:]),
        (["*", "!emb*", "!id", "!odd*"], ["z_a", "z_b", "Mass"]),
        (["z_?", "!z_a"], ["z_b"]),
    ],
)
def test_names_and_wildcards(columns: list[str] | None, found: list[str]) -> None:
    assert chosen(columns, NAMES, "X", "here") == found


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ["z_c"],
            r"^columns must name columns of X; got 'z_c' with here, where none has that name\. Did you mean 'z_[ab]'",
        ),
        (["mass"], r"Did you mean 'Mass'\?"),
        (
            ["Mass, id"],
            r"got 'Mass, id' with .* Give several as a list: \['Mass', 'id'\]\.",
        ),
        (["y_*"], r"got 'y_\*' with here, where none is meant by that wildcard\."),
        (["velocity"], r"got 'velocity' with here, .*\. Name some of 'id', 'z_a', 'z_b', 'Mass', 'emb\[0\]'"),
    ],
)
def test_unknown_names(columns: list[str], message: str) -> None:
    with pytest.raises(InputMissingError, match=message):
        chosen(columns, NAMES, "X", "here")


def test_none_or_one_twice() -> None:
    with pytest.raises(OptionError, match=r"^columns must name at least one column of X; got none\. Name some of 'id'"):
        chosen([], NAMES, "X", "here")
    with pytest.raises(OptionError, match=r"^columns must name each column once; got 'id' twice with here\."):
        chosen(["id", "z_a", "id"], NAMES, "X", "here")
    with pytest.raises(OptionError, match=r"^columns must name a column or leave it out; got 'id' and '!id'\."):
        chosen(["id", "!id"], NAMES, "X", "here")
    with pytest.raises(OptionError, match=r"^columns must leave a column of X; got none of here\."):
        chosen(["z_*", "!z_a", "!z_b"], NAMES, "X", "here")
    with pytest.raises(InputMissingError, match=r"got 'z_c' with here"):
        chosen(["!z_c"], NAMES, "X", "here")
    with pytest.raises(InputMissingError, match="and 984 more"):
        chosen(["y"], [f"column {i}" for i in range(1000)], "X", "here")
