"""The corner plot of a mixture: its exact marginals in one feature and in two, over a sample of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from daskgmm.fitting.sample import Sample
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.variational import Posterior
from daskgmm.pictures.marginals import binned_densities, frame, marginal_covariances, outside, telling_features
from daskgmm.pictures.styles import colours, opacities, plain_text, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from daskgmm.pictures.picture import Picture

#: Features that are drawn where none are named; rows that are drawn as points; components that a legend lists.
MOST_FEATURES, MOST_POINTS, MOST_LISTED = 5, 3000, 12
#: Bins of densities, and of the rows.
_BINS, _ROW_BINS = 400, 50
#: The layout of the package corner, inches: a plot, the room below and left of the plots, and above and right; then the
#: room between plots as a part of one.
_SIZE, _BEFORE, _BEHIND, _BETWEEN = 2.0, 0.85, 0.4, 0.05


def plot_corner(
    p: Parameters, names: Sequence[str], *, chosen: Sequence[int] | None = None, sample: Sample | None = None
) -> Picture:
    """Return a figure of n x n axes: densities on the diagonal, below it two features each, the rest empty.

    Ellipses hold 39.3 % and 86.5 % of a component in two features: 1 and 2 of its standard deviations. The more opaque,
    the more weight it has. `corner.corner(..., fig=figure)` draws over it.

    Parameters
    ----------
    names : sequence of str
        Of all features.
    chosen : sequence of int or None
        Numbers of the features to draw; None takes the five in which components differ most.
    sample : Sample or None
        Rows to draw the mixture over.
    """
    from daskgmm.pictures.picture import Picture

    features = telling_features(p, MOST_FEATURES) if chosen is None else list(chosen)
    n = len(features)
    inside = _SIZE * (n + (n - 1) * _BETWEEN)
    whole = _BEFORE + inside + _BEHIND
    figure = Picture(figsize=(whole, whole), dpi=120)
    axes: Any = figure.subplots(n, n, squeeze=False)
    low, high = _BEFORE / whole, (_BEFORE + inside) / whole
    figure.subplots_adjust(left=low, bottom=low, right=high, top=high, wspace=_BETWEEN, hspace=_BETWEEN)
    values = None if sample is None else sample.X[:, features]
    weights = None if sample is None else sample.weights
    frames = [frame(p, j, None if values is None else values[:, i]) for i, j in enumerate(features)]
    covariances = marginal_covariances(p, features)
    for row in range(n):
        for column in range(n):
            ax = axes[row, column]
            if column > row:
                ax.set_axis_off()
                continue
            ax.set_xlim(*frames[column])
            if row == column:
                _draw_density(ax, p, features[row], frames[row], None if values is None else values[:, row], weights)
            else:
                ax.set_ylim(*frames[row])
                pair = [column, row]
                if values is not None and weights is not None:
                    _draw_rows(ax, values[:, pair], weights, [frames[i] for i in pair])
                _draw_ellipses(ax, p, p.means[:, [features[i] for i in pair]], covariances[:, pair][:, :, pair])
            _label(ax, [names[j] for j in features], row, column)
    lost = int(outside(p, list(features), frames).sum())
    _tell(axes, p, lost=lost, n_rows=None if sample is None else len(sample))
    return figure


def _draw_density(
    ax: Axes, p: Parameters, feature: int, ends: tuple[float, float], values: Floats | None, weights: Floats | None
) -> None:
    """Draw the density of a feature, and those of its components, over a histogram of the rows."""
    edges = np.linspace(*ends, _BINS + 1)
    of_component = binned_densities(p, feature, edges)
    centres, total = (edges[1:] + edges[:-1]) / 2, of_component.sum(axis=0)
    highest = float(total.max())
    if values is not None and weights is not None:
        n_bins = int(np.clip(3 * np.cbrt(len(values)), 10, _ROW_BINS))  # (Rice's rule, and a half)
        own, bins = np.histogram(values, bins=n_bins, range=ends, weights=weights)
        heights = own / (weights.sum() * np.diff(bins))
        ax.stairs(heights, bins, fill=True, color="0.85", zorder=1)
        # (A spike of the mixture is cut off sooner than the rows are pressed flat.)
        highest = max(float(heights.max()), min(highest, 3 * float(heights.max())))
    for density, colour, alpha in zip(of_component, colours(p.n_components), opacities(p.weights), strict=True):
        if p.n_components > 1:
            ax.plot(centres, density, color=colour, alpha=alpha, linewidth=1.3, zorder=3)
    ax.plot(centres, total, color="black", linewidth=1.2, zorder=4)
    ax.set_ylim(0, 1.1 * highest)


def _draw_rows(ax: Axes, values: Floats, weights: Floats, ends: list[tuple[float, float]]) -> None:
    """Draw rows as points, or as a density where these would cover each other."""
    if len(values) <= MOST_POINTS:
        size = 2.0 if len(values) > 300 else 8.0
        ax.scatter(values[:, 0], values[:, 1], s=size, color="0.55", linewidths=0, zorder=1, rasterized=True)
        return
    from matplotlib.colors import LinearSegmentedColormap

    within = np.array(ends)
    heights, x, y = np.histogram2d(values[:, 0], values[:, 1], bins=_ROW_BINS, range=within, weights=weights)
    clear = LinearSegmentedColormap.from_list("rows", [(0.35, 0.35, 0.35, 0.0), (0.35, 0.35, 0.35, 0.8)])
    # (By their root: single rows beside groups can still be seen.)
    ax.pcolormesh(x, y, np.sqrt(heights.T), cmap=clear, zorder=1, rasterized=True, linewidth=0)


def _draw_ellipses(ax: Axes, p: Parameters, means: Floats, covariances: Floats) -> None:
    """Draw each component in two features as ellipses of 1 and 2 standard deviations, and its mean."""
    from matplotlib.patches import Ellipse

    styles = list(zip(colours(p.n_components), opacities(p.weights), strict=True))
    for k in _heaviest_first(p)[::-1]:
        (colour, alpha), mean = styles[k], (float(means[k, 0]), float(means[k, 1]))
        variances, vectors = np.linalg.eigh(covariances[k])
        angle = float(np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1])))
        minor, major = 2 * np.sqrt(np.maximum(variances, 0.0))  # (diameters)
        for n_deviations, width in ((1, 1.6), (2, 1.0)):
            ax.add_patch(
                Ellipse(
                    mean, n_deviations * major, n_deviations * minor, angle=angle, fill=False, edgecolor=colour,
                    alpha=alpha, linewidth=width, zorder=3,
                )
            )  # fmt: skip
        ax.plot(*mean, marker="+", color=colour, alpha=alpha, markersize=4, zorder=3)


def _heaviest_first(p: Parameters) -> list[int]:
    """Return the numbers of the components; of a posterior those that have rows, as the others are the prior."""
    order = np.argsort(-p.weights, kind="stable")
    return [int(k) for k in order if not isinstance(p, Posterior) or p.counts[k] >= 1]


def _label(ax: Axes, names: Sequence[str], row: int, column: int) -> None:
    """Name the features below the lowest plots and left of the first, with the numbers of their axes."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
    ax.yaxis.set_major_locator(MaxNLocator(4, prune="both"))
    ax.tick_params(labelsize=7, direction="in")
    if row == len(names) - 1:
        ax.set_xlabel(short(names[column]), fontsize=9, **plain_text())
        ax.tick_params(axis="x", labelrotation=45)
        ax.xaxis.set_label_coords(0.5, -0.27)
        ax.xaxis.get_offset_text().set_fontsize(7)
    else:
        ax.tick_params(labelbottom=False)
        ax.xaxis.get_offset_text().set_visible(False)
    if row == column:
        ax.set_yticks([])
    elif column == 0:
        ax.set_ylabel(short(names[row]), fontsize=9, **plain_text())
        ax.tick_params(axis="y", labelrotation=45)
        ax.yaxis.set_label_coords(-0.27, 0.5)
        ax.yaxis.get_offset_text().set(fontsize=7, x=-0.3)  # (beside the numbers, not across the plot above)
    else:
        ax.tick_params(labelleft=False)
        ax.yaxis.get_offset_text().set_visible(False)


