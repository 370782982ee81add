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
    assert heading.split()[-2:] == ["ra", "parallax_…"]
    assert len(heading) == len(first) == len(second)
    assert first.split()[1] == "1"
    assert second.split()[1] == "3e-06"
    assert "mean of features 1 to 2" in component_table({**found, "feature_names": None})
