"""What `daskgmm update` does: a model goes on with new rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

from daskgmm.cli.input import Input, meaning, note_weights
from daskgmm.cli.jobs import fit_result, fitting_work, model_record, places, say_remarks, skipped
from daskgmm.cli.outputs import differences, finished_fit
from daskgmm.cli.passes_shown import passes_shown
from daskgmm.cli.saving import Saving
from daskgmm.cli.terminal import strict_json
from daskgmm.errors import OptionError
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.follow import check_follows, following, options_in, refuse_beside, seen_in, unknown_rows
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.result import Fit
from daskgmm.fitting.score import check_features
from daskgmm.fitting.seen import Past
from daskgmm.mixture.variational import Posterior
from daskgmm.passes.executor import Executor
from daskgmm.places.lost import carried_on
from daskgmm.places.place import Place
from daskgmm.places.signals import interrupts
from daskgmm.sources.joined_source import JoinedSource
from daskgmm.sources.source import Source
from daskgmm.stores.model_file import Model, as_written, checksum, load_model, save_model
from daskgmm.stores.storage import plain_path

Result = dict[str, Any]


def update(
    model: str, data: Input, output: str | None, *, full: Sequence[str], forgetting: float, how: Mapping[str, Any],
    cluster: Place, saving: Saving, force: bool,
) -> Result:  # fmt: skip
    """Return the result of an update by new rows; the model is then at `output`, or in the place of the old one."""
    began = perf_counter()
    fitted = load_model(model)
    p, record = fitted.parameters, fitted.record
    _refuse_posterior(fitted)
    beside = record.get("about") or {}
    if full or forgetting < 1:  # (else old rows count for nothing)
        refuse_beside(beside)
    names, in_place = record.get("feature_names"), output is None or plain_path(output) == plain_path(model)
    output = model if output is None else output
    X, weights = data.open(names=names)
    note_weights(record, weights)
    saving.check(output, inputs=places(X, weights) | ({} if in_place else {"MODEL": model}))
    with as_written(model):
        options, seen = options_in(record, p), seen_in(record, p)
    options = replace(options, non_finite=data.treatment(record), **how)
    old = [_opened(data, place, names) for place in full]
    now = _asked(p, X, weights, old, options, forgetting)
    stored = _done(record, now) if in_place and not force else None
    stored = finished_fit(output, now, force=force) if stored is None and not in_place else stored
    if stored is not None:
        saving.done_before(output, now, stored)
        return skipped(stored, output)
    for each, _ in [(X, weights), *old]:
        check_features(each, p, units=record.get("units"), names=names)
    if not force and not full:
        _refuse_seen(record, X)
    past = None if seen is None else Past(p, seen, forgetting, beside)
    if not full:
        _check(past, options)
    rows, weighed = _joined([*old, (X, weights)]) if old else (X, weights)

    def work(executor: Executor, **telling: Any) -> tuple[Fit, Result | None]:
        if not full:
            done = fit_mixture(rows, options, weights=weighed, past=past, executor=executor, **telling)
            return done, done.drift
        done = fit_mixture(rows, options, weights=weighed, warm=(p, -np.inf), executor=executor, **telling)
        return done, _drift(past, X, weights, options, executor)

    def run(cluster: Place) -> tuple[Fit, Result]:
        kept = saving.work(output, now, force=force)
        with kept as saved, fitting_work([options], rows, weighed, cluster, given=True).on_machines(began) as running:
            with passes_shown(running.executor) as hear, saved.standing.on(running.where):
                done, drift = work(
                    running.executor, listener=saved.standing.telling(hear), checkpoint=saved.checkpoint
                )  # fmt: skip
            found = {
                "command": "update",
                **fit_result(done),
                "forgetting": forgetting,
                "full": list(full),
                "drift": drift,
                **running.resources(done.bytes_read),
                "cached_bytes": done.cached_bytes,
                "output": output,
            }
            interrupts.defer()
            chain = [*_updates(record), _update_record(now, found)]
            made = {**model_record(done, now, found), "drift": drift, "updates": chain}
            save_model(Model(done.parameters, made), output, overwrite=force or in_place)
            saved.done(found)
        return done, found

    done, found = carried_on(cluster, run)
    say_remarks(done)
    return {**found, "skipped": False}


def _asked(
    p: Any, X: Source, weights: Source | None, old: Sequence[tuple[Source, Source | None]], options: FitOptions,
    forgetting: float,
) -> Result:  # fmt: skip
    identity = {"X": X.identity(), "weights": None if weights is None else weights.identity()}
    beside = {"model": {"checksum": checksum(p)}, "old": [each.identity() for each, _ in old]}
    asked = {**options.as_json(), "forgetting": forgetting}
    return {"command": "update", "options": asked, "input": {**identity, **beside}, **meaning(X)}


def _done(record: Mapping[str, Any], now: Result) -> Result | None:
    """Return the stored result where a model is what the same update made of one in its place."""
    if (record.get("result") or {}).get("command") != now["command"]:
        return None

    def asked(of: Mapping[str, Any]) -> Result:
        inputs = {name: value for name, value in of["input"].items() if name != "model"}
        return {"options": of["options"], "input": inputs}

    same = not differences(asked(record), json.loads(strict_json(asked(now))))
    return dict(record["result"]) if same else None


def _check(past: Past | None, options: FitOptions) -> None:
    """Raise an OptionError unless new rows can follow those that a model has seen."""
    if past is None:
        check_follows(options)
        raise unknown_rows("MODEL")
    following(options, past)


def _refuse_posterior(fitted: Model) -> None:
    """Raise an OptionError for a posterior, which no update goes on with."""
    if isinstance(fitted.parameters, Posterior):
        remedy = "Fit old and new rows together, as one INPUT: daskgmm fit with --bayesian."
        must = "be of maximum likelihood where new rows update it"
        raise OptionError("MODEL", must, "one by variational Bayes", remedy)


def _refuse_seen(record: Mapping[str, Any], X: Source) -> None:
    """Raise an OptionError for new rows that the model has been fitted to, or updated by."""
    seen = [record.get("input") or {}, *(one.get("input") or {} for one in _updates(record))]
    this = json.loads(strict_json(X.identity()))
    if any(one.get("X") == this for one in seen):
        raise OptionError(
            "NEW",
            "be rows that MODEL has not seen",
            f"{X.label}, which it has",
            "Name those that are new. (--force counts these once more.)",
        )


def _updates(record: Mapping[str, Any]) -> list[Result]:
    """Return what a model was made of before: its fit, and each update, with its input."""
    found = record.get("updates")
    if isinstance(found, list):
        return [dict(one) for one in found]
    return [{"command": "fit", "input": record.get("input")}]


def _update_record(now: Result, found: Result) -> Result:
    drift = found["drift"] or {}
    brief = {
        name: drift.get(name) for name in ("rows", "weight", "mean", "z", "p_value", "chi_square_p_value", "moves")
    }
    return {"command": "update", "input": now["input"], "forgetting": found["forgetting"], **brief}


def _opened(data: Input, place: str, names: Sequence[str] | None) -> tuple[Source, Source | None]:
    X, weights = replace(data, location=place).open(names=names)
    if weights is not None and weights.label == data.weights:
        raise OptionError(
            "--weights",
            "name a column of each input, with --full",
            f"{data.weights}, a place",
            "Keep the weights as a column beside the features.",
        )
    return X, weights


def _joined(parts: Sequence[tuple[Source, Source | None]]) -> tuple[Source, Source | None]:
    """Return old and new rows as one input."""
    X = [each for each, _ in parts]
    weights = [each for _, each in parts if each is not None]
    label = ", ".join(each.label for each in X)
    rows = JoinedSource(X, label=label)
    return rows, JoinedSource(weights, label=label, argument="sample_weight") if weights else None


def _drift(
    past: Past | None, X: Source, weights: Source | None, options: FitOptions, executor: Executor
) -> Result | None:
    """Return how new rows differ from those before, by passes over them alone."""
    if past is None:
        return None
    still = replace(options, max_iter=0, escape=False, noise=past.parameters.noise or False)
    return fit_mixture(X, still, weights=weights, past=replace(past, forgotten=1.0), executor=executor).drift
