"""Processes whose card is the host: what computes on it is the same, and so is all that leads there.

A worker that is started with this module as its `preload` has one.
"""

from functools import cache

from daskgmm.passes import card
from daskgmm.passes.card import CardInfo
from tests.kernels.host_card import HostCard

INFO = CardInfo("Host", "C++", 1 << 34, 1 << 33, "0")


def here(identity: str = "0") -> CardInfo:
    return CardInfo(INFO.name, INFO.versions, INFO.total_bytes, INFO.free_bytes, identity)


def dask_setup(worker) -> None:
    """Give a worker a card of its own."""
    identity = str(worker.name)
    card.the_card, card.card_here = cache(HostCard), lambda: here(identity)
