"""What a person should know of a fit: components that the rows do not support, and a reg_covar that is no small one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from daskgmm.fitting.joined import Joined
from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.support import Support, price, thin_gain, unsupported
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.survey import Survey

#: Share of a variance that reg_covar may be, and that it is of the unit variance that its default is meant for.
LARGE_SHARE, USUAL_SHARE = 0.01, 1e-6
#: Numbers that a sentence lists at most.
_LISTED = 5


def spikes_of(parameters: Parameters, support: Support, options: FitOptions, *, n_rows: int) -> tuple[int, ...]:
    """Return the numbers of the components that the rows do not support, where all of them must be."""
    if options.may_be_empty:
        return ()
    found = unsupported(parameters, support, floor=options.whole_prior.least_covariance, n_rows=n_rows)
    return tuple(int(k) for k in np.flatnonzero(found))


def remarks(
    parameters: Parameters, support: Support, options: FitOptions, *, n_rows: int, joined: Joined | None = None
) -> tuple[str, ...]:
    """Return a sentence or two on each thing that is wrong with a fit, with its remedy; none where nothing is.

    Names of options stand between backticks (`daskgmm.errors`).

    Parameters
    ----------
    support : Support
        On the rows of the fit.
    n_rows : int
        Their number.
    joined : Joined or None
        Two components that the rows may not tell apart.
    """
    if options.start_is_given and options.max_iter == 0:
        return ()
    p, spikes = parameters, spikes_of(parameters, support, options, n_rows=n_rows)
    too_large = _of_reg_covar(p, options)
    # (Where reg_covar hides all variances nothing tells rows that are alike from others.)
    few = [k for k in spikes if support.counts[k] < p.family.least_rows(p.n_features)]
    untold = [k for k in spikes if k not in few and support.telling[k] < p.family.least_rows(p.n_features)]
    few_or_untold, alike, weak = [*few, *untold], [], []
    if not too_large:
        alike = [int(k) for k in np.flatnonzero(thin_gain(p, options.whole_prior.least_covariance) > 0)]
        alike = [k for k in alike if k not in few_or_untold]
        weak = [k for k in spikes if k not in few_or_untold and k not in alike]
    too_weak = [*_of_few(p, support, few), *_of_untold(p, support, untold), *_of_weak(p, support, weak, n_rows)]
    too_many = [" ".join([*too_weak, _fewer(p)])] if too_weak else []
    if not too_weak and not too_large:
        too_many = [*_of_joined(p, joined)]
    of_values = () if too_large or alike else _of_repeated_values(p, options)
    return (*too_large, *too_many, *_of_alike(p, support, alike, options), *of_values)


def of_pairs(survey: Survey, names: Sequence[str] | None, p: Parameters) -> Iterator[str]:
    """Yield a sentence on features that never have values in the same row: nothing is known of their covariance."""
    together = None if survey.seen is None else survey.seen.together
    if together is None or not together.size or not p.shape.correlates:
        return
    apart = np.argwhere(np.triu(~together, k=1))
    if len(apart):
        named = [str(j) for j in range(len(together))] if names is None else names
        pairs = _listed([f"{named[i]} and {named[j]}" for i, j in apart])
        yield (
            f"No row has values of features {pairs} together: the rows tell their covariance only by way of others, "
            f"and where there are none it is the start's. Take `covariance_type` diag, or a prior."
        )


def of_processors(processors: Sequence[str]) -> Iterator[str]:
    """Yield a sentence where passes ran on processors of several kinds, whose sums differ in their last bits."""
    kinds = Counter(processors)
    if len(kinds) > 1:
        listed = _listed([f"{n} worker{'' if n == 1 else 's'} with {kind}" for kind, n in kinds.most_common()])
        yield (
            f"Passes ran on processors of several kinds ({listed}): the same fit may end in other last bits next time. "
            f"For the same bits take workers of one kind."
        )


def _of_few(p: Parameters, support: Support, few: Sequence[int]) -> Iterator[str]:
    if few:
        counts = _listed([f"{support.counts[k]:,.0f}" for k in few])
        n_own = p.family.n_own(p.n_features)
        yield (
            f"{_holds(few, p.n_components)} fewer rows than the {n_own:,} numbers that {_each(few)} made of ({counts} "
            f"rows): the likelihood says nothing of other rows there."
        )


def _of_untold(p: Parameters, support: Support, untold: Sequence[int]) -> Iterator[str]:
    if untold:
        rows = _listed([f"{support.telling[k]:,.1f} of {support.counts[k]:,.0f}" for k in untold])
        yield (
            f"{len(untold)} of {p.n_components} components {'has' if len(untold) == 1 else 'have'} a direction of "
            f"which fewer than {p.family.least_rows(p.n_features):,} rows tell, and the others lack values ({rows} "
            "rows): the likelihood says nothing of other rows there."
        )


def _of_weak(p: Parameters, support: Support, weak: Sequence[int], n_rows: int) -> Iterator[str]:
    if weak:
        worth = _listed([f"{support.nats[k]:,.1f}" for k in weak])
        asked = np.broadcast_to(price(p, n_rows), p.n_components)[weak].max()
        yield (
            f"{len(weak)} of {p.n_components} components {'is' if len(weak) == 1 else 'are'} worth less than the "
            f"{p.family.n_own(p.n_features):,} numbers that {_each(weak)} made of: without {_it(weak)} the others lose "
            f"{worth} nats, and {_bic(support)} asks for {support.row_weight * asked:,.1f}."
        )


def _bic(support: Support) -> str:
    """Name the criterion: what a component is worth does not depend on the scale of the row weights."""
    return "BIC" if np.isclose(support.row_weight, 1.0) else "BIC of so many rows, each of the mean weight,"


def _of_joined(p: Parameters, joined: Joined | None) -> Iterator[str]:
    if joined is not None and joined.nats < joined.asked:
        yield (
            f"The rows do not tell components {joined.i} and {joined.j} of {p.n_components} apart: as one they lose "
            f"{max(joined.nats, 0.0):,.1f} nats, and BIC asks for {joined.asked:,.1f}. Fit fewer components (select "
            "compares numbers of them)."
        )


def _of_alike(p: Parameters, support: Support, alike: Sequence[int], options: FitOptions) -> Iterator[str]:
    if alike:
        least = "`reg_covar`" if options.covariance_floor is None else "`covariance_floor`"
        each = _listed([f"component {k}: {support.counts[k]:,.0f} rows near {_place(p.means[k])}" for k in alike], "; ")
        yield (
            f"{_holds(alike, p.n_components)} rows that are alike ({each}): in most directions there is no variance "
            f"but {least}, and the likelihood tells how small that is. Leave repeated rows out, or give them the "
            "weight 0 by `sample_weight`."
        )


def _of_reg_covar(p: Parameters, options: FitOptions) -> list[str]:
    """Say where reg_covar is much of the least variance of most components."""
    large, usual = _hidden(p, options)
    # (Where rows of a component are alike no reg_covar is small.)
    if 2 * large.sum() <= len(large) or not usual > LARGE_SHARE * USUAL_SHARE * options.reg_covar:
        return []
    better = 10.0 ** np.floor(np.log10(USUAL_SHARE * usual))
    return [
        f"`reg_covar` = {options.reg_covar:g} is more than {LARGE_SHARE:.0%} of the variance of {large.sum()} of "
        f"{len(large)} components in some direction, where the rows themselves have some {usual:.2g}: the fit shows "
        f"`reg_covar` more than the rows. Take `reg_covar` {better:.0e}, or rescale the features to variances near 1."
    ]


def _of_repeated_values(p: Parameters, options: FitOptions) -> list[str]:
    """Say where reg_covar is all of the least variance of most components, although rows of others differ there."""
    large, _ = _hidden(p, options)
    if 2 * large.sum() <= len(large):
        return []
    return [
        f"{large.sum()} of {len(large)} components have no variance but `reg_covar` in some direction in which all "
        "rows together have one, as where a feature has few distinct values: the likelihood tells how small "
        "`reg_covar` is. Leave such features out, or fit the rows of each value by themselves."
    ]


def _hidden(p: Parameters, options: FitOptions) -> tuple[NDArray[np.bool_], float]:
    """Return whose least variance reg_covar is much of, and what the rows themselves have there, in the median."""
    reg_covar, p = options.reg_covar, p.of_components
    if not reg_covar > 0 or options.covariance_floor is not None:
        return np.zeros(p.n_components, dtype=bool), 0.0
    least = p.shape.least_variances(p.covariances, p.weights, p.means, reg_covar)
    large = reg_covar > LARGE_SHARE * (least + reg_covar)
    return large, float(np.median(least[large])) if large.any() else 0.0


def _fewer(p: Parameters) -> str:
    """Name the remedies for more numbers than the rows bear."""
    diagonal = family_called("diag")
    fewer = "Fit fewer components (select compares numbers of them)"
    if diagonal.n_own(p.n_features) < p.family.n_own(p.n_features):
        return f"{fewer}, or `covariance_type` {diagonal.name}."
    return f"{fewer}."


def _holds(which: Sequence[int], n_components: int) -> str:
    return f"{len(which)} of {n_components} components hold{'s' if len(which) == 1 else ''}"


def _each(which: Sequence[int]) -> str:
    return "it is" if len(which) == 1 else "each is"


def _it(which: Sequence[int]) -> str:
    return "it" if len(which) == 1 else "one of them"


def _listed(items: Sequence[str], between: str = ", ") -> str:
    more = [f"and {len(items) - _LISTED} more"] if len(items) > _LISTED else []
    return between.join([*items[:_LISTED], *more])


def _place(mean: Floats) -> str:
    rounded = np.where(np.abs(mean) < 1e-12 * np.abs(mean).max(), 0.0, mean)
    return f"({_listed([f'{value:.4g}' for value in rounded])})"
