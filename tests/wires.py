"""Hosts that are network namespaces of this machine, joined by wires that are slow, lose packets and can be cut.

All packets from host to host go through a thread of the test, which holds each one back and drops some: what `tc netem`
does, for kernels without it.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address
from typing import Self

_TUN = "/dev/net/tun"
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
#: This machine's own address, and the first part of those of the hosts.
HERE, _NETWORK = "10.213.8.254", "10.213.8."


def missing() -> str:
    """Return why there can be no such hosts here, "" where there can."""
    if os.geteuid():
        return "needs root, for network namespaces"
    if shutil.which("ip") is None or not os.path.exists(_TUN):
        return f"needs the command ip and {_TUN}"
    return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Wires:
    """So many hosts as there are names; each reaches the others, and this machine them.

    Parameters
    ----------
    names : sequence of str
        Of the hosts, and of their namespaces.
    delay_seconds : float
        Of each packet, in each direction.
    loss : float
        Share of the packets that never come.
    """

    def __init__(self, names: Sequence[str], *, delay_seconds: float, loss: float) -> None:
        self.addresses = {name: f"{_NETWORK}{1 + i}" for i, name in enumerate(names)}
        self.cut: frozenset[str] = frozenset()  # addresses
        self.n_packets = self.n_lost = self.n_cut = 0
        self._delay_seconds, self._loss, self._random = delay_seconds, loss, random.Random(0)
        self._stack, self._done = ExitStack(), threading.Event()
        self._devices: dict[bytes, int] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for name, address in self.addresses.items():
                _ip("netns", "add", name)
                stack.callback(_ip, "netns", "del", name)
                self._devices[IPv4Address(address).packed] = self._device(stack, f"{name}w")
                _ip("link", "set", f"{name}w", "netns", name)
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", f"{name}w")
                _ip("-n", name, "link", "set", f"{name}w", "up")
                _ip("-n", name, "link", "set", "lo", "up")
            own = f"w{os.getpid()}"
            self._devices[IPv4Address(HERE).packed] = self._device(stack, own)
            _ip("addr", "add", f"{HERE}/24", "dev", own)
            _ip("link", "set", own, "up")
            thread = threading.Thread(target=self._carry, name="wires", daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(self._done.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def cut_off(self, *names: str) -> None:
        """Cut the wires of these hosts alone: packets on their way are lost, too."""
        self.cut = frozenset(self.addresses[name] for name in names)

    def _device(self, stack: ExitStack, name: str) -> int:
        device = os.open(_TUN, os.O_RDWR | os.O_NONBLOCK)
        stack.callback(os.close, device)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH14x", name.encode(), _IFF_TUN | _IFF_NO_PI))
        return device

    def _carry(self) -> None:
        waiting: list[tuple[float, int, bytes]] = []
        while not self._done.is_set():
            left = min(0.1, max(0.0, waiting[0][0] - time.monotonic())) if waiting else 0.1
            for device in select.select([*self._devices.values()], [], [], left)[0]:
                with suppress(BlockingIOError):
                    while True:
                        packet = os.read(device, 65536)
                        self.n_packets += 1
                        if self._random.random() < self._loss:
                            self.n_lost += 1
                        else:
                            heapq.heappush(waiting, (time.monotonic() + self._delay_seconds, self.n_packets, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                self._deliver(heapq.heappop(waiting)[2])

    def _deliver(self, packet: bytes) -> None:
        if packet[0] >> 4 != 4:  # (IPv6 looks for its neighbours)
            return
        sender, receiver = packet[12:16], packet[16:20]
        if {str(IPv4Address(sender)), str(IPv4Address(receiver))} & self.cut:
            self.n_cut += 1
        elif receiver in self._devices:
            with suppress(OSError):  # its queue is full, or it is going down: lost, as on a wire
                os.write(self._devices[receiver], packet)
