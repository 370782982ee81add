"""How far a command is as text for Prometheus, which node_exporter's textfile collector reads.

Units are base units, and log-likelihoods nats a row; what is not known has no line. Every series has the label
`output`, so that files of several commands stand beside each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Name, type, what it says, and the key of the record.
METRICS = (
    ("daskgmm_began_timestamp_seconds", "gauge", "When this process began, in seconds since 1970.", "began"),
    ("daskgmm_written_timestamp_seconds", "gauge", "When this was written: a process that lives writes it.", "written"),
    ("daskgmm_ended_timestamp_seconds", "gauge", "When the work ended; absent before.", "ended"),
    ("daskgmm_saved_timestamp_seconds", "gauge", "When the checkpoint was last written.", "saved"),
    ("daskgmm_passes_total", "counter", "Passes over the data, earlier tries included.", "n_passes"),
    ("daskgmm_pass_ratio", "gauge", "Share of the pass under way that is done, 0 to 1.", "share"),
    ("daskgmm_pass_duration_seconds", "gauge", "Time of the last pass.", "pass_seconds"),
    ("daskgmm_rows_total", "counter", "Rows that passes of this process went over.", "rows"),
    ("daskgmm_bytes_total", "counter", "Decoded bytes that passes of this process went over.", "bytes"),
    ("daskgmm_mean_log_likelihood_nats", "gauge", "Of the best candidate, a row.", "mean_log_likelihood"),
    ("daskgmm_change_nats", "gauge", "Change of it in the last iteration.", "change"),
    ("daskgmm_remaining_seconds", "gauge", "Estimated time to the end.", "remaining_seconds"),
    ("daskgmm_workers", "gauge", "Worker processes.", "workers"),
    ("daskgmm_exit_code", "gauge", "Exit code of a command that failed or was interrupted.", "exit_code"),
)
#: What a command can be: of these series one is 1.
STATES = ("running", "done", "interrupted", "failed")


def metrics_text(record: Mapping[str, Any]) -> str:
    """Return a record as the text format of Prometheus, version 0.0.4."""
    label = f'output="{_escaped(record["output"])}"'
    about = f'{label},command="{record["command"]}",version="{_escaped(record["version"])}"'
    lines = _metric("daskgmm_info", "gauge", "What is at work: always 1.", {about: 1})
    states = {f'{label},state="{state}"': int(state == record["state"]) for state in STATES}
    lines += _metric("daskgmm_state", "gauge", "1 for the state that it is in, 0 for the others.", states)
    result = record.get("result") or {}
    if isinstance(result.get("converged"), bool):
        lines += _metric("daskgmm_converged", "gauge", "Whether the fit has converged.", {label: result["converged"]})
    for name, kind, text, key in METRICS:
        if record.get(key) is not None:
            lines += _metric(name, kind, text, {label: record[key]})
    return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, text: str, series: Mapping[str, float]) -> list[str]:
    values = [f"{name}{{{labels}}} {float(value)!r}" for labels, value in series.items()]
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *values]


def _escaped(text: str) -> str:
    """Return the value of a label."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
