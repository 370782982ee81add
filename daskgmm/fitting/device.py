"""Which device the passes of a fit run on: what was asked for, held against the cards that there are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from daskgmm.errors import ClusterError, MemoryLimitError, OptionError, verbatim
from daskgmm.fitting.device_options import not_on_a_card
from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.device import predictor_on
from daskgmm.kernels.prediction import Predictor
from daskgmm.mixture.shapes.shape import Shape
from daskgmm.passes.current import current_executor
from daskgmm.passes.executor import Executor
from daskgmm.passes.memory import drives, mib
from daskgmm.passes.need import Need
from daskgmm.passes.rows import Rows
from daskgmm.sources.source import Source

logger = logging.getLogger("daskgmm")

#: The part of a card that rows never take, for what others, and pools of memory, take of it.
SPARE = 0.1


@dataclass(frozen=True)
class Device:
    """What computes.

    Attributes
    ----------
    name : {"cpu", "cuda"}
    said : str
        What a record says of it: "cpu", and why not a card where one was welcome; or the card and its versions.
    n_cards, keep_bytes : int
        Cards, and the bytes of rows that each may keep.
    """

    name: str = "cpu"
    said: str = "cpu"
    n_cards: int = 0
    keep_bytes: int = 0

    @property
    def record(self) -> dict[str, str]:
        """What the provenance of a model has of it: nothing of the processor alone."""
        return {} if self.said == "cpu" else {"device": self.said}

    def of_sample(self) -> Device:
        """Return what computes on the sample, in this process: the same, if this process has a card too."""
        return self if isinstance(_own_card()[""], _info()) else CPU


CPU = Device()

_on_sample: ContextVar[Device] = ContextVar("daskgmm-device-of-sample", default=CPU)


@contextmanager
def starting_on(device: Device) -> Iterator[None]:
    """Have EM on the sample of a fit, in the block, computed by the fit's device where this process has it."""
    token = _on_sample.set(CPU if device.name == "cpu" else device.of_sample())
    try:
        yield
    finally:
        _on_sample.reset(token)


def device_of_sample() -> Device:
    """Return what computes on the sample of the fit that is under way."""
    return _on_sample.get()


def _info() -> type[Any]:
    from daskgmm.passes.card import CardInfo

    return CardInfo


#: Asks processes for their cards: see `Executor.cards`.
AskCards = Callable[[], Mapping[str, Any]]


def device_of_fit(models: Sequence[FitOptions], rows: Rows, need: Need, executor: Executor) -> Device:
    """Return the device of the fits of some models, whose passes need so much.

    Raises
    ------
    OptionError, ClusterError, MemoryLimitError
        It was asked for a card, and there is none, or not in every process; or too much for its memory.
    """
    asked = models[0].device
    if asked == "cpu":
        return CPU
    why = next(filter(None, map(not_on_a_card, models)), "") or (
        "labels or columns beside rows" if rows.columns else ""
    )
    return device_for(asked, why, [m.family.shape for m in models], cards_of(rows, executor), need, rows.X.n_features)


def cards_of(rows: Rows, executor: Executor) -> AskCards:
    """Return what asks the processes that do the tasks of a pass for their cards."""
    return executor.cards if drives(rows, executor) else _own_card


def _own_card() -> Mapping[str, Any]:
    from daskgmm.passes.card import card_here

    return {"": card_here()}


def device_for(asked: str, why: str, shapes: Sequence[Shape], cards: AskCards, need: Need, n_features: int) -> Device:
    """Return the device for what was asked; `why` is what no card does of it, or "".

    Raises
    ------
    OptionError, ClusterError, MemoryLimitError
        As `device_of_fit`.
    """
    if asked == "cpu":
        return CPU
    if not why and any(shape.terms(n_features, exact=True) is None for shape in shapes):
        why = "covariances whose moments are no sums of products"
    if why and asked == "cuda":
        raise OptionError("`device`", f"be 'cpu' or 'auto' with {why}", "'cuda'", "Take cpu.")
    error: OptionError | ClusterError | MemoryLimitError
    if why:
        error = OptionError("`device`", f"be 'cpu' with {why}")
    else:
        try:
            return _on_cards(cards(), need, n_features)
        except (OptionError, ClusterError, MemoryLimitError) as found:
            error = found
    if asked == "cuda":
        raise error
    reason = why or error.got
    logger.info("Processors compute, and no card: %s.", reason.replace("`", ""))
    return Device(said=f"cpu ({reason.replace('`', '')})")


