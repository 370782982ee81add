"""Prints the oldest version that pyproject.toml allows of each requirement, for pip: "name[extra]==floor" lines."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The tools of the tests themselves need no floor: only what a user installs.
extras = project["optional-dependencies"]
requirements = project["dependencies"] + [
    line
    for extra in ("s3", "http", "parquet", "hdf5", "frames", "compiled", "progress", "plot", "demo")
    for line in extras[extra]
]
for requirement in requirements:
    name, *version = re.split(r">=", requirement)
    if version:
        print(f"{name}=={version[0]}")
    elif not name.startswith("daskgmm["):
        raise SystemExit(f"pyproject.toml: every requirement must have a floor '>='; got {requirement!r}")
