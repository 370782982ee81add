"""Estimators that go on with new rows: `partial_fit`."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

from daskgmm.callbacks import call_back
from daskgmm.fitting.events import Listener
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.follow import check_forgetting, unknown_rows
from daskgmm.fitting.seen import Past
from daskgmm.inputs import opened_rows, opened_weights, printing, warn_of, warn_unless_converged
from daskgmm.saved import Saved


class Updatable(Saved):
    """Gives an estimator `partial_fit`."""

    verbose: int
    verbose_interval: int
    max_iter: int
    n_iter_: int

    def partial_fit(self, X: Any, y: Any = None, *, sample_weight: Any = None, forgetting: float = 0.0) -> Self:
        """Return the estimator, updated by new rows: those before count as they did, and are not read again.

        The first call is `fit`; so may be any before it.

        Parameters
        ----------
        X, y, sample_weight
            As `fit` takes them: the new rows alone.
        forgetting : float, default=0.0
            Share of each old row that no longer counts from now on: 0 keeps all, 1 none (then it is a fit to the new
            rows that starts from the mixture). With 0.1 a night, rows of seven nights ago count half.

        Notes
        -----
        Incremental EM (Neal and Hinton 1998, doi:10.1007/978-94-011-5014-9_12): the sums of the old rows follow from
        the mixture, and stay, while passes over the new rows take theirs anew. The free energy of all rows rises with
        each step. Where old rows would move between components it is not quite the fit to all rows; `fit` with
        `warm_start` on all of them, now and then, is. `log_likelihood_` and `lower_bound_` are of all rows, and bound
        theirs from below.

        Where new rows form a group that no component explains, two old components become one and the other goes
        there, if BIC pays (with `escape`, on a sample of the new rows). `drift_` says how the rows differ from those
        before.

        Raises
        ------
        daskgmm.errors.OptionError
            The sums do not follow from the mixture: it has a prior, `standardize`, a family or a kernel of your own.
        """
        share = check_forgetting(forgetting)
        if not hasattr(self, "means_"):
            found: Self = self.fit(X, y, sample_weight=sample_weight)  # type: ignore[attr-defined]
            return found
        before = self.__dict__.copy()
        try:
            call_back(self, partial(self._follow, X, sample_weight, share), X, y, sample_weight, self.max_iter)
        except BaseException:
            self.__dict__ = before
            raise
        if self.max_iter > 0:
            warn_unless_converged(self._status, self.n_iter_, stacklevel=2)
        warn_of(self._remarks, stacklevel=2)
        return self

    def _follow(self, X: Any, sample_weight: Any, forgetting: float, hear: Listener) -> None:
        options, listener = self.fit_options(), printing(self.verbose, self.verbose_interval, also=hear)
        seen, p = self._seen, self._parameters()
        if seen is None:
            raise unknown_rows("the estimator")
        source, weights = opened_rows(self, X, reset=False), opened_weights(sample_weight)
        past = Past(p, seen, forgetting, getattr(self, "_about", {}))
        self._assign(fit_mixture(source, options, weights=weights, past=past, listener=listener))
        self._fit_options = options.as_json()
