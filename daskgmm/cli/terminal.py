"""The log of a command on stderr, as text or JSON lines, in the words of the command line; and strict JSON."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO

import click

from daskgmm.cli.config import options_of
from daskgmm.errors import DaskgmmWarning
from daskgmm.fitting.option import flags
from daskgmm.fitting.options import FitOptions
from daskgmm.mixture.record import plain_json
from daskgmm.places.dask_cluster import DaskCluster
from daskgmm.places.log import HEARD, logger, quiet, say
from daskgmm.places.place import registered_places

#: What messages of the library name that no option declares, and what a person types for it.
_WORDS = {
    "X": "INPUT",
    "X, as a task reads it,": "INPUT, as a task reads it,",
    "columns": "--columns",
    "daskgmm.open_rows(X, columns=[...])": "--columns",
    "daskgmm.open_rows(X, columns='name')": "--weights with the name of a column",
    "keep": "--keep",
    "array": "--array",
    "features": "--features",
    "errors": "--errors",
    "sample_weight": "--weights",
    "sample_weight's array": "--weights-array",
    "labels": "--labels",
    "labels's array": "--labels-array",
    "missing_chunks": "--missing-chunks",
    'dask.config.set({"daskgmm.missing-chunks": "fill"})': "--missing-chunks fill",
    "non_finite='drop'": "--non-finite drop",
    "non_finite='drop' (by set_params)": "--non-finite drop",
    "non_finite='marginalize'": "--non-finite marginalize",
    "non_finite": "--non-finite",
    "criterion": "--criterion",
    "estimator=BayesianGaussianMixture()": "--bayesian dirichlet_process",
    "kind": "--kind",
    "part": "--part",
    "only": "--only",
    "held_out": "held-out",
    "n_folds": "--folds",
    "stop_early=False": "--all",
    "overwrite=True": "--force",
    # Values of Python: what is typed for them, or to be left out.
    "None": "left out",
    "False": "left out",
    "True": "yes",
    "noise=True": "--noise yes",
    "GaussianMixture": "no --bayesian",
    "{'means': True}": "means",
    "('means',)": "means",
    "a dict of True or a mask (n_components,) for": 'names, or JSON such as {"means": [true, false]}, of',
    "(n_features,)": "one a feature",
    "(n_components, n_features)": "a row of them a component",
    "(n_rows, n_features, n_features)": "(rows, features^2)",
    "from_parameters(weights_ / weights_.sum(), means_, covariances_)": "a fit without --noise",
    "GaussianMixture.load": "MODEL, before INPUT, or to --init-from",
    "fit": "--full with the old rows",
}


def strict_json(value: Any, *, indent: int | None = None) -> str:
    """Return strict JSON: numbers that are not finite become null."""
    return json.dumps(plain_json(value), indent=indent, allow_nan=False)


def command_line_words(called: click.Context | None = None) -> dict[str, str]:
    """Return what a person types for each option and argument that messages name (`daskgmm.errors`).

    Those of the command that is called are among them, by the names that the library has for them, too.
    """
    places = registered_places().values()
    own = [flags(FitOptions), flags(DaskCluster), *map(flags, places)]
    found = {name: flag for options in own for name, flag in options.items() if flag != f"--no-{name}"} | _WORDS
    options = [] if called is None else options_of(called)
    return {str(option.name): option.opts[-1] for option in options if not option.is_flag} | found


@contextmanager
def log_on_stderr(log_format: str) -> Iterator[None]:
    """Send the log, warnings and what distributed says of killed workers to stderr while the block runs.

    Parameters
    ----------
    log_format : {"text", "json"}
    """
    handler = _ToStderr()
    handler.addFilter(lambda record: is_text() or not getattr(record, "fields", {}).get("text_only"))
    heard = logging.getLogger(HEARD)
    before = (logger.level, logger.propagate, heard.level, heard.propagate, warnings.showwarning)
    logger.setLevel(logging.INFO)
    heard.setLevel(logging.WARNING)
    logger.propagate = heard.propagate = False
    warnings.showwarning = _warner()
    try:
        with quiet():
            logger.addHandler(handler)
            heard.addHandler(handler)
            log_as(log_format)
            yield
    finally:
        logger.removeHandler(handler)
        heard.removeHandler(handler)
        logger.level, logger.propagate, heard.level, heard.propagate, warnings.showwarning = before


def log_as(log_format: str) -> None:
    """Go on in a format, "text" or "json", with the log that goes to stderr."""
    for handler in logger.handlers:
        if isinstance(handler, _ToStderr):
            handler.setFormatter(_JsonLines() if log_format == "json" else _Text())


def is_text() -> bool:
    """Return whether the log is text, for a person."""
    return any(isinstance(handler.formatter, _Text) for handler in logger.handlers)


class _ToStderr(logging.StreamHandler[TextIO]):
    """Writes to what stderr is at the time: a table that is drawn there takes its place meanwhile."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


class _Text(logging.Formatter):
    """The time of day before a line; warnings and errors say what they are."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        message = record.getMessage()
        # (A table stays in line; an error begins with its name, for whoever looks for it.)
        timed = "\n" not in message and record.levelno < logging.ERROR
        return f"{self.formatTime(record, '%H:%M:%S')}  {level}{message}" if timed else f"{level}{message}"


class _JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message and the fields of the event."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "message": record.getMessage().strip()}
        return strict_json({**line, **getattr(record, "fields", {})})


def _warner() -> Callable[..., None]:
    """Return what logs a warning of any package as one line, without the place in its code; once, if it comes again."""
    before = set()

    def warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        said = message.worded(command_line_words()) if isinstance(message, DaskgmmWarning) else str(message)
        text = " ".join(said.split())
        if (category, text) not in before:
            before.add((category, text))
            say(text, level=logging.WARNING, category=category.__name__)

    return warning
