"""What a model says of rows as a whole, as commands: log-likelihood and criteria, and which components are groups."""

from __future__ import annotations

from time import perf_counter

from daskgmm.cli.input import Input, note_errors, note_weights
from daskgmm.cli.jobs import Result
from daskgmm.cli.work import Work
from daskgmm.errors import OptionError
from daskgmm.fitting.device_options import not_of_rows
from daskgmm.fitting.grouped import grouped_components, grouping_need
from daskgmm.fitting.measured import Measured
from daskgmm.fitting.score import check_features, score_source, scoring_need
from daskgmm.fitting.standard_errors import standard_errors
from daskgmm.mixture.criteria import warn_of_small_weight
from daskgmm.mixture.variational import Posterior
from daskgmm.passes.rows import Rows
from daskgmm.places.place import Place
from daskgmm.stores.model_file import load_model


def score(model: str, data: Input, *, errors: bool, cluster: Place, device: str = "cpu") -> Result:
    """Return how well a model describes rows, and with `errors` the standard errors of its parameters."""
    began = perf_counter()
    fitted = load_model(model)
    parameters = fitted.parameters
    X, weights = data.open(names=fitted.record.get("feature_names"))
    note_weights(fitted.record, weights)
    check_features(X, parameters, units=fitted.record.get("units"), names=fitted.record.get("feature_names"))
    of, non_finite = data.measured(X) or Measured(), data.treatment(fitted.record)
    note_errors(fitted.record, of)
    if errors and of.are_given:
        raise OptionError(
            "--standard-errors", "be left out with `errors`", "both", "Standard errors are of rows that are exact."
        )
    where = cluster.for_device("cpu" if not_of_rows(of.kernel, non_finite) else device)
    work = Work(Rows.plan(X, weights, of.columns), scoring_need(parameters, X, of), where)
    with work.on_machines(began) as running:
        found = score_source(
            parameters, X, weights=weights, errors=of, non_finite=non_finite, executor=running.executor, device=device
        )
        known = None
        if errors:
            known = standard_errors(parameters, X, weights=weights, non_finite=non_finite, executor=running.executor)
        resources = running.resources(found.bytes_read * (1 + errors))
    warn_of_small_weight(found.weight, found.n_weighted)
    return {
        "command": "score",
        "status": "done",
        "log_likelihood": found.log_likelihood,
        "mean_log_likelihood": found.mean_log_likelihood,
        **({} if isinstance(parameters, Posterior) else {"aic": found.aic, "bic": found.bic}),
        "rows": found.n_rows,
        "dropped_rows": found.n_dropped,
        "weight": found.weight,
        "n_passes": found.n_passes + errors,
        **({} if known is None else {"standard_errors": known.as_json()}),
        **resources,
    }


def combine(model: str, data: Input, *, n_groups: int | None, cluster: Place) -> Result:
    """Return the group of each component of a model, where components together are groups."""
    began = perf_counter()
    fitted = load_model(model)
    p = fitted.parameters
    X, weights = data.open(names=fitted.record.get("feature_names"))
    note_weights(fitted.record, weights)
    check_features(X, p, units=fitted.record.get("units"), names=fitted.record.get("feature_names"))
    if n_groups is not None and n_groups > p.n_components:
        raise OptionError("--groups", f"be at most the number of components, {p.n_components}", n_groups)
    non_finite = data.treatment(fitted.record)
    with Work(Rows.plan(X, weights), grouping_need(p, X), cluster).on_machines(began) as running:
        found = grouped_components(
            p, X, weights=weights, n_groups=n_groups, non_finite=non_finite, executor=running.executor
        )
        resources = running.resources(X.n_rows * X.n_features * X.dtype.itemsize)
    return {
        "command": "combine",
        "status": "done",
        "groups": found.groups.tolist(),
        "entropies": list(found.entropies),
        **resources,
    }
