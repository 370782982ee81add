"""What a command and the processes that it has started listen at, and what answers there."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from socket import create_connection

import psutil
from distributed.comm import connect

Address = tuple[str, int]


def listening(number: int) -> list[Address]:
    """The addresses at which a process and its children listen."""
    command = psutil.Process(number)
    found = [c for process in (command, *command.children(recursive=True)) for c in process.net_connections("inet")]
    return [(c.laddr.ip, c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN]


def certified_context(folder: Path, name: str) -> ssl.SSLContext:
    """What a client needs who has the files that `clusters.certified` made."""
    context = ssl.create_default_context(cafile=folder / f"{name}-ca.pem")
    context.load_cert_chain(folder / f"{name}-cert.pem", folder / f"{name}-key.pem")
    context.check_hostname = False
    return context


def spoken(address: Address, context: ssl.SSLContext) -> str:
    """What is spoken at an address: "http", "dask" (unencrypted), or "TLS..." as which the right files are let in."""
    with create_connection(address, timeout=20) as plain:
        try:
            plain.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            answer = plain.recv(1000)
        except ConnectionError:
            answer = b""
    if answer.startswith(b"HTTP/"):
        return "http"
    if b"pickle-protocol" in answer:  # the greeting of Dask's connections
        return "dask"
    with create_connection(address, timeout=20) as plain, context.wrap_socket(plain) as encrypted:
        return str(encrypted.version())


def let_in_unencrypted(addresses: list[Address]) -> list[Address]:
    """Those at which a client of Dask without TLS gets a connection."""

    async def tried(ip: str, port: int) -> bool:
        try:
            comm = await connect(f"tcp://{ip}:{port}", timeout=2, require_encryption=False)
        except OSError:
            return False
        await comm.close()
        return True

    async def all_tried() -> list[bool]:
        return await asyncio.gather(*(tried(*address) for address in addresses))

    return [address for address, was in zip(addresses, asyncio.run(all_tried()), strict=True) if was]
