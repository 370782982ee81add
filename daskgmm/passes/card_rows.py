"""A partition of the rows as blocks on a card: as they are stored, some blocks ahead of what is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from daskgmm.errors import DataError
from daskgmm.kernels.cuda_rows import N_AHEAD, Card, CardBlock, Slot, block_length
from daskgmm.kernels.cuda_source import DTYPES
from daskgmm.passes.cache import KeptReader
from daskgmm.passes.rows import WEIGHT, Beside, Cut, runs_read
from daskgmm.sources.digits import refuse_lost_digits
from daskgmm.sources.source import Reader


def card_blocks(cut: Cut, reader: Reader, beside: Mapping[str, Reader], card: Card) -> Iterator[CardBlock]:
    """Yield the partition as blocks of `block_length` rows, counted from its first row whatever the runs are.

    What computes on a block must have been launched when the next one is asked for. Blocks stay on the card where the
    reader has room for all of the partition; then neither it nor anything else is read again.
    """
    start, kept = cut.runs[0], reader if isinstance(reader, KeptReader) else None
    held: Iterable[tuple[Any, Any]] | None = None if kept is None else kept.on_card(start)
    if held is None:
        held = _Coming(cut, reader, beside, card, kept)
    checked = cut.check != "trust"
    for i, (stored, weights) in enumerate(held):
        yield CardBlock(card, stored, weights, start + i * block_length(cut.n_features), checked, cut.scaling)


class _Coming:
    """The blocks of a partition as they come: rows and weights, one after the other."""

    def __init__(
        self, cut: Cut, reader: Reader, beside: Mapping[str, Reader], card: Card, kept: KeptReader | None
    ) -> None:
        self._cut, self._reader, self._card, self._kept = cut, reader, card, kept
        self._length = block_length(cut.n_features)
        others = set(beside) - {WEIGHT}
        if others:
            raise NotImplementedError(f"{', '.join(sorted(others))} beside rows on a card")
        self._beside = beside.get(WEIGHT)
        self._stays, self._n_bytes = False, 0

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        slots: list[tuple[Slot, Slot | None]] = []
        found: list[tuple[Any, Any]] = []
        try:
            for i, block in enumerate(self._sent(slots)):
                if self._stays:
                    found.append(block)
                yield block
                for slot in slots[i % len(slots)]:
                    if slot is not None:
                        slot.used()
            if self._stays and self._kept is not None:
                self._kept.put_on_card(self._cut.runs, found)
                self._stays = False
        finally:
            if self._stays and self._kept is not None:
                self._kept.gives_card(self._n_bytes)
            for slot in (one for pair in slots for one in pair if one is not None):
                slot.wait()

    def _sent(self, slots: list[tuple[Slot, Slot | None]]) -> Iterator[tuple[Any, Any]]:
        """Yield each block when it has been sent; its slot is used again N_AHEAD + 1 blocks later."""
        cut, length, stop = self._cut, self._length, self._cut.runs[-1]
        low, filled, row = cut.runs[0], 0, cut.runs[0]
        weights = None if self._beside is None else Beside(self._beside, low, stop, length)
        for run in runs_read(cut, self._reader):
            if cut.check != "trust":
                refuse_lost_digits(run, first_row=row)
            if not slots:
                slots.extend(self._slots(stored_dtype(cut, run)))
            dtype, taken = stored_dtype(cut, run), 0
            if run.dtype.newbyteorder("=") != dtype and dtype != np.float64:
                raise DataError(
                    "the input",
                    f"have values of dtype {dtype}, as its metadata say",
                    f"{run.dtype} from row {row}",
                    "Correct what reads it, or take `device` cpu, which converts each value by itself.",
                )
            row += len(run)
            while taken < len(run):
                size = min(length, stop - low)
                slot, of_weights = slots[((low - cut.runs[0]) // length) % len(slots)]
                if not filled:
                    slot.begin(size, stays=self._stays)
                n = min(size - filled, len(run) - taken)
                slot.put(filled, run[taken : taken + n])
                taken, filled = taken + n, filled + n
                if filled == size:
                    own = None
                    if weights is not None and of_weights is not None:
                        of_weights.begin(size, stays=self._stays)
                        of_weights.put(0, weights.weights(low, size)[:, np.newaxis])
                        own = of_weights.end()[:, 0]
                    yield slot.end(), own
                    low, filled = low + size, 0

    def _slots(self, dtype: np.dtype[Any]) -> list[tuple[Slot, Slot | None]]:
        cut, weighted = self._cut, self._beside is not None
        n_rows = cut.runs[-1] - cut.runs[0]
        self._n_bytes = n_rows * (cut.n_features * dtype.itemsize + (8 if weighted else 0))
        self._stays = self._kept is not None and self._kept.takes_card(self._n_bytes)
        n_slots, size = min(N_AHEAD + 1, -(-n_rows // self._length)), min(n_rows, self._length)
        return [
            (
                self._card.slot(size, cut.n_features, dtype),
                self._card.slot(size, 1, np.dtype(np.float64)) if weighted else None,
            )
            for _ in range(n_slots)
        ]


def stored_dtype(cut: Cut, run: Any) -> np.dtype[Any]:
    """Return the dtype in which rows go to the card: their own where the loops read it, else float64."""
    own: np.dtype[Any] = np.dtype(run.dtype if cut.dtype is None else cut.dtype).newbyteorder("=")
    return own if own.name in DTYPES else np.dtype(np.float64)
