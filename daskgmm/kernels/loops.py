"""Whether the compiled loops can be used here, and the module that has them, which imports numba."""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

from daskgmm.errors import ClusterError

#: What numba takes in each process (measured: 102 MiB; 139 while it compiles, the first time on a machine; 175 where
#: the kernel also keeps its files in large pages, as it does while they are new on the disk).
COMPILED_BYTES = 184 << 20


def can_compile() -> bool:
    """Return whether the compiled loops can be used in this process: whether numba is installed."""
    return find_spec("numba") is not None


def gap_loops() -> ModuleType:
    """Return the module of those of rows with gaps."""
    loops()  # (which says what is missing)
    from daskgmm.kernels import compiled_gaps

    return compiled_gaps


def error_loops() -> ModuleType:
    """Return the module of those of rows with measurement errors."""
    loops()
    from daskgmm.kernels import compiled_errors

    return compiled_errors


def loops() -> ModuleType:
    """Return the module of the compiled loops; a ClusterError where numba is missing."""
    try:
        from daskgmm.kernels import compiled
    except ImportError as error:
        raise ClusterError(
            "Workers",
            "have numba where the process that starts the fit has it",
            error,
            "Install daskgmm[compiled] there too, or switch the compiled kernel off: DASK_DASKGMM__COMPILED=False.",
        ) from error
    return compiled
