"""A fit each night by Airflow, on a Dask cluster that stays."""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag

# Paths and URLs that each worker of Airflow sees: a retry may run on another machine, and its working directory is new.
PLACE = "s3://my-bucket"


@dag(schedule="0 2 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1)
def daskgmm_nightly():
    """Fit a model, named by its night, and score it."""
    fit = BashOperator(
        task_id="fit",
        bash_command=(
            f"daskgmm fit {PLACE}/rows.zarr --components 8 --output {PLACE}/models/{{{{ ds }}}}.zarr "
            f"--checkpoint {PLACE}/checkpoints/{{{{ ds }}}} --scheduler tcp://dask-scheduler:8786 --accept-not-converged "
            # 69 and 75 (no workers in time, interrupted) are tried again, and go on; 99 fails the task at once.
            '|| { code=$?; case $code in 69|75) exit $code;; *) exit 99;; esac; }'
        ),
        retries=5,
        retry_delay=timedelta(minutes=2),
    )
    fit


daskgmm_nightly()
