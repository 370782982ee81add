"""Whether the workers of a cluster have this version of daskgmm, and what it needs; it is sent to them on request."""

from __future__ import annotations

import os
import pkgutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distributed import Client

from daskgmm.errors import ClusterError
from daskgmm.version import __version__


def check_versions(client: Client, address: str, *, upload: bool = False) -> None:
    """Raise a ClusterError unless every worker has this version of daskgmm, and the packages that its tasks import.

    With `upload` it is sent first where a worker has none. (Dask itself warns of other versions of its own packages.)
    """
    found = _asked(client, "daskgmm:__version__")
    if upload and any(isinstance(version, ModuleNotFoundError) for version in found.values()):
        _upload(client)
        found = _asked(client, "daskgmm:__version__")
    needed = _asked(client, "daskgmm.passes.tree:__name__")
    for worker, version in [*found.items(), *((w, e) for w, e in needed.items() if isinstance(e, BaseException))]:
        if isinstance(version, OSError):
            continue  # (it is just being lost)
        if isinstance(version, BaseException):
            more = "" if upload else " `upload_package` sends daskgmm alone."
            raise ClusterError(
                "Workers",
                "have daskgmm installed",
                f"{type(version).__name__}: {version} from {worker} of {address}",
                f"Install daskgmm {__version__}, and what it needs, where they run.{more}",
            )
        if version != __version__:
            raise ClusterError(
                "Workers",
                f"run the daskgmm of this process, {__version__}",
                f"{version} from {worker} of {address}",
                "Install the same version on both sides. (One that was sent stays until the workers are restarted.)",
            )


def _asked(client: Client, name: str) -> dict[str, Any]:
    """Return what an object is on each worker, or why it is not there."""
    # (A function of daskgmm's own could not be asked of a worker that lacks it.)
    found: dict[str, Any] = client.run(pkgutil.resolve_name, name, on_error="return")
    return found


def _upload(client: Client) -> None:
    """Send this package to the workers, and those that come later, as a zip file that they import from."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"daskgmm-{__version__}.zip")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
            for module, name in _modules():
                file.write(module, name)
        client.upload_file(path)


def _modules() -> Iterator[tuple[Path, str]]:
    """Yield each file of this package, and its name within the zip file."""
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            yield path, str(path.relative_to(root.parent))
