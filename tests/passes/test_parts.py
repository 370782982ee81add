"""A pass in parts: each partition in one of them, whole subtrees, and the sum of the tree in whatever order."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daskgmm.errors import OptionError
from daskgmm.passes.parts import Subtree, added_up, share, subtrees
from daskgmm.passes.task import Partial, tree_sum


class Written:
    """A pass whose states are texts: they tell in which order they were added."""

    def zero(self) -> str:
        return ""

    def update(self, state: str, block: object) -> str:
        return state

    def finish(self, state: str) -> str:
        return state

    def merge(self, state: str, other: str) -> str:
        return f"({state}+{other})"


WORK = Written()


def whole(begin: int, end: int) -> Partial[str]:
    """What the pass finds in some partitions that are one task: the sum of their tree, below the task's node."""
    return tree_sum(WORK, [Partial(str(i), 1, 0) for i in range(begin, end)])


@given(st.integers(1, 400), st.data())
def test_parts_add_up_to_the_tree_in_any_order(n_partitions: int, data: st.DataObject) -> None:
    n_parts = data.draw(st.integers(1, n_partitions))
    shares = [share(i + 1, n_parts, n_partitions) for i in range(n_parts)]
    assert shares[0][0] == 0
    assert shares[-1][1] == n_partitions
    assert all(end == begin for (_, end), (begin, _) in pairwise(shares))
    parts = [[Subtree(a, b, whole(a, b)) for a, b in subtrees(*own, n_partitions)] for own in shares]
    known: tuple[Subtree, ...] = ()
    for part in data.draw(st.permutations(parts)):
        known = added_up([*known, *part], WORK.merge, n_partitions)
    (root,) = known
    assert (root.begin, root.end) == (0, n_partitions)
    assert root.partial == whole(0, n_partitions)


@given(st.integers(1, 5000), st.integers(1, 200))
def test_parts_are_about_equal_and_of_few_subtrees(n_partitions: int, n_parts: int) -> None:
    if n_parts > n_partitions:
        return
    sizes = [end - begin for begin, end in (share(i + 1, n_parts, n_partitions) for i in range(n_parts))]
    assert min(sizes) >= 1
    mean = n_partitions / n_parts
    assert max(sizes) <= max(mean + 1, mean * 9 / 8 + 1)
    for i in range(n_parts):
        assert len(subtrees(*share(i + 1, n_parts, n_partitions), n_partitions)) <= 10


def test_what_is_not_next_to_each_other_stays_apart() -> None:
    found = [Subtree(i, i + 1, whole(i, i + 1)) for i in (5, 1, 2, 6, 7)]
    known = added_up(found, WORK.merge, 8)
    assert [(each.begin, each.end) for each in known] == [(1, 2), (2, 3), (5, 6), (6, 8)]
    assert known[3].partial.state == "(6+7)"
    assert [each.begin for each in added_up(found, None, 8)] == [1, 2, 5, 6, 7]


def test_more_parts_than_partitions_are_refused() -> None:
    assert share(7, 7, 7) == (6, 7)
    with pytest.raises(
        OptionError, match="part must be of no more parts than the rows have partitions, 7; got 8 parts. Take 7, or f"
    ):
        share(1, 8, 7)