def _on_cards(found: Mapping[str, Any], need: Need, n_features: int) -> Device:
    from daskgmm.kernels.cuda import card_bytes
    from daskgmm.kernels.cuda_rows import N_AHEAD
    from daskgmm.passes.card import CONTEXT_BYTES, HANDLE_BYTES, CardInfo

    check_cards(found)
    cards = [card for card in found.values() if isinstance(card, CardInfo)]
    n_threads = max(card.n_threads for card in cards)
    needed = CONTEXT_BYTES + n_threads * HANDLE_BYTES
    needed += card_bytes(
        need.shape, need.n_components, n_features,
        n_candidates=need.n_candidates, n_ahead=N_AHEAD, n_threads=n_threads,
    )  # fmt: skip
    least = min(cards, key=lambda card: card.free_bytes)
    if needed > least.free_bytes:
        raise MemoryLimitError(
            "What a pass takes of a card",
            f"fit in what is free of it, {mib(least.free_bytes)} of {mib(least.total_bytes)}",
            f"a need of {mib(needed)} for {need.n_components} components of {n_features} features"
            + (f" and {n_threads} threads" if n_threads > 1 else ""),
            "See what else runs on it (nvidia-smi); "
            + ("have fewer threads a worker, or here (dask.config.set(num_workers=1)); " if n_threads > 1 else "")
            + ("decrease `n_components`, or " if need.may_shrink else "")
            + "take `device` cpu.",
        )
    # (This process, where it is none of them, may use one of the cards too, for the sample.)
    others = 0 if "" in found else needed
    keep = max(0, int(least.free_bytes - needed - others - SPARE * least.total_bytes))
    logger.info("Each card (%s) takes at most %s beside the rows that it keeps.", least, mib(needed))
    return Device("cuda", str(least), len(cards), keep)


def check_cards(found: Mapping[str, Any]) -> None:
    """Raise an error unless every process has a card of its own, all of one kind.

    Parameters
    ----------
    found : mapping of str to CardInfo or str
        The card, or why there is none, by the address of the worker; "" is this process.
    """
    from daskgmm.passes.card import INSTALL, CardInfo

    if "" in found and isinstance(found[""], str):
        raise OptionError(
            "`device`",
            "be cpu where there is no card that CuPy can use",
            verbatim(str(found[""])),
            f"Install CuPy for CUDA 12 or 13 ({INSTALL}, or daskgmm[cuda13]) on a machine with a card; or take auto.",
        )
    without = {where: why for where, why in found.items() if not isinstance(why, CardInfo)}
    if without or not found:
        where, why = next(iter(without.items()), ("any worker", "no worker"))
        raise ClusterError(
            "Workers with `device` cuda",
            "have CuPy and a card each",
            f"{why} at {where}" + (f", and {len(found) - len(without)} that have" if len(found) > len(without) else ""),
            f"Install CuPy where they run ({INSTALL}), and start one for each card: dask_cuda.LocalCUDACluster(), or "
            "dask cuda worker ADDRESS.",
        )
    cards = [card for card in found.values() if isinstance(card, CardInfo)]
    kinds = sorted({str(card) for card in cards})
    if len(kinds) > 1:
        raise ClusterError(
            "Workers with `device` cuda",
            "have cards and versions of one kind, as last bits depend on them",
            "; ".join(kinds),
            "Leave the others out.",
        )
    if len({card.identity for card in cards}) < len(cards):
        raise ClusterError(
            "Workers with `device` cuda",
            "have a card each",
            f"{len(cards)} workers on {len({card.identity for card in cards})} of them",
            "Start one for each card: dask_cuda.LocalCUDACluster(), or daskgmm fit with `device` cuda.",
        )


def predictor_for(asked: str, why: str, X: Source, predictor: Predictor) -> Predictor:
    """Return a predictor for the device that was asked for; `why` is what no card does of it, or "".

    Raises
    ------
    OptionError, ClusterError, MemoryLimitError
        As `device_of_fit`.
    """
    if asked == "cpu":
        return predictor
    plan = predictor.plan
    executor, need = current_executor(travels=X.travels), Need(plan.shape, plan.n_components, given=True)
    cards = _own_card if X.array is not None or not X.travels else executor.cards
    found = device_for(asked, why, [plan.shape], cards, need, X.n_features)
    return predictor_on(found.name, predictor)
