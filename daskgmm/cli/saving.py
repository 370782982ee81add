"""Where a command keeps its progress, so that the same command goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from daskgmm.cli.outputs import check_place, differences
from daskgmm.cli.standing import Standing, told
from daskgmm.cli.terminal import strict_json
from daskgmm.errors import DataError, OptionError, OutputError
from daskgmm.stores.checkpoint import Checkpoint
from daskgmm.stores.status_file import checkpoint_place
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
    metrics : str or None
        File of metrics for Prometheus.
    """

    every: float = 60.0
    place: str | None = None
    metrics: str | None = None

    def place_of(self, output: str) -> str:
        """Return where the checkpoint of an output is."""
        return self.place or checkpoint_place(output)

    def check(self, output: str, *, inputs: Mapping[str, str | Sequence[str]]) -> None:
        """Raise an error where the output or the checkpoint cannot be written, before any work is done."""
        check_place(output, inputs=inputs)
        if self.place is not None:
            check_place(self.place, inputs={**inputs, "--output": output}, option="--checkpoint")
            check_place(output, inputs={"--checkpoint": self.place})
        if self.metrics is not None:
            if "://" in self.metrics or not self.metrics.endswith(".prom"):
                raise OptionError("--metrics", "be a path that ends with .prom", self.metrics, "Rename it.")
            check_place(self.metrics, inputs={**inputs, "--output": output}, option="--metrics")

    @contextmanager
    def work(self, output: str, now: Mapping[str, Any], *, force: bool) -> Iterator[Saved]:
        """Provide the checkpoint of an output, from which the work goes on if it is the same, to this process alone.

        How far the work is is noted beside it, for others, until it ends.

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
            checkpoint = self._begun(output, json.loads(strict_json(now)), force=force)
            standing = self._standing(output, now, checkpoint=checkpoint, replaces=force)
            keeps = self.place is not None
            with told(standing, kept=keeps):
                yield Saved(checkpoint, standing, keeps)

    def done_before(self, output: str, now: Mapping[str, Any], result: Mapping[str, Any]) -> None:
        """Remove what is left of the checkpoint of an output that is complete, and note its result."""
        place = self.place_of(output)
        # (Something else stands there, or it cannot be removed, or is another process's: the output is complete.)
        kept = self.place is not None
        if "://" in place or os.path.isdir(plain_path(place)):
            with suppress(OutputError), Checkpoint.held(place):
                Checkpoint.remove(place, but_status=kept)
        if kept or self.metrics is not None:
            self._standing(output, now).end("done", keep=kept, result=dict(result))

    def _standing(self, output: str, now: Mapping[str, Any], **others: Any) -> Standing:
        return Standing(now["command"], output, self.place_of(output), metrics=self.metrics, **others)

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


@dataclass(frozen=True)
class Saved:
    """A piece of work whose progress is kept: its checkpoint, and what others are told of it."""

    checkpoint: Checkpoint
    standing: Standing
    keeps: bool

    def remove(self) -> None:
        """Remove the checkpoint, if that can be: nothing may go on from it."""
        with suppress(OutputError):
            self.checkpoint.clear()

    def done(self, result: Mapping[str, Any]) -> None:
        """Note the result of a complete output, and remove the checkpoint, if that can be.

        Of a place that was named the record stays.
        """
        self.standing.end("done", keep=self.keeps, result=dict(result))
        with suppress(OutputError):
            Checkpoint.remove(self.checkpoint.place, but_status=self.keeps)


def _untimed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a piece of work without the times of its inputs."""

    def without(value: Any) -> Any:
        return {k: v for k, v in value.items() if k != "modified"} if isinstance(value, dict) else value

    inputs = record.get("input")
    return {**record, "input": {k: without(v) for k, v in inputs.items()} if isinstance(inputs, dict) else inputs}
