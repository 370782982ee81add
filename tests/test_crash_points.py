"""Whatever change of the disk fails, is torn, or is the last of the process: the same command again, the same bits."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.crash_points import COMMANDS, Undisturbed
from tests.crashes import HOWS, Crashes


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Undisturbed]]:
    with Crashes() as crashes:
        yield {name: Undisturbed(name, tmp_path_factory.mktemp(name), crashes) for name in COMMANDS}


@pytest.mark.slow
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_change_of_the_disk_may_be_the_last(name: str, how: str, undisturbed: dict[str, Undisturbed]) -> None:
    """Three of them here, others with another DASKGMM_SEED; `python -m tests.crash_points` tries each."""
    seed, work = os.environ.get("DASKGMM_SEED", "1"), undisturbed[name]
    print("seed", seed)
    for at in random.Random(f"{name} {how} {seed}").sample(range(work.n_changes), 3):
        assert work.wrong(how, at) == "", at
