"""A fitted mixture on disk: a Zarr group of arrays with JSON attributes. Loading it executes nothing."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec
from zarr.core.sync import sync

from daskgmm.errors import (
    UNLIKE_WRITTEN,
    CollapsedComponentError,
    DaskgmmError,
    DataError,
    InputMissingError,
    OptionError,
    OutputError,
)
from daskgmm.mixture.arrays import Floats
from daskgmm.mixture.family import Family, family_called, family_names
from daskgmm.mixture.noise import Noise
from daskgmm.mixture.parameters import Parameters
from daskgmm.mixture.record import Record
from daskgmm.mixture.shapes.shape import Shape
from daskgmm.mixture.variational import Posterior
from daskgmm.sources.credentials import refuse_secrets, shown
from daskgmm.sources.failures import refused, unreachable
from daskgmm.sources.stamps import file_stamp
from daskgmm.sources.zarr_opening import MODEL_FORMATS
from daskgmm.stores.record_file import read_beside, write_beside
from daskgmm.stores.storage import of_a_store, plain_path, remedy
from daskgmm.stores.writing import whole_or_nothing

#: 2: arrays are stored as they are, so that none can grow when it is read.
FORMAT_VERSION = 2
#: (The second is that of a group at a URL, where nothing can be renamed, from its first object on until its last is
#: written.)
FORMAT, UNFINISHED = MODEL_FORMATS
_ARRAYS = ("weights", "means", "covariances", "precisions_cholesky")
#: Beside them, in a model by variational Bayes.
_POSTERIOR = "posterior"


#: What to do about what is no model.
_NO_DATA = "Check the path: a model is wanted here, and data elsewhere."


@dataclass(frozen=True)
class Model:
    """What a model file holds.

    Attributes
    ----------
    parameters : Parameters
    record : dict
        JSON: options, input, result, history, provenance.
    beside : dict of str to Record
        What else is to be written: what a fit by parts goes on from (`record_file.read_beside`).
    """

    parameters: Parameters
    record: dict[str, Any]
    beside: dict[str, Record] = field(default_factory=dict)


def save_model(model: Model, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a model file: whole beside its place, then renamed, so that no reader sees half of one.

    Parameters
    ----------
    path : path or URL
        A folder that does not exist yet. (A URL has no rename: there the format attribute says "unfinished" until the
        end, and what a process that was killed has left so is written anew.)
    overwrite : bool
        Whether to replace a model that is there.

    Raises
    ------
    OutputError
        Something is there already, or it cannot be written.
    """
    place = plain_path(os.fspath(path))
    refuse_secrets(place, argument="the output")
    if "://" in place:
        _write_remote(model, place, overwrite=overwrite)
        return
    place = os.path.abspath(place)
    if os.path.exists(place) and not (overwrite and is_model(place)):
        hint = "Choose another path, or save with `overwrite=True`."
        if overwrite:
            hint = "It is no model: choose another path, or remove it."
        raise OutputError("the output", "not exist yet", f"{place}, which does", hint)
    with whole_or_nothing(place) as beside:
        _write(zarr.open_group(beside, mode="w", zarr_format=3), model)


def load_model(path: str | os.PathLike[str]) -> Model:
    """Return the model in a file, its shapes and checksums verified.

    Raises
    ------
    InputMissingError
        Nothing is there.
    DataError
        It is no model file, one of a later version, or a damaged one.
    """
    place = os.fspath(path)
    group, place = _open(place), shown(place)
    attributes: dict[str, Any] = dict(group.attrs)
    if attributes.get("format") == UNFINISHED:
        raise DataError(
            "the model",
            "be whole",
            f"one that is unfinished at {place}, of a process that still writes it or was cut short",
            "Run the command that writes it again.",
        )
    if attributes.get("format") != FORMAT:
        raise DataError("the model", "be a daskgmm model file", f"another Zarr group at {place}", _NO_DATA)
    if attributes.get("format_version") != FORMAT_VERSION:
        raise DataError(
            "the model",
            f"be of format version {FORMAT_VERSION}",
            f"{attributes.get('format_version')!r} in {place}",
            "Read it with the version of daskgmm that wrote it, or fit it again.",
        )
    try:
        family = _family(attributes["covariance_type"], place)
        k, d = int(attributes["n_components"]), int(attributes["n_features"])
        shapes = {"weights": (k,), "means": (k, d), "covariances": family.shape.array_shape(k, d)}
        shapes["precisions_cholesky"] = shapes["covariances"]
        checksums = dict(attributes["checksums"])
        arrays = {name: _read(group, name, shapes[name], checksums.get(name), place) for name in _ARRAYS}
        record = dict(attributes["record"])
        noise = Noise.of_json(attributes.get("noise"), d)
        _check_mixture(family.shape, arrays, beside=0.0 if noise is None else noise.weight)
        fixed = tuple(int(n) for n in record.get("fixed", ()))
        if fixed and len(fixed) != k + 1:
            raise ValueError(f"{len(fixed)} numbers of what is fixed")
        posterior = dict(record.get("beside", {})).get(_POSTERIOR)
    except PermissionError as error:
        raise _unreadable(error, place) from error
    except UNLIKE_WRITTEN as error:
        if isinstance(error, DataError):
            raise
        raise DataError("the model", "be whole", f"{error!r} reading {place}", "Fit it again.") from error
    if posterior is not None:
        p = read_beside(os.fspath(path), _POSTERIOR, posterior, Posterior, argument="the model", what="a daskgmm model")
        return Model(p, record)
    weights, means, covariances, cholesky = (arrays[name] for name in _ARRAYS)
    return Model(Parameters(family, weights, means, covariances, cholesky, noise, fixed=fixed), record)


