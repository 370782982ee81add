"""What each pass found for each candidate, as records, and what a listener is told of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import perf_counter
from typing import Any

import numpy as np

from daskgmm.fitting.events import Listener, PassDone
from daskgmm.fitting.loop import Candidate
from daskgmm.fitting.status import Status
from daskgmm.kernels.folds import Fold
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import finite_or_none
from daskgmm.mixture.scaling import Scaling

#: A start says how far it has come where nothing was said for so long.
_SILENT_SECONDS = 5.0
#: The keys of a record, in order.
COLUMNS = (
    "pass", "what", "candidate", "mean_log_likelihood", "change", "step", "accepted", "status", "rows", "seconds",
    "n_bytes",
)  # fmt: skip


class History:
    """The records of the models of a run.

    A record has the keys of `COLUMNS`. `pass` is the number of passes over the input so far; `what` is "survey",
    "search" (a round of k-means||), "start" (EM on the sample: the pass is the one before, nothing is read), "em" or
    "closing"; `rows` the rows that the pass visited for the candidate; `mean_log_likelihood` that of the parameters
    that went in, nats, and `step` the step length that led to them, 1 for a plain EM step. None stands where there is
    no finite number.

    Parameters
    ----------
    listener : callable
    n_models, n_rows, n_bytes : int
        Models of the run; rows and decoded bytes of a pass.
    n_passes : int
        Passes before the first.
    """

    def __init__(self, listener: Listener, *, n_models: int, n_rows: int, n_bytes: int, n_passes: int) -> None:
        self._listener, self._n_rows, self._n_bytes = listener, n_rows, n_bytes
        self.n_passes = n_passes
        self.of_model: list[list[dict[str, Any]]] = [[] for _ in range(n_models)]
        self._noted: dict[tuple[int, int], int] = {}
        self._closed: list[str] = []
        #: How passes see the rows mapped: what is noted and told is in units of the data. What that takes of the mean
        #: log-likelihood, nats, of all rows and of those outside of each fold.
        self.scaling: Scaling | None = None
        self.volumes: dict[Fold | None, float] = {}
        self._sampled_rows, self._sampled_seconds, self._told = 0, 0.0, perf_counter()

    def state(self) -> dict[str, Any]:
        """Return all of it as it is now, for a checkpoint."""
        of_model = [list(records) for records in self.of_model]
        return {"n_passes": self.n_passes, "of_model": of_model, "noted": list(self._noted.items()),
                "closed": list(self._closed)}  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; a ValueError where it is none of so many models."""
        of_model: list[list[dict[str, Any]]] = [[dict(record) for record in records] for records in state["of_model"]]
        if len(of_model) != len(self.of_model) or not all(map(_is_record, (r for rs in of_model for r in rs))):
            raise ValueError("a history of other models")
        self.n_passes, self.of_model, self._noted = int(state["n_passes"]), of_model, dict(state["noted"])
        self._closed = [str(name) for name in state.get("closed", [])]

    def read(self, what: str, seconds: float, models: Iterable[int]) -> None:
        """Note a pass for some models before they have candidates: the survey, or a round of k-means||."""
        self.n_passes += 1
        record = self._record(what, None, self._n_rows, seconds, self._n_bytes)
        for i in models:
            self.of_model[i].append(record)
        self._tell(what, seconds)

    def sampled(self, model: int, candidates: Sequence[Candidate], n_rows: int, seconds: float) -> None:
        """Note a pass over rows of the sample for candidates of one model."""
        self.of_model[model] += [self._record("start", c, n_rows, seconds, 0) for c in candidates]
        self._sampled_rows += n_rows * len(candidates)
        self._sampled_seconds += seconds
        if perf_counter() - self._told >= _SILENT_SECONDS:
            self._tell_of_start(candidates[0], ended=False)

    def started(self, best: Candidate) -> None:
        """Tell of the end of all passes over the sample, and of the candidate that goes on."""
        self._tell_of_start(best, ended=True)
        self._sampled_rows, self._sampled_seconds = 0, 0.0

    def _tell_of_start(self, best: Candidate, *, ended: bool) -> None:
        self._told = perf_counter()
        o = best.options
        name = f"{o.n_components} {o.covariance_type}" if len(self.of_model) > 1 else ""
        bound = self._nats(best.lower_bound, best) if ended else None
        self._listener(
            PassDone(
                self.n_passes, "start", self._sampled_rows, 0, self._sampled_seconds, bound, n_running=1, model=name,
                ended=ended, parameters=self._units(best.parameters),
            )
        )  # fmt: skip

    def passed(self, n_passes: int, seconds: float, found: Iterable[tuple[int, Candidate]]) -> bool:
        """Note an EM pass (in waves: several) for some models' candidates; those that ended before are left out.

        Returns whether the listener calls the fit off.
        """
        self.n_passes += n_passes
        took_part = []
        for model, candidate in found:
            if candidate.n_passes > self._noted.get((model, candidate.index), 0):
                self._noted[model, candidate.index] = candidate.n_passes
                self.of_model[model].append(self._record("em", candidate, self._n_rows, seconds, self._n_bytes))
                took_part.append(candidate)
        # (The likelihood of a candidate rises without bound before it collapses.)
        alive = [c for c in took_part if not c.status.is_lost] or took_part
        shown = max(alive, key=lambda c: c.lower_bound)
        running = [c for c in took_part if c.status is Status.RUNNING]
        left = [c.passes_left for c in running]
        known = [n for n in left if n is not None]
        seconds_left = None if len(known) < len(left) else (max(known, default=0) + 1) * seconds
        return self._tell(
            "em", seconds, self._nats(shown.lower_bound, shown) if shown.lower_bounds else None,
            change=finite_or_none(shown.change), n_running=len(running), remaining_seconds=seconds_left,
            n_iter=shown.n_iter, parameters=self._units(shown.parameters),
        )  # fmt: skip

    def given_up(self, found: Iterable[tuple[int, Candidate]]) -> None:
        """Note in their last records which candidates have retired, or been called off."""
        for model, candidate in found:
            own = (r for r in reversed(self.of_model[model]) if r["candidate"] == candidate.index)
            next(own)["status"] = candidate.status.value

    def closed(self, name: str, n_passes: int, seconds: float, found: Iterable[tuple[int, Candidate, float]]) -> None:
        """Note a closing pass of this name: the mean log-likelihood that it found for each candidate.

        What goes on from a checkpoint comes by the closing passes before it again, which are in its history.
        """
        if name in self._closed:
            return
        self._closed.append(name)
        self.n_passes += n_passes
        best, shown = -np.inf, None
        for model, candidate, mean_log_likelihood in found:
            record = self._record("closing", candidate, self._n_rows, seconds, self._n_bytes)
            nats = finite_or_none(self._nats(mean_log_likelihood, candidate))
            record |= {"mean_log_likelihood": nats, "change": None, "step": None}
            self.of_model[model].append(record)
            if shown is None or mean_log_likelihood > best:
                best, shown = mean_log_likelihood, candidate
        units = None if shown is None else self._units(shown.parameters)
        self._tell("closing", seconds, self._nats(best, shown), parameters=units)

    def _record(self, what: str, c: Candidate | None, rows: int, seconds: float, n_bytes: int) -> dict[str, Any]:
        values: tuple[Any, ...] = (None,) * 6
        if c is not None:
            status = c.status.value
            values = (
                c.index,
                finite_or_none(self._nats(c.objective, c)),
                finite_or_none(c.change),
                finite_or_none(c.step),
                c.accepted,
                status,
            )
        return dict(zip(COLUMNS, (self.n_passes, what, *values, rows, seconds, n_bytes), strict=True))

    def _nats(self, mean_log_likelihood: float, c: Candidate | None) -> float:
        return mean_log_likelihood - self.volumes.get(None if c is None else c.fold, 0.0)

    def _units(self, p: Parameters) -> Parameters:
        return p if self.scaling is None else self.scaling.back(p)

    def _tell(self, what: str, seconds: float, mean_log_likelihood: float | None = None, **others: Any) -> bool:
        self._told = perf_counter()
        event = PassDone(self.n_passes, what, self._n_rows, self._n_bytes, seconds, mean_log_likelihood, **others)
        return bool(self._listener(event))


def _is_record(found: dict[str, Any]) -> bool:
    return set(found) == set(COLUMNS) and all(isinstance(v, str | int | float | None) for v in found.values())
