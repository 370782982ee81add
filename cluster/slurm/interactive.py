"""A cluster that grows and shrinks with the work, from a session of Python: workers are jobs of SLURM of their own."""

import os
import sys

from dask_jobqueue import SLURMCluster
from distributed import Client

from daskgmm import GaussianMixture


def main(data: str, n_components: str, model: str) -> None:
    """Fit a mixture, and save it."""
    cluster = SLURMCluster(
        # One process of one thread a job: SLURMCluster does not replace a job of several processes that was lost.
        cores=1,
        processes=1,
        memory="2GiB",
        walltime="01:00:00",
        # A worker leaves before its job's time is over; the next job takes its place.
        worker_extra_args=["--lifetime", "55m", "--lifetime-stagger", "4m"],
        interface=os.environ.get("INTERFACE"),
        # Whoever reaches a scheduler can run code as you: certificates of this cluster keep others out.
        security=True,
        shared_temp_directory=os.getcwd(),
        scheduler_options={"dashboard_address": "127.0.0.1:0", "interface": os.environ.get("INTERFACE")},
    )
    with cluster, Client(cluster) as client:
        cluster.adapt(minimum_jobs=1, maximum_jobs=10)  # not scale(): that replaces no job that was lost
        client.wait_for_workers(1)
        GaussianMixture(int(n_components), random_state=0).fit(data).save(model)


if __name__ == "__main__":
    main(*sys.argv[1:])