@contextmanager
def as_written(place: str, *, what: str = "model", remedy: str = "Fit it again.") -> Iterator[None]:
    """Say what it means where the record of a model file, or of an array, is not what this project writes."""
    try:
        yield
    except UNLIKE_WRITTEN as error:
        if isinstance(error, DaskgmmError):
            raise
        raise DataError(
            f"the {what}'s record",
            "be as daskgmm wrote it",
            f"{type(error).__name__}: {error!s:.100} reading {shown(place)}",
            remedy,
        ) from error


def checksum(parameters: Parameters) -> str:
    """Return what tells one mixture from another: a SHA-256 of its family, weights, means and covariances."""
    digest = hashlib.sha256(parameters.family.name.encode())
    posterior = (parameters.counts, parameters.log_weights) if isinstance(parameters, Posterior) else ()
    for array in (parameters.weights, parameters.means, parameters.covariances, *posterior):
        digest.update(repr(array.shape).encode() + array.astype("<f8").tobytes())
    if parameters.noise is not None:
        digest.update(repr(parameters.noise.json).encode())
    return digest.hexdigest()


def _family(name: Any, place: str) -> Family:
    try:
        return family_called(name)
    except OptionError as error:
        raise DataError(
            "the model's covariance_type",
            f"be one of {', '.join(family_names())}",
            f"{name!r:.40} in {place}",
            "Register its family first (daskgmm.register_family).",
        ) from error


