"""A fit each night by Airflow, on a Dask cluster that stays, and a use of its result."""

import json
from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag, task

# A place that each worker of Airflow and of Dask sees: a retry may run on another machine, in a new working folder.
PLACE = "s3://my-bucket"
WHERE = "--scheduler tcp://dask-scheduler:8786"


@dag(schedule="0 2 * * *", start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1)
def daskgmm_nightly():
    """Fit a model that is named by its night."""
    fit = BashOperator(
        task_id="fit",
        # 3, done and not converged, is a result: without --accept-not-converged the task would fail.
        bash_command=f"exec daskgmm fit {PLACE}/rows.zarr --components 8 --output {PLACE}/models/{{{{ ds }}}}.zarr "
        f"--checkpoint {PLACE}/checkpoints/{{{{ ds }}}} --accept-not-converged {WHERE}",
        # 69 and 75 (no workers in time, interrupted) go on from the checkpoint. Other failures fail again, at once.
        retries=4,
        retry_delay=timedelta(minutes=2),
        # The last line that is written is the result, as JSON: here it becomes the task's.
        output_processor=json.loads,
    )

    @task
    def judge(result: dict) -> None:
        print(f"{result['status']} after {result['n_passes']} passes, BIC {result['bic']:.1f}: {result['output']}")

    judge(fit.output)


nightly = daskgmm_nightly()
