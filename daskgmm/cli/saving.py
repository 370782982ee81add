"""Where a command keeps its progress, so that the same command goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from daskgmm.cli.outputs import check_place, differences
from daskgmm.cli.terminal import strict_json
from daskgmm.errors import DataError, OutputError
from daskgmm.stores.checkpoint import Checkpoint
from daskgmm.stores.storage import plain_path


@dataclass(frozen=True)
class Saving:
    """How a command keeps its progress.

    Attributes
    ----------
    every : float
        Seconds between two writes within a pass.
    place : str or None
        Path or URL of the checkpoint; None is beside the output.
    """

    every: float = 60.0
    place: str | None = None

    def place_of(self, output: str) -> str:
        """Return where the checkpoint of an output is."""
        return self.place or checkpoint_place(output)

    def check(self, output: str, *, inputs: Mapping[str, str | Sequence[str]]) -> None:
        """Raise an error where the output or the checkpoint cannot be written, before any work is done."""
        check_place(output, inputs=inputs)
        if self.place is not None:
            check_place(self.place, inputs={**inputs, "--output": output}, option="--checkpoint")
            check_place(output, inputs={"--checkpoint": self.place})

    @contextmanager
    def checkpoint(self, output: str, now: Mapping[str, Any], *, force: bool) -> Iterator[Checkpoint]:
        """Provide the checkpoint of an output, from which the work goes on if it is the same, to this process alone.

        Parameters
        ----------
        now : mapping
            "command", "options" and "input" of the work that is asked for, as JSON.
        force : bool
            Whether a checkpoint of other work, or a damaged one, is to be given up.

        Raises
        ------
        OutputError
            It is of other input or options, or another process has it.
        DataError
            It is damaged.
        """
        with Checkpoint.held(self.place_of(output)):
            yield self._begun(output, json.loads(strict_json(now)), force=force)

    def remove(self, output: str) -> None:
        """Remove what is left of the checkpoint of a complete output, also of a process that was killed before."""
        place = self.place_of(output)
        # (Something else stands there, or it cannot be removed, or is another process's: the output is complete.)
        if "://" in place or os.path.isdir(plain_path(place)):
            with suppress(OutputError), Checkpoint.held(place):
                Checkpoint.remove(place)

    def _begun(self, output: str, asked: dict[str, Any], *, force: bool) -> Checkpoint:
        place = self.place_of(output)
        try:
            checkpoint = Checkpoint.at(place, every=self.every)
            if force:
                checkpoint.check()
            if checkpoint.record is not None:
                with checkpoint.going_on():
                    # (What has been written to since is told by its rows, where the work goes on.)
                    found = differences(_untimed(checkpoint.record), _untimed(asked))
                if found:
                    option = "--output" if self.place is None else "--checkpoint"
                    raise OutputError(
                        "the checkpoint" if self.place else "the checkpoint of --output",
                        "be of the same work",
                        f"{place}, where {'; '.join(found)}",
                        f"Use --force to start again without it, or choose another {option}.",
                    )
        except (OutputError, DataError):
            if not force:
                raise
            Checkpoint.remove(place)
            checkpoint = Checkpoint.at(place, every=self.every)
        checkpoint.begin(asked)
        return checkpoint


def checkpoint_place(output: str) -> str:
    """Return where the checkpoint of an output is, unless another place was named: beside it."""
    return f"{output.rstrip('/')}.checkpoint"


def _untimed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a piece of work without the times of its inputs."""

    def without(value: Any) -> Any:
        return {k: v for k, v in value.items() if k != "modified"} if isinstance(value, dict) else value

    inputs = record.get("input")
    return {**record, "input": {k: without(v) for k, v in inputs.items()} if isinstance(inputs, dict) else inputs}