def _check_mixture(shape: Shape, arrays: dict[str, Floats], *, beside: float) -> None:
    """Raise a ValueError where whole arrays are no mixture, whoever wrote them."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} that are not finite")
    weights = arrays["weights"]
    if weights.min() < 0 or not abs(weights.sum() + beside - 1) < 1e-6:
        raise ValueError(f"weights of {weights.min():.3g} or more with a sum of {weights.sum():.6g}")
    with np.errstate(invalid="ignore", divide="ignore"):
        log_norms = shape.log_norm(arrays["precisions_cholesky"], *arrays["means"].shape)
    if not np.isfinite(log_norms).all():
        raise ValueError("precisions that are not positive definite")
    try:
        shape.precisions_cholesky(arrays["covariances"])
    except CollapsedComponentError as error:
        raise ValueError("covariances that are not positive definite") from error


def _write(group: zarr.Group, model: Model) -> None:
    p = model.parameters
    checksums = {}
    for name in _ARRAYS:
        values = np.ascontiguousarray(getattr(p, name), dtype="<f8")
        made = group.create_array(
            name, shape=values.shape, dtype="f8", chunks=values.shape, compressors=None, overwrite=True
        )
        made.with_config({"write_empty_chunks": True})[...] = values
        checksums[name] = hashlib.sha256(values.tobytes()).hexdigest()
    whole: dict[str, Record] = {_POSTERIOR: p} if isinstance(p, Posterior) else {}
    beside = write_beside(group, {**model.beside, **whole})
    # One write of one file, the last of them.
    group.attrs.put(
        {
            "format_version": FORMAT_VERSION,
            "covariance_type": p.family.name,
            "n_components": p.n_components,
            "n_features": p.n_features,
            "checksums": checksums,
            **({} if p.noise is None else {"noise": p.noise.json}),
            "record": {
                **model.record,
                **({"fixed": list(p.fixed)} if p.fixed else {}),
                **({"beside": beside} if beside else {}),
            },
            "format": FORMAT,
        }
    )


def _write_remote(model: Model, url: str, *, overwrite: bool) -> None:
    try:
        _write(_unfinished_group(url, overwrite=overwrite), model)
    except FileExistsError as error:
        raise OutputError(
            "the output",
            "not exist yet",
            f"{shown(url)}, which does",
            "Choose another, or use `overwrite=True`.",
        ) from error
    except Exception as error:
        if not of_a_store(error):
            raise
        raise OutputError(
            "the output",
            "be writable",
            f"{error} for {shown(url)}",
            f"To go on, {remedy(error)}, and run the same again, or choose another place.",
        ) from error


def _unfinished_group(url: str, *, overwrite: bool) -> zarr.Group:
    """Return a group at a URL that says it is unfinished: a new one, what is left of one, or a model to be replaced.

    What is no model is never removed: FileExistsError.
    """
    attributes: dict[str, Any] = {"format": UNFINISHED}
    if not (is_unfinished(url) or (overwrite and is_model(url))):
        return zarr.open_group(url, mode="w-", zarr_format=3, attributes=attributes)
    group = zarr.open_group(url, mode="r+", use_consolidated=False)
    group.attrs.put(attributes)
    return group


def _open(place: str) -> zarr.Group:
    refuse_secrets(place, argument="the model")
    label = shown(place)
    try:
        if "://" not in place:
            for name in ("", *_ARRAYS):
                file_stamp(os.path.join(place, name, "zarr.json"))  # (a pipe would never answer)
        return zarr.open_group(place, mode="r")
    except DataError:
        raise
    except FileNotFoundError as error:
        if "://" not in place and os.path.exists(place):
            must, got, todo = "be a daskgmm model file", "something else", _NO_DATA
        else:
            must, got, todo = "be there", "nothing", "Check the path."
        raise InputMissingError("the model", must, f"{got} at {label}", todo) from error
    except zarr.errors.ContainsArrayError as error:
        raise DataError("the model", "be a daskgmm model file", f"a Zarr array at {label}", _NO_DATA) from error
    except Exception as error:
        if "://" in place and (refused(error) or unreachable(error)):
            raise InputMissingError(
                "the model",
                "be reachable",
                f"{error} for {label}",
                "Check the address, the network and the credentials.",
            ) from error
        if isinstance(error, PermissionError):
            raise _unreadable(error, label) from error
        # Whatever a damaged metadata file makes Zarr raise.
        raise DataError("the model", "be readable", f"{error!r} for {label}", "Check the path.") from error


def _unreadable(error: PermissionError, place: str) -> InputMissingError:
    what = error.filename if isinstance(error.filename, str) else place
    return InputMissingError(
        "the model",
        "be readable",
        f"{error.strerror or error} for {what}",
        "Give the user who runs this the right to read it, or run it as its owner.",
    )


def is_model(place: str) -> bool:
    """Return whether a model file of this project stands at a path or URL, whole or damaged."""
    return bool(_format(place) == FORMAT)


def is_unfinished(place: str) -> bool:
    """Return whether a model of this project stands at a URL that a process still writes, or was killed writing."""
    return bool(_format(place) == UNFINISHED)


def _format(place: str) -> Any:
    try:
        return dict(_open(place).attrs).get("format")
    except (DataError, InputMissingError):
        return None


def _read(group: zarr.Group, name: str, shape: tuple[int, ...], checksum: Any, place: str) -> Floats:
    array = group[name]
    if not isinstance(array, zarr.Array) or array.shape != shape or array.dtype != np.dtype("f8"):
        found = f"{array.shape}, {array.dtype}," if isinstance(array, zarr.Array) else "a group"
        raise DataError(f"the model's {name}", f"have shape {shape}, float64", f"{found} in {place}", "Fit it again.")
    try:
        n_bytes = _stored_bytes(array)
        if n_bytes != array.nbytes:
            raise ValueError(f"{n_bytes} bytes for {array.nbytes}")
        values = np.ascontiguousarray(array[...], dtype="<f8")
    except PermissionError:
        raise
    except Exception as error:
        # Whatever a damaged chunk makes its store raise.
        raise DataError(f"the model's {name}", "be readable", f"{error!r} in {place}", "Fit it again.") from error
    if hashlib.sha256(values.tobytes()).hexdigest() != checksum:
        raise DataError(f"the model's {name}", "match its checksum", f"a damaged array in {place}", "Fit it again.")
    return values


def _stored_bytes(array: zarr.Array[Any]) -> int:
    """Return the bytes of the only chunk, stored as they are: no more than these is allocated for the array."""
    codecs = [*array.filters, array.serializer, *array.compressors]
    if array.shards or array.chunks != array.shape or [type(codec) for codec in codecs] != [BytesCodec]:
        raise ValueError(f"chunks of {array.chunks} by {codecs}, shards of {array.shards}")
    key = array.metadata.encode_chunk_key((0,) * array.ndim)
    return sync(array.store_path.store.getsize(f"{array.path}/{key}"))
