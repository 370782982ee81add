"""The options of the noise: a uniform density beside the components."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daskgmm.fitting.option import Option, declare
from daskgmm.mixture.record import Record

if TYPE_CHECKING:
    from daskgmm.mixture.noise import Noise

_WORDS: dict[Any, str] = {False: "no", True: "yes"}


def _parsed(text: str) -> bool | float:
    """Return what is typed for `noise`."""
    found = {word: choice for choice, word in _WORDS.items()}
    if text in found:
        return bool(found[text])
    try:
        return float(text)
    except ValueError:
        raise ValueError("is neither yes, no nor a volume") from None


def _noise_rule(options: NoiseOptions, value: Any) -> str:
    from daskgmm.mixture.noise import Noise  # (NumPy: the command line's help needs it not)

    return _NOISE if isinstance(value, Record) and not isinstance(value, Noise) else ""


def _weight_rule(options: NoiseOptions, value: Any) -> str:
    return "below 1, which the components need some of" if value == 1 else ""


_NOISE = "`False`, `True` or a positive volume"


@dataclass(frozen=True)
class NoiseOptions(Record):
    """What is asked of the noise.

    Attributes
    ----------
    noise : False, True, float, or Noise
        Whether a uniform density stands beside the components: over the robust box of the sample, or over a volume, in
        units of the features multiplied. A fit puts the noise itself there once it knows the volume.
    noise_weight_init : float
        Its mixing weight at the start.
    """

    noise: bool | float | Record = declare(
        False,
        Option(
            help="A uniform density for rows that belong to no component. yes: over a box that holds 99 % of the "
            "sample along each principal axis. A number: over this volume, in units of the data.",
            flag="--noise", section="Mixture", metavar="yes|VOLUME", parse=_parsed, number=float, above_least=True,
            choices=(False, True), types=(Record,), words=_WORDS, must_be=_NOISE, rule=_noise_rule,
            remedy="`True` takes the volume of a box around the sample.",
        ),
    )  # fmt: skip
    noise_weight_init: float = declare(
        0.05,
        Option(
            help="Weight of the noise at the start.", flag="--noise-weight", section="Mixture", metavar="SHARE",
            number=float, above_least=True, most=1, rule=_weight_rule,
        ),
    )  # fmt: skip

    @property
    def known_noise(self) -> Noise | None:
        """The noise of a start, once its volume is known; None without noise."""
        from daskgmm.mixture.noise import Noise

        return self.noise if isinstance(self.noise, Noise) else None
