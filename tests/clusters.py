"""How the tests' own clusters listen: on this machine only, and on no port that another cluster may have."""

from typing import Any

#: Keywords of a LocalCluster. (Without a dashboard its port is still served, by default 8787.)
LOCAL: dict[str, Any] = {
    "host": "127.0.0.1",
    "dashboard_address": None,
    "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"},
}
