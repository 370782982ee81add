"""What the commands do that write something of each row: `daskgmm predict`, `impute`, `denoise` and `regress`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from daskgmm.cli.input import Input, note_errors
from daskgmm.cli.jobs import Result, skipped
from daskgmm.cli.model_jobs import features_of
from daskgmm.cli.outputs import finished_array
from daskgmm.cli.saving import Saving
from daskgmm.cli.work import Work
from daskgmm.deconvolution import denoiser
from daskgmm.errors import DataError
from daskgmm.estimator import GaussianMixture
from daskgmm.fitting.device import cards_of, device_for
from daskgmm.fitting.device_options import not_of_rows
from daskgmm.fitting.measured import Measured
from daskgmm.fitting.score import check_features
from daskgmm.kernels.device import predictor_on
from daskgmm.kernels.prediction import Predictor, What
from daskgmm.mixture.noise import check_gaps
from daskgmm.mixture.parameters import Parameters
from daskgmm.places.log import say
from daskgmm.places.lost import carried_on
from daskgmm.places.place import Place
from daskgmm.places.signals import interrupts
from daskgmm.sources.parquet_kept import KeptColumns
from daskgmm.sources.source import Source
from daskgmm.stores.model_file import Model, checksum, load_model
from daskgmm.stores.output import Written, plan_predictions, write_predictions
from daskgmm.stores.parquet_parts import check_kind, is_parquet


@dataclass(frozen=True)
class Asked:
    """What is to be written of each row.

    Attributes
    ----------
    what : What
    keep : sequence of str, or None
        Columns of the input that come before it.
    given : tuple of str
        The features that the rows have, where the others are predicted.
    device : {"cpu", "cuda", "auto"}
        What computes.
    """

    what: What
    keep: Sequence[str] | None = None
    given: tuple[str, ...] = ()
    device: str = "cpu"

    @property
    def command(self) -> str:
        """The command that does it."""
        return {"impute": "impute", "denoise": "denoise", "features": "regress"}.get(self.what, "predict")


def predict(
    model: str, data: Input, output: str, asked: Asked, *, cluster: Place, saving: Saving, force: bool
) -> Result:
    """Return the result of predicting for all rows; what is predicted is then at `output`."""
    began = perf_counter()
    fitted = load_model(model)
    non_finite, known = data.treatment(fitted.record), _Known.of(model, fitted, asked)
    X, _ = data.open(names=known.names)
    errors = data.measured(X) or Measured()
    beside = {"--errors": errors.column.label} if errors.column is not None and errors.column.label != X.label else {}
    saving.check(output, inputs={"MODEL": model, "INPUT": X.places, **beside})  # (labels may join its group)
    check_kind(output, option="--output")
    check_gaps(fitted.parameters.noise, non_finite)
    errors.check_gaps(non_finite)
    columns = None if asked.keep is None else X.kept(asked.keep)
    now = _identity(asked, fitted, X, errors, columns, non_finite)
    stored = finished_array(output, now, force=force)
    if stored is not None:
        saving.done_before(output, now, stored)
        return skipped(stored, output)
    if asked.command == "predict":
        note_errors(fitted.record, errors)
    check_features(X, known.parameters, units=fitted.record.get("units"), names=known.names)

    predictor = known.predictor(asked.what, errors)
    rows, need = plan_predictions(predictor, X, output, columns, errors.columns)
    _say_order(X, output)

    why = not_of_rows(errors.kernel, non_finite)

    def run(cluster: Place) -> Result:
        kept = saving.work(output, now, force=force)
        found: Result = {}
        device = "cpu" if why else asked.device
        work = Work(rows.checked(non_finite), replace(need, device=device), cluster.for_device(device))
        with kept as saved, work.on_machines(began) as running, saved.checkpoint.going_on():

            def result(written: Written) -> Result:
                found.update(_result(asked, written, running.resources(written.bytes_read), output))
                interrupts.defer()
                return found

            cards, shapes = cards_of(running.rows, running.executor), [predictor.plan.shape]
            on = device_for(asked.device, why, shapes, cards, running.need, X.n_features)
            try:
                with saved.standing.on(running.where):
                    write_predictions(
                        predictor_on(on.name, predictor), X, output, record=now, columns=errors.columns, result=result,
                        non_finite=non_finite, executor=running.executor, saved=saved.checkpoint, kept=columns,
                    )  # fmt: skip
            except DataError:
                saved.remove()
                raise
            saved.done(found)
        return found

    return {**carried_on(cluster, run), "skipped": False}


def _identity(
    asked: Asked, fitted: Model, X: Source, errors: Measured, columns: KeptColumns | None, non_finite: str
) -> Result:
    """Return what an output is made of: the same command, run again, has the same."""
    return {
        "command": asked.command,
        "model": checksum(fitted.parameters),
        "what": asked.what,
        "non_finite": non_finite,
        "keep": None if columns is None else list(columns.names),
        **({"given": list(asked.given)} if asked.given else {}),
        "input": {"X": X.identity(), **({"errors": errors.identity()} if errors.are_given else {})},
        **({} if asked.device == "cpu" else {"device": asked.device}),
    }


def _result(asked: Asked, written: Written, resources: Result, output: str) -> Result:
    return {
        "command": asked.command,
        "status": "done",
        "what": asked.what,
        "rows": written.n_rows,
        "dropped_rows": written.n_dropped,
        "rows_by_component": list(written.counts) or None,
        "n_passes": written.n_passes,
        **resources,
        "output": output,
    }


@dataclass(frozen=True)
class _Known:
    """What a model says of the features that rows have.

    Attributes
    ----------
    parameters : Parameters
        Of these features.
    names : list of str, or None
    by : Predictor or None
        What predicts the others from them, where these are asked for.
    """

    parameters: Parameters
    names: list[str] | None
    by: Predictor | None = None

    @classmethod
    def of(cls, model: str, fitted: Model, asked: Asked) -> _Known:
        names = fitted.record.get("feature_names")
        if not asked.given:
            return cls(fitted.parameters, names)
        gm = GaussianMixture.load(model)
        given, marginal, by = gm._regression(features_of(gm, asked.given, given=True))
        return cls(marginal, None if names is None else [names[j] for j in given], by)

    def predictor(self, what: What, errors: Measured) -> Predictor:
        """Return what predicts for rows with these errors, or without."""
        if self.by is not None:
            return self.by
        if what == "denoise":
            return denoiser(self.parameters, errors)
        return Predictor.of(errors.seen(self.parameters), what, kernel=errors.kernel)


def _say_order(X: Source, output: str) -> None:
    """Log in which order the points of a grid stand in a table."""
    if is_parquet(output) and X.grid is not None and len(X.grid.shape) > 1:
        say(
            f"Rows are the points of a grid of shape {X.grid.shape}, chunk by chunk, and so are those of the table. "
            "A Zarr output has its shape, and its coordinates."
        )
