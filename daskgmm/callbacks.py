"""scikit-learn's callbacks (`sklearn.callback`, from 1.9 on): each pass of a fit is a task of theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from daskgmm.errors import OptionError
from daskgmm.exchange import attributes_of
from daskgmm.fitting.events import Listener, PassDone, ignore

#: Tasks of a fit beside its iterations, at most: survey, counting of rows, rounds of a search, start, closing pass.
_OTHER_TASKS = 20


class CallbackSupport:
    """Gives an estimator `set_callbacks`; scikit-learn's own mixin would be imported with every estimator."""

    def set_callbacks(self, *callbacks: Any) -> Self:
        """Set the callbacks of scikit-learn that a fit calls, and return the estimator; none takes them away.

        Each pass is a task: "survey", "search", "start", "em" and "closing", begun and ended once it is done. A
        callback gets X, y and `sample_weight` as they were given to `fit`, and is told of a mixture that is ready to
        predict, with `lower_bound_` and `n_iter_`, where it asks for `fitted_estimator`. If one returns True at the
        end of an "em" pass, the fit ends there: not converged, and "called_off" in `history_`.

        Raises
        ------
        OptionError
            scikit-learn is older than 1.9.
        """
        try:
            from sklearn.callback import CallbackSupportMixin
        except ImportError as error:
            from sklearn import __version__

            raise OptionError(
                "scikit-learn", "be 1.9 or newer for callbacks", __version__, "Run: pip install -U scikit-learn"
            ) from error
        CallbackSupportMixin.set_callbacks(self, *callbacks)
        return self


def call_back(
    estimator: Any, fit: Callable[[Listener], None], X: Any, y: Any, sample_weight: Any, max_iter: int
) -> None:
    """Do a fit, which takes a listener, and call the estimator's callbacks, or those of what it is a part of."""
    if not (hasattr(estimator, "_skl_callbacks") or hasattr(estimator, "_parent_callback_ctx")):
        fit(ignore)
        return
    from sklearn.callback import CallbackSupportMixin, with_callbacks

    metadata = None if sample_weight is None else {"sample_weight": sample_weight}
    given = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}

    def run(estimator: Any) -> None:
        context = CallbackSupportMixin._init_callback_context(estimator, max_subtasks=max_iter + _OTHER_TASKS)
        context.call_on_fit_task_begin(**given)

        def hear(event: PassDone) -> bool:
            if not event.ended:
                return False
            task = context.subcontext(task_name=event.what)
            task.call_on_fit_task_begin(**given)
            p = event.parameters
            attributes = None if p is None else lambda: attributes_of(p) | _outcome(event)
            return bool(task.call_on_fit_task_end(**given, reconstruction_attributes=attributes))

        fit(hear)
        context.call_on_fit_task_end(**given, reconstruction_attributes=dict)

    with_callbacks(run)(estimator)


def _outcome(event: PassDone) -> dict[str, Any]:
    return {"lower_bound_": event.mean_log_likelihood, "n_iter_": event.n_iter, "n_passes_": event.number}
