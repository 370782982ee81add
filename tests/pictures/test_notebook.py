"""In a notebook: a real kernel shows each picture once, and a table of a fitted mixture or a selection."""

from __future__ import annotations

import asyncio
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from sklearn import config_context

from daskgmm import GaussianMixture, select


def groups(n_rows: int, n_groups: int = 2) -> np.ndarray:
    """Rows of groups that lie 9 apart, (n_rows, 2)."""
    random = np.random.default_rng(2)
    return 9.0 * random.integers(n_groups, size=(n_rows, 1)) + random.normal(size=(n_rows, 2))


BEGIN = """
import warnings; warnings.simplefilter("ignore")
import numpy as np, daskgmm
rows = np.random.default_rng(0).normal(size=(200, 2)); rows[:80] += 8
found = daskgmm.select(rows, n_components=[1, 2, 3], n_init=2, random_state=0)
"""
#: Cells, and how many pictures each shows. In the first of them nothing has asked for matplotlib yet.
CELLS = [
    ("found.plot()", 1),
    ("found.best_.plot()", 1),
    ("figure = found.plot()", 0),
    ("from matplotlib import pyplot", 0),
    ("found.plot()", 1),
    ("%matplotlib inline", 0),
    ("found.best_.plot(X=rows)", 1),
    ("figure, ax = pyplot.subplots(); found.plot(ax=ax)", 1),
    ("found.best_", 0),
    ("found", 0),
    ("daskgmm.GaussianMixture(3)", 0),
]


def test_a_notebook_shows_each_picture_once() -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    codes = [BEGIN, *(code for code, _ in CELLS)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in codes])
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3")
    asyncio.run(client.async_execute())
    shown = [cell.outputs for cell in notebook.cells]
    for (code, expected), outputs in zip(CELLS, shown[1:], strict=True):
        pictures = [output for output in outputs if "image/png" in output.get("data", {})]
        assert len(pictures) == expected, code
    *_, best, selection, unfitted = shown
    for (output,), text in ((best, "support, nats"), (selection, "Best by BIC: 2 components, full.")):
        assert text in output["data"]["text/html"]
        assert output["data"]["text/plain"]
    assert "support, nats" not in unfitted[0]["data"]["text/html"]
    assert "GaussianMixture" in unfitted[0]["data"]["text/html"], "scikit-learn's own diagram"


class Cells(HTMLParser):
    """The rows of cells of an HTML text, and its elements."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.marked: list[bool] = []
        self.elements: set[str] = set()
        self._open = False
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        if tag == "tr":
            self.rows.append([])
            self.marked.append("bold" in str(dict(attrs).get("style")))
        self._open = tag in ("td", "th")
        if self._open:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.rows[-1][-1] += data


def table(content: str) -> Cells:
    """What stands below scikit-learn's diagram."""
    return Cells(content[content.rindex("<div>") :])


def test_a_fitted_mixture_shows_its_components() -> None:
    pandas = pytest.importorskip("pandas")
    rows = np.concatenate([groups(300), np.zeros((300, 6))], axis=1)
    rows += np.random.default_rng(0).normal(size=rows.shape)
    hostile = "<script>alert(1)</script>"
    frame = pandas.DataFrame(rows, columns=["ra", hostile, *"cdefgh"])
    fitted: Any = GaussianMixture(2, random_state=0, max_iter=1, tol=0)
    with pytest.warns(Warning, match=r"n_iter=1"):
        fitted.fit(frame)
    found = table(fitted._repr_html_())
    heading, *lines = found.rows
    assert heading[:4] == ["component", "weight", "rows", "support, nats"]
    assert len(heading) == 10, "six features at most"
    assert f"mean of {hostile}" in heading
    assert "script" not in found.elements
    order = np.argsort(-fitted.weights_)
    assert [line[:2] for line in lines] == [[str(k), f"{fitted.weights_[k]:.4f}"] for k in order]
    ra = heading.index("mean of ra")
    np.testing.assert_allclose([float(line[ra]) for line in lines], fitted.means_[order, 0], rtol=1e-2)
    content = fitted._repr_html_()
    assert 0 < content.index("Not converged. The fit ended at max_iter") < content.rindex("<table"), "warnings first"
    assert "2 more features, in which components differ less." in content
    assert fitted._repr_mimebundle_()["text/html"].endswith(content[content.rindex("<div>") :])
    with config_context(display="text"):
        assert not hasattr(fitted, "_repr_html_")
        assert list(fitted._repr_mimebundle_()) == ["text/plain"]


def test_a_selection_marks_its_best_row() -> None:
    found = select(
        groups(400, 3), n_components=[1, 2, 3, 4], covariance_type=["full", "diag"], n_init=2, random_state=0
    )
    html = Cells(found._repr_html_())
    assert len(html.rows) == 1 + len(found.table)
    assert html.marked == [False, *(row["chosen"] for row in found.table)]
    assert [row[0] for row in html.rows[1:]] == [str(row["n_components"]) for row in found.table]


def test_a_script_can_show_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """`show` has pyplot show the figure itself, once, and hold nothing before."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    shown: list[Any] = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.extend(map(pyplot.figure, pyplot.get_fignums())))
    figure = GaussianMixture(1).fit(groups(200)).plot()
    assert pyplot.get_fignums() == []
    figure.show()
    assert shown == [figure]
    pyplot.close("all")
