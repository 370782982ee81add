"""What `daskgmm select` does: the comparison that is asked for, its result, and the files that it writes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from daskgmm.cli.drawing import PICTURES
from daskgmm.cli.input import Input, identity_of, meaning
from daskgmm.cli.jobs import (
    Result,
    fit_result,
    fitting_work,
    model_record,
    places,
    say_remarks,
    skipped,
)
from daskgmm.cli.outputs import check_place, finished_fit, refuse_existing, write_file
from daskgmm.cli.passes_shown import passes_shown
from daskgmm.cli.saving import Saving
from daskgmm.cli.terminal import command_line_words, strict_json
from daskgmm.errors import OptionError
from daskgmm.fitting.checks import check_shape
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.sweep import Sweep, criterion_of, n_folds_of, select_model, selection_models
from daskgmm.pictures.comparison import COMPARED, by_kind, selection_table, selection_text
from daskgmm.pictures.plot import check_matplotlib, plot_selection
from daskgmm.places.log import say
from daskgmm.places.lost import carried_on
from daskgmm.places.place import Place
from daskgmm.places.signals import interrupts
from daskgmm.stores.model_file import Model, as_written, save_model

_TABLES = (".csv", ".json")


@dataclass(frozen=True)
class Comparison:
    """The models to compare, and by what.

    Attributes
    ----------
    n_components, covariance_types
    criterion : {"bic", "aic", "icl", "held-out", "bound"}
    folds : int or None
        None takes as many as the criterion needs.
    fit_all : bool
        Whether numbers of components are fitted beyond the turn of the criterion.
    options : FitOptions
        Of every model, but number and kind.
    """

    n_components: Sequence[int]
    covariance_types: Sequence[str]
    criterion: str
    folds: int | None
    fit_all: bool
    options: FitOptions

    @classmethod
    def of(cls, options: FitOptions, *, criterion: str | None, **asked: Any) -> Comparison:
        """Return the comparison by a criterion, or by that of the options where nobody says."""
        return cls(options=options, criterion=criterion or criterion_of(options, None).replace("_", "-"), **asked)

    def asked(self) -> dict[str, Any]:
        """Return the keywords of `select_model`, but `stop_early`."""
        criterion = self.criterion.replace("-", "_")
        return {
            "n_components": self.n_components,
            "covariance_types": self.covariance_types,
            "criterion": criterion,
            "n_folds": n_folds_of(criterion) if self.folds is None else self.folds,
        }

    def as_json(self) -> dict[str, Any]:
        """Return what decides the result, by names that differences are told by."""
        return {
            **self.options.as_json(),
            "n_components": list(self.n_components),
            "covariance_type": list(self.covariance_types),
            "criterion": self.criterion,
            "folds": self.asked()["n_folds"],
            "all": self.fit_all,
        }


@dataclass(frozen=True)
class Files:
    """Where table and plot go; None where they are not wanted."""

    table: str | None
    plot: str | None

    def check(self, *, inputs: Mapping[str, str]) -> None:
        """Raise an error where one of them cannot be written, before any work is done."""
        others = dict(inputs)
        for name, place, ends in (("--table", self.table, _TABLES), ("--plot", self.plot, PICTURES)):
            if place is None:
                continue
            if os.path.splitext(place)[1].lower() not in ends or "://" in place:
                raise OptionError(name, f"be a path that ends with {' or '.join(ends)}", place, "Rename it.")
            check_place(place, inputs=others, option=name)
            others[name] = place
        if self.plot is not None:
            check_matplotlib("--plot")

    def refuse_existing(self) -> None:
        """Raise an OutputError where something stands at one of the places."""
        for name, place in (("--table", self.table), ("--plot", self.plot)):
            if place is not None:
                refuse_existing(place, option=name)

    def write(self, found: Mapping[str, Any], *, replace: bool) -> None:
        """Write them; with `replace` also where they are there."""
        for place, written in ((self.table, _table), (self.plot, _plot)):
            if place is not None and (replace or not os.path.lexists(place)):
                write_file(place, written(found, os.path.splitext(place)[1].lower()))


def select(
    data: Input,
    output: str,
    comparison: Comparison,
    *,
    table: str | None,
    plot: str | None,
    cluster: Place,
    saving: Saving,
    force: bool,
) -> Result:
    """Return the result of a selection, whose best model is then at `output`."""
    began = perf_counter()
    asked, files = comparison.asked(), Files(table, plot)
    models = [model.options for model in selection_models(comparison.options, **asked)]
    (X, weights), labels = data.open(), data.open_labels()
    errors = data.measured(X)
    beside = places(X, weights, labels, errors)
    saving.check(output, inputs=beside)
    files.check(inputs={**beside, "--output": output})
    identity = identity_of(X, weights, labels, errors)
    now = {"command": "select", "options": comparison.as_json(), "input": identity, **meaning(X)}
    stored = finished_fit(output, now, force=force)
    if stored is not None:
        saving.done_before(output, now, stored)
        return _repeat(skipped(stored, output), files)
    if not force:
        files.refuse_existing()
    check_shape(X, n_components=max(comparison.n_components))

    def run(cluster: Place) -> tuple[Sweep, Result]:
        kept = saving.work(output, now, force=force)
        work = fitting_work(models, X, weights, cluster, labels=labels, errors=errors, contest=True)
        with kept as saved, work.on_machines(began) as running:
            with passes_shown(running.executor) as hear, saved.standing.on(running.where):
                sweep = select_model(
                    X, comparison.options, **asked, stop_early=not comparison.fit_all, weights=weights, labels=labels,
                    errors=errors, executor=running.executor, listener=saved.standing.telling(hear),
                    checkpoint=saved.checkpoint,
                )  # fmt: skip
            found = {
                "command": "select",
                "criterion": sweep.criterion,
                **fit_result(sweep.entries[sweep.best].fit),
                "held_out": sweep.entries[sweep.best].held_out,
                **running.resources(sweep.bytes_read),
                "cached_bytes": sweep.entries[sweep.best].fit.cached_bytes,
                "stopped": dict(sweep.stopped),
                "collapsed": by_kind(sweep.collapsed),
                "table": selection_table(sweep),
                "output": output,
            }
            interrupts.defer()
            _save(sweep, comparison, now, found, overwrite=force)
            saved.done(found)
        return sweep, found

    sweep, found = carried_on(cluster, run)
    say(selection_text(*(found[name] for name in COMPARED), words=command_line_words()))
    say_remarks(sweep.entries[sweep.best].fit)
    files.write(found, replace=force)
    return {**found, "table_output": table, "plot_output": plot, "skipped": False}


def _save(sweep: Sweep, comparison: Comparison, now: Result, found: Result, *, overwrite: bool) -> None:
    """Write the best model as `daskgmm fit` writes it, with what it was compared with."""
    fit = sweep.entries[sweep.best].fit
    alone = {"n_components": found["components"], "covariance_type": found["covariance"]}
    record = model_record(fit, {**now, "options": {**comparison.options.as_json(), **alone}}, found)
    record["selection"] = {
        "asked": now["options"],
        **{name: found[name] for name in COMPARED},
    }
    save_model(Model(fit.parameters, record), found["output"], overwrite=overwrite)


def _repeat(stored: Result, files: Files) -> Result:
    """Return a stored result; table and plot are written where they are not there, for nothing is read for them."""
    with as_written(stored["output"]):
        say(selection_text(*(stored[name] for name in COMPARED), words=command_line_words()))
        files.write(stored, replace=False)
    return {**stored, "table_output": files.table, "plot_output": files.plot}


def _table(found: Mapping[str, Any], end: str) -> bytes:
    if end == ".json":
        return (strict_json(found["table"], indent=2) + "\n").encode()
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(found["table"][0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(found["table"])
    return lines.getvalue().encode()


def _plot(found: Mapping[str, Any], end: str) -> bytes:
    return plot_selection(found["table"], found["criterion"]).encoded(end[1:])
