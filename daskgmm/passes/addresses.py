"""The limit of this process's addresses, which batch systems set. Imports nothing: some libraries crash below it."""

from __future__ import annotations


def address_limit() -> int | None:
    """Return the bytes of addresses that this process may have (ulimit -v), or None where nothing limits them."""
    try:
        import resource
    except ImportError:  # (Windows)
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit
