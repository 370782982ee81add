"""What `plot` and `report` do: pictures and a page of a model, over rows of INPUT where they are asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from daskgmm.cli.input import Input, note_weights
from daskgmm.cli.outputs import check_place, refuse_existing, write_file
from daskgmm.cli.terminal import command_line_words
from daskgmm.cli.work import Work
from daskgmm.errors import OptionError
from daskgmm.fitting.glance import glance, glance_need
from daskgmm.fitting.sample import Sample
from daskgmm.fitting.score import check_features
from daskgmm.passes.rows import Rows
from daskgmm.places.place import Place
from daskgmm.sources.credentials import shown
from daskgmm.sources.source import Source
from daskgmm.stores.model_file import Model, as_written, load_model

#: What the names of pictures end with.
PICTURES = (".png", ".pdf", ".svg")
#: ... and those of pages, which a browser prints.
PAGES = (".html", ".htm")


def report(model: str, output: str, *, data: Input | None, cluster: Place, force: bool) -> dict[str, Any]:
    """Return the result of writing what a model file says as an HTML page, which is then at `output`."""
    from daskgmm.pictures.page import page  # (and with it Jinja2, which no other command needs)

    began = perf_counter()
    if os.path.splitext(output)[1].lower() not in PAGES or "://" in output or os.path.isdir(output):
        must = f"be a path of a file that ends with {' or '.join(PAGES)}"
        raise OptionError("--output", must, output, "Name another place, such as report.html.")
    loaded, rows = _opened(model, output, data, force=force)
    sample = _sample(loaded, rows, data, cluster, began)
    with as_written(model):
        text = page(loaded, name=shown(model), words=command_line_words(), sample=sample)
        # (Names of files need not be UTF-8: bytes that are none are shown by their numbers.)
        content = text.encode(errors="backslashreplace")
    write_file(output, content)
    return _result("report", model, output, len(content), sample)


def plot(
    model: str, output: str, *, kind: str, only: Sequence[str] | None, data: Input | None, cluster: Place, force: bool
) -> dict[str, Any]:
    """Return the result of drawing a model file, whose picture is then at `output`."""
    from daskgmm.pictures.draw import check_drawn, draw, feature_names_of

    began = perf_counter()
    if os.path.splitext(output)[1].lower() not in PICTURES or "://" in output or os.path.isdir(output):
        must = f"be a path of a file that ends with {' or '.join(PICTURES)}"
        raise OptionError("--output", must, output, "Rename it.")
    loaded, rows = _opened(model, output, data, force=force)
    with as_written(model):
        chosen = None if only is None else [_feature(one, feature_names_of(loaded)) for one in only]
        check_drawn(loaded, kind, only=chosen, rows=data is not None)
    sample = _sample(loaded, rows, data, cluster, began)
    with as_written(model):
        figure = draw(loaded, kind, only=chosen, sample=sample)
        content = figure.encoded(os.path.splitext(output)[1][1:].lower())
    write_file(output, content)
    return {**_result("plot", model, output, len(content), sample), "kind": kind}


def _opened(
    model: str, output: str, data: Input | None, *, force: bool
) -> tuple[Model, tuple[Source, Source | None] | None]:
    """Return a model, and the sources of INPUT; the output is checked, and no row is read."""
    check_place(output, inputs={"MODEL": model})
    if not force:
        refuse_existing(output)
    loaded = load_model(model)
    if data is None:
        return loaded, None
    names = loaded.record.get("feature_names")
    X, weights = data.open(names=names)
    note_weights(loaded.record, weights)
    check_place(output, inputs={"INPUT": X.places})
    check_features(X, loaded.parameters, units=loaded.record.get("units"), names=names)
    return loaded, (X, weights)


def _sample(
    loaded: Model, rows: tuple[Source, Source | None] | None, data: Input | None, cluster: Place, began: float
) -> Sample | None:
    """Return a sample of the rows; None where there are none."""
    if rows is None or data is None:
        return None
    (X, weights), p = rows, loaded.parameters
    with Work(Rows.plan(X, weights), glance_need(p, X), cluster).on_machines(began) as running:
        non_finite = data.treatment(loaded.record)
        return glance(p, X, weights=weights, non_finite=non_finite, executor=running.executor)


def _feature(typed: str, names: Sequence[str]) -> str | int:
    """Return the feature that was typed: its name, or its number from 1, as `inspect` counts them."""
    if typed in names or not typed.isdecimal() or not 0 < int(typed) <= len(names):
        return typed
    return int(typed) - 1


def _result(command: str, model: str, output: str, n_bytes: int, sample: Sample | None) -> dict[str, Any]:
    return {
        "command": command,
        "status": "done",
        "model": shown(model),
        "output": output,
        "bytes": n_bytes,
        "rows_drawn": 0 if sample is None else len(sample),
    }
