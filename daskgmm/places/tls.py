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
_OPTIONS = {"ca_file": "`tls_ca_file`", "cert": "`tls_cert`", "key": "`tls_key`"}
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
        raise OptionError("Dask's configuration of TLS", "be valid", error, "Correct it.") from error


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
                " and ".join(lacking),
                "be set too, as distributed.comm.require-encryption is",
                "nothing in Dask's configuration",
                "Name the files there, or by `tls_ca_file`, `tls_cert` and `tls_key`.",
            )
        given = {what: files[what] for what in name if files[what]}
        if lacking or any("\n" in file for file in given.values()):
            continue  # no TLS; or PEM itself instead of files, which Dask takes too

        for what, file in given.items():
            if not os.path.isfile(file):
                raise OptionError(name[what], "be a file", f"{file}, which is none", "Correct the path.")
        with _refused(name["ca_file"], "be certificates in PEM", given["ca_file"]):
            context = ssl.create_default_context(cafile=given["ca_file"])
        pair = [name[what] for what in ("cert", "key") if what in given]
        found = " and ".join(given[what] for what in ("cert", "key") if what in given)
        with _refused(" and ".join(pair), "be a certificate and its own key in PEM, without a password", found):
            # (Without a password given, OpenSSL asks for it on the terminal, and so does each worker.)
            context.load_cert_chain(given["cert"], given.get("key"), password="")
        if files["ciphers"]:
            with _refused("distributed.comm.tls.ciphers", "be ciphers that OpenSSL has", files["ciphers"]):
                context.set_ciphers(files["ciphers"])


@contextmanager
def _refused(argument: str, requirement: str, got: str) -> Iterator[None]:
    """Raise an OptionError where OpenSSL refuses what the block gives it."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise OptionError(argument, requirement, f"{got} ({error})", "Correct it.") from error


def check_address(security: Security, address: str, *, by_options: bool) -> None:
    """Raise an OptionError for a scheduler with TLS where there are no files for it, or without where it must be."""
    encrypted = parse_address(address)[0] in _ENCRYPTED
    if encrypted and security.get_connection_args("client")["ssl_context"] is None:
        raise OptionError(
            "`tls_ca_file`, `tls_cert` and `tls_key`",
            "be given for a scheduler with TLS",
            f"none of them for {address}",
            "Name the files, or set them in Dask's configuration.",
        )
    if security.require_encryption and not encrypted:
        what = "`tls_ca_file`" if by_options else "distributed.comm.require-encryption (Dask's configuration)"
        raise OptionError("The scheduler", "be one with TLS, tls://...", address, f"Leave {what} out.")
