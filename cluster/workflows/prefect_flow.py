"""A fit by Prefect: python prefect_flow.py ROWS COMPONENTS MODEL [OPTIONS OF daskgmm fit]."""

import json
import subprocess
import sys

from prefect import flow, task

#: No workers in time, interrupted: what goes on from the checkpoint when it is tried again.
MAY_PASS = {69, 75}


def may_pass(task, run, state) -> bool:
    """Whether another try may end otherwise."""
    try:
        state.result()
    except subprocess.CalledProcessError as error:
        return error.returncode in MAY_PASS
    except Exception:
        return False
    return False


@task(retries=4, retry_delay_seconds=120, retry_condition_fn=may_pass)
def daskgmm(*arguments: str) -> dict:
    """Run a command; its result. (The command, not the library: it has the exit codes, and is a process of its own.)"""
    completed = subprocess.run(["daskgmm", *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(completed.stdout)


@flow(log_prints=True)
def fit(rows: str, components: str, model: str, *options: str) -> dict:
    """Fit a model; 3, done and not converged, is a result too."""
    checkpoint = f"{model}.checkpoint"
    arguments = ["--components", components, "--output", model, "--checkpoint", checkpoint, "--accept-not-converged"]
    result = daskgmm("fit", rows, *arguments, *options)
    print(f"{result['status']} after {result['n_passes']} passes, BIC {result['bic']:.1f}: {result['output']}")
    return result


if __name__ == "__main__":
    fit(*sys.argv[1:])