def _tell(axes: Any, p: Parameters, *, lost: int, n_rows: int | None) -> None:
    """Say in the empty corner which colour is which component, and what is not seen."""
    from matplotlib.lines import Line2D

    n, own = len(axes), _heaviest_first(p)
    listed = own[: MOST_LISTED if n > 1 else 0]
    styles = list(zip(colours(p.n_components), opacities(p.weights), strict=True))
    lines = [Line2D([], [], color=styles[k][0], alpha=styles[k][1], linewidth=2) for k in listed]
    labels = [f"component {k}: {_share(float(p.weights[k]))}" for k in listed]
    more = [(len(own) - len(listed), "lighter ones"), (p.n_components - len(own), "without rows")]
    for text in [f"and {number} {which}" for number, which in more if number and n > 1]:
        lines.append(Line2D([], [], linestyle="none"))
        labels.append(text)
    if p.noise is not None:
        lines.append(Line2D([], [], linestyle="none"))
        labels.append(f"noise: {_share(p.noise.weight)}")
    if n > 1 and (p.n_components > 1 or p.noise is not None):
        # (Where two features leave one empty plot, the heading is within it; else it reaches over several.)
        place = axes[0, n - 1]
        place.legend(lines, labels, loc="upper right", fontsize=8 if n > 2 else 7, frameon=False, borderaxespad=0)
    said = [] if n_rows is None else [f"{n_rows:,} rows"]
    if lost:
        said.append(f"{lost} component{'s' if lost > 1 else ''} outside of the picture")
    if said:
        axes[0, 0].set_title("; ".join(said), fontsize=8, loc="left")


def _share(weight: float) -> str:
    return f"{100 * weight:.1f} %" if weight >= 5e-4 else "< 0.1 %"
