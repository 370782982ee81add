"""All errors that daskgmm raises, in one tree; each is also a built-in, and carries its exit code. And a warning.

A message reads "<argument> must <requirement>; got <value> <where>. <One remedy>."
"""

from __future__ import annotations


class DaskgmmError(Exception):
    """Root of the errors that daskgmm raises. `exit_code` is what the command line returns."""

    exit_code = 70


class OptionError(DaskgmmError, ValueError):
    """An option or argument that cannot be used (exit code 64)."""

    exit_code = 64


class DataError(DaskgmmError, ValueError):
    """Rows, weights or metadata of the input that no mixture can be fitted to (exit code 65)."""

    exit_code = 65


class NotNumbersError(DataError, TypeError):
    """Objects that cannot be numbers (exit code 65); a TypeError too, as scikit-learn has it."""


class ChangedDataError(DataError):
    """Rows of a pass that are not those of the survey (exit code 65)."""


class CollapsedComponentError(DataError):
    """A component whose covariance is singular to working precision (exit code 65)."""


class NotFiniteError(DataError):
    """Sums of a pass, or parameters, that overflowed (exit code 65)."""


class MemoryLimitError(DaskgmmError, MemoryError):
    """A task would need more memory than its worker has (exit code 65)."""

    exit_code = 65


class InputMissingError(DaskgmmError, FileNotFoundError):
    """An input path, array name or model that is not there or may not be read (exit code 66)."""

    exit_code = 66

    def __str__(self) -> str:
        # OSError formats its arguments in its own way; these carry one finished sentence.
        return str(self.args[0]) if self.args else ""


class ClusterError(DaskgmmError, ConnectionError):
    """No scheduler, or no workers in time (exit code 69)."""

    exit_code = 69


class SilentSchedulerError(ClusterError):
    """A scheduler that does not answer any more (exit code 69)."""


class OutputError(DaskgmmError, OSError):
    """An output that cannot be written, or that exists with other contents (exit code 73)."""

    exit_code = 73


class FitWarning(UserWarning):
    """What a person should know of a fit that is done: see `daskgmm.fitting.remarks`."""


#: What comes of reading a record that is not what this project writes: it lacks a name, or has another type or size.
#: (Errors of this project may be among them: they have said what it is.)
UNLIKE_WRITTEN = (
    LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration, RecursionError,
)  # fmt: skip
