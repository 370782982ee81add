"""The table of `inspect`: names of features, and no weight of 0."""

from __future__ import annotations

from daskgmm.pictures.report import component_table


def test_the_table_has_the_names_of_features_and_small_weights() -> None:
    found = {
        "components": 2, "features": 2, "covariance": "full", "free_parameters": 11, "converged": True, "n_iter": 3,
        "weights": [1 - 3e-6, 3e-6], "means": [[1.0, 2.0], [3.0, 4.0]], "condition_numbers": [1.0, 2.0],
        "counts": [1e7, 30.0], "support": [9e6, 70.0], "feature_names": ["ra", "parallax_error"],
    }  # fmt: skip
    _, heading, first, second = component_table(found).splitlines()
    assert heading.endswith("mean ra  mean parallax_…")
    assert len(heading) == len(first) == len(second)
    assert first.split() == ["0", "1.0000", "10,000,000", "9,000,000.0", "1.00", "1.000", "2.000"]
    assert second.split() == ["1", "<", "0.0001", "30", "70.0", "2.00", "3.000", "4.000"], "its rows tell how few"
    assert "mean 1  mean 2" in component_table({**found, "feature_names": None})


def test_each_column_has_one_notation() -> None:
    found = {
        "components": 2, "features": 6, "covariance": "full", "free_parameters": 55, "converged": None, "n_iter": None,
        "weights": [0.6, 0.4], "means": [[604.1, 1e20, 1, 1, 1, 1], [0.00123, 3e20, 1, 1, 1, 1]],
        "condition_numbers": [3.0, 2e9],
    }  # fmt: skip
    _, _, first, second, rest = component_table(found).splitlines()
    assert first.split()[:4] == ["0", "0.6000", "3.00e+00", "604.1"]
    assert second.split()[:5] == ["1", "0.4000", "2.00e+09", "0.0", "3.000e+20"]
    assert rest == "... and 1 more features: the JSON has them"
