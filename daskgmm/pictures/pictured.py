"""What a mixture shows of itself: pictures, and in a notebook its components as a table."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from daskgmm.inputs import opened_rows, opened_weights

if TYPE_CHECKING:
    from daskgmm.pictures.picture import Picture


class Pictured:
    """The part of an estimator that a person looks at."""

    def plot(
        self,
        kind: str = "corner",
        X: Any = None,
        *,
        only: Sequence[str | int] | None = None,
        sample_weight: Any = None,
        path: str | os.PathLike[str] | None = None,
    ) -> Picture:
        """Return a picture of the fitted mixture: a figure of matplotlib, which a notebook shows.

        In a script, give a path, or call the figure's `savefig` or `show`.

        Parameters
        ----------
        kind : {"corner", "weights", "history"}, default="corner"
            corner: the density of each feature on the diagonal; below it, for every two features, each component as
            ellipses of 1 and 2 standard deviations, which hold 39.3 % and 86.5 % of it. They are exact marginals. The
            axes are those of the package corner: `corner.corner(samples, fig=figure)` draws over them.
            weights: the rows of each component. history: the mean log-likelihood of each restart by pass.
        X : array, Dask array, Zarr array, path or URL, optional
            Rows to draw the corner plot over, as for `fit`. One pass takes a sample of about 20,000.
        only : sequence of str or int, optional
            Features of the corner plot: their names, or their numbers from 0. Default: all up to five, else the five in
            which components differ most, by the variance of the means between components over the mean variance within.
        sample_weight : optional
            Of the rows of X, as for `fit`.
        path : path, optional
            Where to write the picture; the end of its name says its format, such as .png.

        Raises
        ------
        OptionError
            matplotlib is missing, or there is no such kind or feature.
        """
        from daskgmm.fitting.glance import glance
        from daskgmm.pictures.draw import check_drawn, draw

        estimator: Any = self
        model = estimator._model()
        check_drawn(model, kind, only=only, rows=X is not None or sample_weight is not None)
        sample = None
        if X is not None:
            rows, weights = opened_rows(estimator, X, reset=False), opened_weights(sample_weight)
            sample = glance(model.parameters, rows, weights=weights, non_finite=estimator.non_finite)
        figure = draw(model, kind, only=only, sample=sample)
        if path is not None:
            figure.write(path)
        return figure

    # What a notebook shows: scikit-learn's diagram (unless that is switched off); below it a fitted mixture as a table.
    @property
    def _repr_html_(self) -> Callable[[], str]:
        diagram = super()._repr_html_  # type: ignore[misc]
        return lambda: diagram() + self._fitted_html()

    def _repr_mimebundle_(self, **keywords: Any) -> dict[str, str]:
        bundle: dict[str, str] = super()._repr_mimebundle_(**keywords)  # type: ignore[misc]
        return {form: text + (self._fitted_html() if form == "text/html" else "") for form, text in bundle.items()}

    def _fitted_html(self) -> str:
        if not hasattr(self, "means_"):
            return ""
        from daskgmm.pictures.notebook import mixture_html

        estimator: Any = self
        return mixture_html(estimator._model())
