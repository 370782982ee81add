"""How a candidate stands, and what that means to a person."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from daskgmm.errors import worded
from daskgmm.mixture.record import Record


class Status(Record, Enum):
    """How a candidate stands; the value is what result and model file say."""

    RUNNING = "running"
    CONVERGED = "converged"
    STOPPED = "stopped"
    CALLED_OFF = "called_off"
    MAX_ITER = "max_iter"
    FELL = "fell"
    COLLAPSED = "collapsed"
    NOT_FINITE = "not_finite"
    RETIRED = "retired"

    @property
    def is_lost(self) -> bool:
        """Whether the candidate has failed: the others go on, and its mixture is none to end with."""
        return self in (Status.COLLAPSED, Status.NOT_FINITE)

    @property
    def sentence(self) -> str:
        """What the status means, and what to do, in Python's words."""
        return self.worded()

    def worded(self, words: Mapping[str, str] | None = None) -> str:
        """Return the same in an interface's words for names of options."""
        return worded(_SENTENCES[self], words)


_SENTENCES = {
    Status.RUNNING: "The fit goes on.",
    Status.CONVERGED: "The mean log-likelihood changed by less than `tol`.",
    Status.STOPPED: (
        "The stopping rule ended the fit before it converged. Let the rule go on, or leave `stopping` out for `tol`."
    ),
    Status.CALLED_OFF: (
        "A callback ended the fit before it converged. Fit again with `warm_start=True` and without the callback to go "
        "on from there."
    ),
    Status.MAX_ITER: (
        "The fit ended at `max_iter` without converging. Increase `max_iter` or `tol`, or try another start."
    ),
    Status.FELL: (
        "The fit ended at `max_iter` while the log-likelihood fell by more than `tol`: `reg_covar` is large against "
        "the variances, and EM is then no ascent. Decrease `reg_covar`, or rescale the features."
    ),
    Status.COLLAPSED: (
        "A component collapsed: its covariance is singular. Decrease `n_components`, increase `reg_covar`, or rescale "
        "or drop the features that hardly vary."
    ),
    Status.NOT_FINITE: (
        "Sums or parameters of the fit are not finite. Increase `reg_covar`, check the given start, or rescale "
        "features beyond 1e150."
    ),
    Status.RETIRED: (
        "Another restart was ahead on held-out rows of the sample, and this one was given up. Increase `start_rows` to "
        "compare restarts on more rows."
    ),
}
