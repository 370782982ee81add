"""The guide to what Dask says, in cluster/README.md: its lines are those that this version of Dask has."""

from __future__ import annotations

import re
from pathlib import Path

import distributed
import pytest

GUIDE = (Path(__file__).parents[1] / "cluster" / "README.md").read_text(encoding="utf-8")
#: What the system says, or tornado, and not Dask.
OTHERS = ("Killed", "CommClosedError: in <TCP (closed) ...>: Stream is closed")


def source() -> str:
    """All of distributed's own modules, pieces of a string on several lines joined."""
    root = Path(distributed.__file__).parent
    modules = (path.read_text(encoding="utf-8") for path in root.rglob("*.py") if "tests" not in path.parts)
    return re.sub(r"\"\s*\n\s*f?\"", "", "\n".join(modules))


SOURCE = source()


@pytest.mark.parametrize("line", re.findall(r"^\| `([^`]+)`", GUIDE.split("## What Dask says")[1], re.MULTILINE))
def test_dask_says_so(line: str) -> None:
    if line in OTHERS:
        return
    # (Names, numbers and places are put in where it is said.)
    parts = [
        part.strip() for part in re.split(r"\.\.\.|'[^']*'|\w+://|<[^>]*>|[\d.]+s?%?|KilledWorker:|in Worker for", line)
    ]
    told = [part.strip(": ") for part in parts if len(part.strip(": ")) > 8]
    assert told
    for part in told:
        assert part in SOURCE, part
