"""The option of the device that computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from daskgmm.errors import OptionError
from daskgmm.fitting.option import Option, declare
from daskgmm.mixture.record import Record


def not_on_a_card(options: Any) -> str:
    """Return what options ask for that no card does yet; "" where one does all of it."""
    if options.precision == "single":
        return "`precision` single, which gains nothing there"
    if options.label_components is not None:
        return "`label_components`"
    return not_of_rows(options.kernel, options.non_finite)


def not_of_rows(kernel: Any, non_finite: str) -> str:
    """Return what no card does yet of a kernel, and of rows that lack values; "" where one does all of it."""
    if non_finite == "marginalize":
        return "`non_finite` marginalize"
    return "measurement errors, or a `kernel` of yours" if isinstance(kernel, Record) else ""


def _device_rule(options: Any, value: Any) -> str:
    said = not_on_a_card(options) if value == "cuda" else ""
    return f"'cpu' or 'auto' with {said}" if said else ""


@dataclass(frozen=True)
class DeviceOptions(Record):
    """Where the arithmetic of a pass is done.

    Attributes
    ----------
    device : {"cpu", "cuda", "auto"}
        The processor; a card of NVIDIA's in every process that runs passes; or cards where all of them have one and it
        does what is asked, else processors. k-means, also k-means||, is the processor's.
    """

    device: str = declare(
        "cpu",
        Option(
            help="What computes. cuda: an NVIDIA card, for each worker one of its own. auto: cards, if there are some "
            "that can do it. (Not run on a card yet in this version: see README.)",
            flag="--device", choices=("cpu", "cuda", "auto"), rule=_device_rule, remedy="Take cpu.",
        ),
    )  # fmt: skip


def refuse_cards(options: Any, where: str) -> None:
    """Raise an OptionError for another device than the processor, where none can be used."""
    if options.device != "cpu":
        raise OptionError("`device`", f"be cpu {where}", options.device, "Leave it out here.")
