"""What a fit has found as an estimator has it, from a fit or from a model file: `save` and `load`."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from daskgmm.errors import worded
from daskgmm.exchange import attributes_of
from daskgmm.fitting.follow import seen_in
from daskgmm.fitting.option import declared
from daskgmm.fitting.options import FitOptions
from daskgmm.fitting.options_json import from_json
from daskgmm.fitting.result import Fit
from daskgmm.fitting.seen import Seen
from daskgmm.fitting.status import Status
from daskgmm.kernels.support import Support
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import finite_or_none
from daskgmm.passes.provenance import provenance
from daskgmm.stores.model_file import Model, as_written, load_model, save_model
from daskgmm.stores.model_record import dropped_in, support_in, support_record

#: What a model file says of a fit; a mixture that was set by hand has none of it.
_OF_A_FIT = ("converged_", "lower_bounds_", "log_likelihood_", "n_iter_", "n_passes_", "n_dropped_",
             "n_dropped_by_feature_", "history_")  # fmt: skip


class Saved:
    """Gives an estimator `save` and `load`."""

    options_type: ClassVar[type[FitOptions]]
    parameters_type: ClassVar[type[Parameters]] = Parameters
    support_: Floats
    counts_: Floats
    _seen: Seen | None = None

    @abstractmethod
    def _parameters(self) -> Parameters:
        """Return the mixture."""

    @abstractmethod
    def fit_options(self) -> FitOptions:
        """Return the options of its fit."""

    def _assign(self: Any, fit: Fit) -> None:
        """Take what a fit has found; `_of` has it from a file."""
        self.__dict__ |= attributes_of(fit.parameters)
        self._status = fit.status
        self.converged_ = fit.status is Status.CONVERGED
        self.n_iter_ = fit.n_iter
        self.lower_bound_ = fit.lower_bound
        self.lower_bounds_ = list(fit.lower_bounds)
        self.log_likelihood_ = fit.log_likelihood
        self.n_passes_ = fit.n_passes
        self.n_dropped_, self.n_dropped_by_feature_ = fit.n_dropped, list(fit.n_dropped_by_feature)
        self.support_, self.counts_ = fit.support.nats, fit.support.counts
        self._remarks, self._unsupported = fit.remarks, fit.spikes
        self._seen, self._about, self.drift_, self.entropy_ = fit.seen, fit.about, fit.drift, fit.seen.entropy
        self.history_, self._provenance = list(fit.history), fit.provenance

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the fitted mixture as a Zarr group; whole or not at all."""
        save_model(self._model(), path, overwrite=overwrite)

    def _model(self) -> Model:
        check_is_fitted(self, "means_")
        record = {
            "options": getattr(self, "_fit_options", None) or self.fit_options().as_json(),
            "feature_names": list(getattr(self, "feature_names_in_", ())) or None,
            "units": getattr(self, "units_in_", None),
            **{name.rstrip("_"): getattr(self, name) for name in _OF_A_FIT if hasattr(self, name)},
            **(support_record(Support(self.support_, self.counts_)) if hasattr(self, "support_") else {}),
            **({} if self._seen is None else {"seen": self._seen.as_json()}),
            "drift": getattr(self, "drift_", None),
            "about": getattr(self, "_about", {}),
            "remarks": list(map(worded, getattr(self, "_remarks", ()))),
            "unsupported": list(getattr(self, "_unsupported", ())),
            **({"status": self._status.value} if hasattr(self, "_status") else {}),
            "lower_bound": finite_or_none(getattr(self, "lower_bound_", -np.inf)),
            "provenance": provenance() | getattr(self, "_provenance", {}),
        }
        return Model(self._parameters(), record)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the fitted estimator in a model file, of its class; it runs nothing that is in the file."""
        model = load_model(path)
        with as_written(os.fspath(path)):
            made: Self = cls._of_parameters(model.parameters)._of(model.record, model.parameters)
            return made

    @classmethod
    def _of_parameters(cls, p: Parameters) -> Any:
        """Return the class of estimators that have such parameters: this one if it may be."""
        from daskgmm import BayesianGaussianMixture, GaussianMixture  # (by name, when they are there)

        classes: tuple[Any, ...] = (cls, BayesianGaussianMixture, GaussianMixture)
        return next(c for c in classes if c.parameters_type is type(p))

    @classmethod
    def _of(cls, record: dict[str, Any], p: Parameters) -> Self:
        """Return the estimator of a model file; any exception where its record is not as `save` wrote it."""
        stored = dict(record.get("options", {}))
        known = {name for name, (_, option) in declared(cls.options_type).items() if option.of_estimator}
        options = {k: from_json(v) for k, v in stored.items() if k in known}
        options |= {"n_components": p.n_components, "covariance_type": p.family.name}
        options["random_state"] = stored.get("seed")
        estimator: Any = cls(**options)
        estimator.__dict__ |= attributes_of(p)
        estimator._fit_options = stored
        if (names := record.get("feature_names")) is not None:
            if len(names) != p.n_features or not all(isinstance(name, str) for name in names):
                raise ValueError(f"feature_names that are not {p.n_features} names")
            estimator.feature_names_in_ = np.array(list(names), dtype=object)
        if (units := record.get("units")) is not None:
            estimator.units_in_ = str(units)
        lower_bound = record.get("lower_bound")
        estimator.converged_ = bool(record.get("converged", False))
        estimator.lower_bound_ = -np.inf if lower_bound is None else float(lower_bound)
        estimator.lower_bounds_ = [float(value) for value in record.get("lower_bounds", [])]
        estimator.log_likelihood_ = float(record.get("log_likelihood", np.nan))
        for name in ("n_iter", "n_passes", "n_dropped"):
            setattr(estimator, f"{name}_", int(record.get(name, 0)))
        estimator.n_dropped_by_feature_ = dropped_in(record, p.n_features)
        found = support_in(record, p.n_components)
        estimator.support_, estimator.counts_ = found.nats, found.counts
        estimator._remarks = tuple(str(one) for one in record.get("remarks", []))
        estimator._unsupported = tuple(int(k) for k in record.get("unsupported") or ())
        estimator._about = dict(record.get("about") or {})
        estimator._seen, estimator.drift_ = seen_in(record, p), record.get("drift")
        estimator.entropy_ = np.nan if estimator._seen is None else estimator._seen.entropy
        estimator.history_ = [dict(one) for one in record.get("history", [])]
        made: Self = estimator
        return made
