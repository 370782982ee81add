"""A fit of one mixture to all rows of a source."""

from __future__ import annotations

from collections.abc import Mapping

from daskgmm.errors import OptionError
from daskgmm.fitting.events import Listener, ignore
from daskgmm.fitting.follow import following
from daskgmm.fitting.measured import Measured
from daskgmm.fitting.model import Model
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.result import Fit
from daskgmm.fitting.run import running
from daskgmm.fitting.seen import Past
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.executor import Executor
from daskgmm.sources.source import Source
from daskgmm.stores.checkpoint import Checkpoint


def fit_mixture(
    X: Source,
    options: FitOptions,
    *,
    weights: Source | None = None,
    columns: Mapping[str, Source] | None = None,
    labels: Source | None = None,
    errors: Measured | None = None,
    warm: tuple[Parameters, float] | None = None,
    past: Past | None = None,
    executor: Executor | None = None,
    listener: Listener = ignore,
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """Return the mixture fitted by exact EM to all rows of a source.

    Parameters
    ----------
    X : Source
    options : FitOptions
    weights : Source or None
        Row weights, one for each row of X.
    columns : mapping of str to Source
        What else comes with each row, by name, for a kernel that knows it.
    labels : Source or None
        The class of each row, or -1.
    errors : Measured or None
        Measurement errors of the rows. The mixture is then that of their true values, and the likelihood of the rows.
    warm : (Parameters, float) or None
        Parameters to go on from, and their lower bound; replaces the start.
    past : Past or None
        A mixture of older rows, and what it has seen: they count beside those of X, and are not read. Replaces the
        start; options are those of its own fit.
    executor : Executor or None
        Where passes run; None takes the current distributed client, or this process.
    listener : callable
        Receives a `PassDone` after each pass.
    checkpoint : Checkpoint or None
        Where the state is kept after each pass, and what the fit goes on from. `Checkpoint.at(place)` is
        enough; whoever gives it sees to it that X and options are those that it was begun with, as the commands do (by
        `begin`), and removes it at the end (`Checkpoint.remove(place)`).

    Raises
    ------
    DataError, OptionError, MemoryLimitError, CollapsedComponentError
        Before anything is read where metadata tell it.
    """
    if errors is not None:
        if labels is not None:
            raise OptionError("`labels`", "be left out with `errors`", "both", "Leave `labels` out.")
        options, warm = errors.asked(options, X.n_features), errors.warm(warm)
        columns = {**(columns or {}), **errors.columns}
    models = [Model(options if past is None else following(options, past), warm=warm, past=past)]
    with running(
        models, X, weights=weights, columns=columns, labels=labels, executor=executor, listener=listener,
        checkpoint=checkpoint,
    ) as run:  # fmt: skip
        found = run.fits([0])[0]
    return found if errors is None else errors.of_true_values(found)
