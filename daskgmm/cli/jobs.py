"""What each command does, from its options to the JSON object of its result."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from daskgmm.cli.given_start import Begun
from daskgmm.cli.input import Input, identity_of, meaning
from daskgmm.cli.outputs import check_place, finished_array, finished_fit, group_around
from daskgmm.cli.passes_shown import passes_shown
from daskgmm.cli.saving import Saving
from daskgmm.cli.terminal import command_line_words
from daskgmm.cli.work import Work
from daskgmm.errors import worded
from daskgmm.fitting.checks import check_shape
from daskgmm.fitting.device_options import not_on_a_card
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.measured import Measured
from daskgmm.fitting.need import fit_need
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.result import Fit
from daskgmm.fitting.run import column_of_labels
from daskgmm.fitting.status import Status
from daskgmm.mixture.criteria import warn_of_small_weight
from daskgmm.mixture.record import finite_or_none
from daskgmm.passes.provenance import provenance
from daskgmm.passes.rows import Rows
from daskgmm.pictures.draw import feature_names_of
from daskgmm.pictures.known import known_of
from daskgmm.pictures.report import condition_numbers, posterior_record
from daskgmm.places.log import say
from daskgmm.places.lost import carried_on
from daskgmm.places.machines import peak_bytes
from daskgmm.places.place import Place
from daskgmm.places.signals import interrupts
from daskgmm.sources.source import Source
from daskgmm.stores.model_file import Model, as_written, checksum, load_model, save_model
from daskgmm.stores.model_record import support_record
from daskgmm.stores.parquet_parts import check_kind
from daskgmm.stores.samples import write_sample

Result = dict[str, Any]


def fit(
    data: Input, output: str, options: FitOptions, *, cluster: Place, saving: Saving, force: bool,
    begun: Begun,
) -> Result:  # fmt: skip
    """Return the result of a fit, whose model is then at `output`; `begun` has the model that it begins with."""
    began = perf_counter()
    (X, weights), labels = data.open(names=begun.record.get("feature_names")), data.open_labels()
    warm, command = None if begun.warm is None else (begun.warm, -np.inf), begun.command
    inputs, errors = begun.check(X, weights), data.measured(X)
    saving.check(output, inputs=places(X, weights, labels, errors) | inputs)
    identity = identity_of(X, weights, labels, errors)
    now = {"command": command, "options": options.as_json(), "input": identity, **meaning(X)}
    stored = finished_fit(output, now, force=force)
    if stored is not None:
        saving.done_before(output, now, stored)
        return skipped(stored, output)
    check_shape(X, n_components=options.least_rows, given=options.any_given)

    def run(cluster: Place) -> tuple[Fit, Result]:
        kept = saving.work(output, now, force=force)
        given = begun.warm is not None
        work = fitting_work([options], X, weights, cluster, labels=labels, errors=errors, given=given)
        with kept as saved, work.on_machines(began) as running:
            with passes_shown(running.executor) as hear, saved.standing.on(running.where):
                done = fit_mixture(
                    X, options, weights=weights, labels=labels, errors=errors, executor=running.executor,
                    listener=saved.standing.telling(hear), checkpoint=saved.checkpoint, warm=warm,
                )  # fmt: skip
            found = {
                "command": command,
                **fit_result(done),
                **running.resources(done.bytes_read),
                "cached_bytes": done.cached_bytes,
                "output": output,
            }
            interrupts.defer()
            save_model(Model(done.parameters, model_record(done, now, found)), output, overwrite=force)
            saved.done(found)
        return done, found

    done, found = carried_on(cluster, run)
    say_remarks(done)
    return {**found, "skipped": False}


def fitting_work(
    models: Sequence[FitOptions],
    X: Source,
    weights: Source | None,
    cluster: Place,
    *,
    labels: Source | None = None,
    errors: Measured | None = None,
    given: bool = False,
    contest: bool = False,
) -> Work:
    """Return the work of fitting some models in the same passes; `given` and `contest` as for `fit_need`."""
    errors = errors or Measured()
    beside = {**column_of_labels(models, X, labels), **errors.columns}
    asked = [errors.asked(options, X.n_features) if errors.are_given else options for options in models]
    n_columns = sum(column.n_features for column in beside.values())
    rows = Rows.plan(X, weights, beside).checked(models[0].non_finite)
    need = fit_need(asked, X, n_columns=n_columns, labels=labels is not None, given=given, contest=contest)
    # (What no card does is told where the fit begins; processors then have as many workers as ever.)
    device = "cpu" if beside or any(map(not_on_a_card, asked)) else models[0].device
    return Work(rows, need, cluster.for_device(device), cache=models[0].cache)


def sample(model: str, output: str, *, n_rows: int, seed: int, labels: str | None, force: bool) -> Result:
    """Return the result of drawing rows, which are then at `output`, and their components at `labels`."""
    began = perf_counter()
    fitted = load_model(model)
    parameters = fitted.parameters
    check_place(output, inputs={"MODEL": model})
    check_kind(output, option="--output")
    now = {"command": "sample", "model": checksum(parameters), "rows": n_rows, "seed": seed}
    stored = finished_array(output, {**now, "array": "rows"}, force=force)
    if labels is not None:
        check_place(labels, inputs={"MODEL": model, "--output": output}, option="--labels")
        check_kind(labels, option="--labels")
        stored_labels = finished_array(labels, {**now, "array": "labels"}, force=force, option="--labels")
        stored = None if stored_labels is None else stored
    if stored is not None:
        return {**skipped(stored, output), "labels": labels}
    say(f"Drawing {n_rows:,} rows of {parameters.n_features} features from {parameters.n_components} components.")
    found: Result = {}

    def result() -> Result:
        interrupts.defer()
        found.update(
            command="sample",
            status="done",
            rows=n_rows,
            features=parameters.n_features,
            seed=seed,
            seconds=perf_counter() - began,
            peak_bytes=peak_bytes(),
            output=output,
            labels=labels,
        )
        return found

    names = fitted.record.get("feature_names")
    write_sample(parameters, n_rows, output, labels=labels, seed=seed, record=now, names=names, result=result)
    return {**found, "skipped": False}


def inspect(model: str, *, history: bool = False) -> Result:
    """Return what a model file says; with `history` the record of each pass of its fit too."""
    found = load_model(model)
    p = found.parameters
    with as_written(model):
        about = {**(found.record.get("about") or {}), "known": known_of(found.record, feature_names_of(found))}
    return {
        "command": "inspect",
        "model": model,
        "covariance": p.family.name,
        "components": p.n_components,
        "features": p.n_features,
        "feature_names": found.record.get("feature_names"),
        "free_parameters": p.n_free,
        **posterior_record(p, found.record),
        "weights": p.weights.tolist(),
        **({} if p.noise is None else {**p.noise.record, "noise": str(p.noise)}),
        **about,
        "means": p.means.tolist(),
        "condition_numbers": condition_numbers(p).tolist(),
        "checksum": checksum(p),
        **{name: found.record.get(name) for name in ("options", "input", "result", "provenance")},
        "log_likelihood": found.record.get("log_likelihood"),
        **{name: found.record.get(name) for name in ("support", "counts", "remarks")},
        **{name: found.record.get(name) for name in ("n_dropped", "n_dropped_by_feature")},
        "converged": found.record.get("converged"),
        "n_iter": found.record.get("n_iter"),
        "selection": found.record.get("selection"),
        "updates": found.record.get("updates"),
        **({"history": found.record.get("history", [])} if history else {}),
    }


def places(
    X: Source, weights: Source | None, labels: Source | None = None, errors: Measured | None = None
) -> dict[str, str]:
    """Return where a model must not be: in an input, or in its group, among whose arrays it would then stand."""
    found = {}
    of_errors = None if errors is None else errors.column
    for name, source in (("INPUT", X), ("--weights", weights), ("--labels", labels), ("--errors", of_errors)):
        if source is not None:
            found[name] = source.label
            found[f"the Zarr group of {name}"] = group_around(source.root)
    return found


def fit_result(done: Fit) -> Result:
    """Return what a fit found, as a part of a result."""
    warn_of_small_weight(done.weight, done.n_weighted)
    p = done.parameters
    return {
        "status": done.status.value,
        "converged": done.status is Status.CONVERGED,
        "n_iter": done.n_iter,
        "n_passes": done.n_passes,
        "mean_log_likelihood": done.mean_log_likelihood,
        "log_likelihood": done.log_likelihood,
        "lower_bound": done.lower_bound,
        "entropy": done.seen.entropy,
        **_compared(done),
        "components": p.n_components,
        "covariance": p.family.name,
        **({} if p.noise is None else p.noise.record),
        "features": p.n_features,
        "rows": done.n_rows,
        "dropped_rows": done.n_dropped,
        "dropped_rows_by_feature": list(done.n_dropped_by_feature),
        "weight": done.weight,
        **support_record(done.support),
        "unsupported": list(done.spikes),
        **done.about,
        "remarks": list(map(worded, done.remarks)),
    }


def _compared(done: Fit) -> Result:
    """Return what a fit is compared by: of a posterior, what there is in the place of information criteria."""
    if done.n_effective is None:
        return {"bic": done.bic, "aic": done.aic, "icl": done.icl}
    return {"bound": done.bound, "effective_components": done.n_effective}


def say_remarks(done: Fit) -> None:
    """Log warnings, with remedies, where a fit has not converged, or holds what a person should know."""
    if done.remarks:
        say(worded(" ".join(done.remarks), command_line_words()), level=logging.WARNING)
    if done.status is not Status.CONVERGED:  # (last, as the reason of the exit code)
        say(done.status.worded(command_line_words()), level=logging.WARNING)


def model_record(done: Fit, now: Result, found: Result) -> Result:
    """Return the record of a model file: what `GaussianMixture.load` reads, and what the same command needs again."""
    return {
        **now,
        "result": found,
        "converged": done.status is Status.CONVERGED,
        "lower_bound": finite_or_none(done.lower_bound),
        "lower_bounds": list(done.lower_bounds),
        "log_likelihood": done.log_likelihood,
        "n_iter": done.n_iter,
        "n_passes": done.n_passes,
        "n_dropped": done.n_dropped,
        "n_dropped_by_feature": list(done.n_dropped_by_feature),
        **support_record(done.support),
        "unsupported": list(done.spikes),
        "remarks": list(map(worded, done.remarks)),
        "seen": done.seen.as_json(),
        "drift": done.drift,
        "about": done.about,
        "history": list(done.history),
        "provenance": {**provenance(), **done.provenance},
    }


def skipped(stored: Result, output: str) -> Result:
    """Return the result that was stored with a complete output, and say that there is nothing to do."""
    say(f"{output} is complete, from the same input and options: nothing to do (--force does it again).")
    return {**stored, "output": output, "skipped": True}
