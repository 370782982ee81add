"""An asynchronous client: said, and what is advised works."""

from __future__ import annotations

import asyncio

import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster

from daskgmm import GaussianMixture
from daskgmm.errors import OptionError
from tests.clusters import LOCAL

#: (Without a host: it is of this process.)
HERE = {name: value for name, value in LOCAL.items() if name != "host"}


def test_an_asynchronous_client_waits_in_a_thread() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 2))

    async def run() -> GaussianMixture:
        async with (
            LocalCluster(n_workers=1, threads_per_worker=1, processes=False, asynchronous=True, **HERE) as cluster,
            Client(cluster, asynchronous=True),
        ):
            mixture, X = GaussianMixture(1), da.from_array(rows, chunks=(10, 2))
            message = r"must not be asynchronous .*: await asyncio\.to_thread\(mixture\.fit, X\)"
            with pytest.raises(OptionError, match=message):
                mixture.fit(X)
            return await asyncio.to_thread(mixture.fit, X)

    np.testing.assert_allclose(asyncio.run(run()).means_[0], rows.mean(axis=0), rtol=1e-9)
