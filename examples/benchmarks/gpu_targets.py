"""What is to come of `gpu.py`, and what of it did not."""

import math

PARTS = ("limits", "tests", "passes", "kill", "fit")
#: Largest relative difference of a statistic from the processor's, in units of the largest of its kind.
TOLERANCE = 1e-11
#: Milliseconds of the prototype, and of scikit-learn on torch's arrays, of one H200.
BEFORE = {"2x8": (0.35, 5.4), "8x16": (0.78, 14.6), "16x32": (0.90, 26.6), "64x50": (4.3, 83.7), "64x512": (11.2, 653)}
#: Least shares of the card's own product, most milliseconds, and least rows a second, of cases.
LEAST_SHARES = {"64x512 full": 0.6, "128x1024 full": 0.7}
MOST_MS, LEAST_ROWS, LEAST_STREAMED = {"128x1024 spherical": 80.0}, {"8x16 full": 1.5e9}, 0.9


def missed(rows):
    """Return which targets were missed, in words, and the cases that say so."""
    for name, row in rows.items():
        if "error" in row:
            continue
        before, share = row["prototype_and_scikit_learn_on_an_h200_ms"], LEAST_SHARES.get(name, 0.0)
        most = MOST_MS.get(name, math.inf if before is None else before[0])
        if row["resident_ms"] > most:
            yield f"{name}: {row['resident_ms']:.2f} ms, target {most:g}"
        if row["share"] is not None and row["share"] < share:
            yield f"{name}: {row['share']:.2f} of the product, target {share:g}"
        if row["rows_per_second"] < LEAST_ROWS.get(name, 0.0):
            yield f"{name}: {row['rows_per_second']:.3g} rows a second, target {LEAST_ROWS[name]:g}"
        if row["streamed_over_resident"] < LEAST_STREAMED:
            yield f"{name}: streamed at {row['streamed_over_resident']:.2f} of resident, target {LEAST_STREAMED:g}"


def wrong(found):
    """Return what is not as it must be: parts that failed, other statistics, other bits, more memory than stated."""
    rows = found.get("passes", {})
    for name, one in {**rows, **{name: found[name] for name in PARTS if name in found and name != "passes"}}.items():
        if "error" in one:
            yield f"{name}: {one['error']}"
    for name, row in rows.items():
        if "error" not in row and not row["difference"] <= TOLERANCE:
            yield f"{name}: statistics differ by {row['difference']:.1e}"
        if "error" not in row and (row["taken_bytes"] or 0) > row["stated_bytes"]:
            yield f"{name}: {row['taken_bytes']} bytes of the card were taken, and {row['stated_bytes']} stated"
    if not found.get("kill", {}).get("same_bits", True):
        yield "a fit that was killed ended in other bits"
    if not found.get("tests", {}).get("passed", True):
        yield f"tests: {found['tests']['said']}"
