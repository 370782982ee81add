"""TLS of a cluster, by the options or by Dask's own configuration, checked before it is used."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed.comm.addressing import parse_address
from distributed.security import Security

from daskgmm.errors import OptionError

#: Schemes of addresses whose connections are encrypted.
_ENCRYPTED = ("tls", "wss")
#: What names each file.
_OPTIONS = {"ca_file": "--tls-ca-file", "cert": "--tls-cert", "key": "--tls-key"}
_CONFIGURATION = {"ca_file": "distributed.comm.tls.ca-file"} | {
    what: f"distributed.comm.tls.{{}}.{what}" for what in ("cert", "key")
}


def security_of(ca_file: str | None, cert: str | None, key: str | None) -> Security:
    """Return what connections are protected by: the files of the options, or without these Dask's configuration."""
    files: dict[str, Any] = {}
    if ca_file is not None:
        files = {"require_encryption": True, "tls_ca_file": ca_file}
        for who in ("client", "scheduler", "worker"):
            files |= {f"tls_{who}_cert": cert, f"tls_{who}_key": key}
    try:
        return Security(**files)
    except ValueError as error:
        raise OptionError(f"Dask's configuration of TLS must be valid; got {error}. Correct it.") from error


def check_files(security: Security, *roles: str, by_options: bool) -> None:
    """Raise an OptionError that names a file which is wanting, or is not what it must be.

    Parameters
    ----------
    roles : {"client", "scheduler", "worker"}
        Who in this process, or started by it, needs its files.
    by_options : bool
        Whether options named the files, or Dask's configuration did.
    """
    for role in roles:
        files = security.get_tls_config_for_role(role)
        name = _OPTIONS if by_options else {what: said.format(role) for what, said in _CONFIGURATION.items()}
        lacking = [name[what] for what in ("ca_file", "cert") if not files[what]]
        if lacking and security.require_encryption:
            raise OptionError(
                f"{' and '.join(lacking)} must be set too, as distributed.comm.require-encryption is; got nothing in "
                "Dask's configuration. Name the files there, or by --tls-ca-file, --tls-cert and --tls-key."
            )
        given = {what: files[what] for what in name if files[what]}
        if lacking or any("\n" in file for file in given.values()):
            continue  # no TLS; or PEM itself instead of files, which Dask takes too

        for what, file in given.items():
            if not os.path.isfile(file):
                raise OptionError(f"{name[what]} must be a file; got {file}, which is none. Correct the path.")
        with _told(f"{name['ca_file']} must be certificates in PEM; got {given['ca_file']}"):
            context = ssl.create_default_context(cafile=given["ca_file"])
        pair = [name[what] for what in ("cert", "key") if what in given]
        with _told(f"{' and '.join(pair)} must be a certificate and its own key in PEM, without a password; got "
                   f"{' and '.join(given[what] for what in ('cert', 'key') if what in given)}"):  # fmt: skip
            # (Without a password given, OpenSSL asks for it on the terminal, and so does each worker.)
            context.load_cert_chain(given["cert"], given.get("key"), password="")
        if files["ciphers"]:
            with _told(f"distributed.comm.tls.ciphers must be ciphers that OpenSSL has; got {files['ciphers']}"):
                context.set_ciphers(files["ciphers"])


@contextmanager
def _told(message: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise OptionError(f"{message} ({error}). Correct it.") from error


def check_address(security: Security, address: str, *, by_options: bool) -> None:
    """Raise an OptionError for a scheduler with TLS where there are no files for it, or without where it must be."""
    encrypted = parse_address(address)[0] in _ENCRYPTED
    if encrypted and security.get_connection_args("client")["ssl_context"] is None:
        raise OptionError(
            f"--tls-ca-file, --tls-cert and --tls-key must be given for a scheduler with TLS; got none of them for "
            f"{address}. Name the files, or set them in Dask's configuration."
        )
    if security.require_encryption and not encrypted:
        what = "--tls-ca-file" if by_options else "distributed.comm.require-encryption (Dask's configuration)"
        raise OptionError(f"The scheduler must be one with TLS, tls://...; got {address}. Leave {what} out.")
