"""Numbers of a column: one notation, and digits that tell them apart."""

from __future__ import annotations

import numpy as np
import pytest

from daskgmm.pictures.notation import in_one_notation, ratios, shares, with_deviations


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([604.1234, 0.0123, -3.0], ["604.1", "0.0", "-3.0"]),
        ([0.001234, 0.0005], ["0.0012340", "0.0005000"]),
        ([1e8 + 0.125, 1e8 + 0.5], ["100,000,000.1250", "100,000,000.5000"]),
        ([1e20, 2.5e19], ["1.000e+20", "2.500e+19"]),
        ([1e-20, 2.5e-19], ["1.000e-20", "2.500e-19"]),
        ([5.0, 5.0], ["5.000", "5.000"]),
        ([0.0, 0.0], ["0", "0"]),
        ([None, 2.0, float("nan")], ["", "2.000", ""]),
        ([], []),
    ],
)
def test_a_column_has_one_notation(values: list[float | None], expected: list[str]) -> None:
    assert in_one_notation(values) == expected


@pytest.mark.parametrize(
    ("means", "deviations", "expected"),
    [
        ([604.1, 3.25], [150.0, 0.5], ["604.10 ± 150.00", "3.25 ± 0.50"]),
        ([12345.0, 1.0], [1500.0, 300.0], ["12,345 ± 1,500", "1 ± 300"]),
        ([1e8 + 0.0625, 1e8], [0.0015, 0.002], ["100,000,000.0625 ± 0.0015", "100,000,000.0000 ± 0.0020"]),
        ([604.1, 3.25], [1500.0, 1e-3], ["6.0410000e+02 ± 1.5e+03", "3.2500000e+00 ± 1.0e-03"]),
        ([1e-9, 2e-9], [1e-10, 1e-10], ["0.00000000100 ± 0.00000000010", "0.00000000200 ± 0.00000000010"]),
        ([1e30, 2e30], [1e29, 1e29], ["1.000e+30 ± 1.0e+29", "2.000e+30 ± 1.0e+29"]),
    ],
)
def test_a_mean_and_its_deviation_have_the_same_notation(
    means: list[float], deviations: list[float], expected: list[str]
) -> None:
    assert with_deviations(np.array(means), np.array(deviations)) == expected


def test_no_share_is_shown_as_nothing() -> None:
    assert shares([0.5, 0.00016, 4.9e-5, 1e-12]) == ["0.5000", "0.0002", "< 0.0001", "< 0.0001"]


def test_ratios_are_fixed_while_they_are_short() -> None:
    assert ratios([1.0, 12.345, 4321.0]) == ["1.00", "12.35", "4,321.00"]
    assert ratios([1.0, 123456.0, float("inf")]) == ["1.00e+00", "1.23e+05", ""]
