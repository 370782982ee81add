"""Rows that are somewhere else, and of which the metadata are known: those of a fit by parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from daskgmm.sources.source import Reader, Source


class KnownSource(Source):
    """Rows of which the metadata are known, and that are somewhere else."""

    def __init__(self, known: Mapping[str, Any]) -> None:
        self.label, self.n_rows, self.n_features = known["label"], known["n_rows"], known["n_features"]
        self.dtype, self.column_labels = np.dtype(known["dtype"]), known["column_labels"]

    def reader(self) -> Reader:
        raise NotImplementedError("a fit by parts reads rows by its parts alone")


def known_of(source: Source) -> dict[str, Any]:
    """Return what is known of a source by its metadata, as JSON."""
    labels = source.column_labels
    return {
        "label": source.label,
        "n_rows": source.n_rows,
        "n_features": source.n_features,
        "dtype": source.dtype.str,
        "column_labels": None if labels is None else [label if isinstance(label, str) else None for label in labels],
    }
