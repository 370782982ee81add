"""The page of a model in a real browser: on a phone, in the dark and on paper."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from daskgmm.mixture.family import family_of
from daskgmm.mixture.parameters import Parameters
from daskgmm.pictures.page import page
from daskgmm.stores.model_file import Model
from tests.pictures.test_comparison import TABLE

N_COMPONENTS, N_FEATURES = 30, 12
NAMES = [f"phot_bp_rp_excess_factor_corrected_for_reddening_{j}" for j in range(N_FEATURES)]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is here: apt-get install chromium")


@pytest.fixture(scope="module")
def content() -> str:
    """A page with all that it can hold: many wide tables, long names, a tiny component, values far from 0."""
    random = np.random.default_rng(0)
    weights = random.dirichlet(np.ones(N_COMPONENTS))
    weights[-1] = 1e-6
    means = 1e8 + 1e3 * random.normal(size=(N_COMPONENTS, N_FEATURES))
    p = Parameters.from_covariances(
        family_of("diag"), weights / weights.sum(), means, random.uniform(1, 9, size=(N_COMPONENTS, N_FEATURES))
    )
    history = [
        {"pass": i, "what": "em", "candidate": 0, "mean_log_likelihood": -9 - 1 / i, "change": 1e-3, "step": 1.0,
         "accepted": True, "status": "running", "rows": 10**9, "seconds": 1234.5678, "n_bytes": 10**12}
        for i in range(1, 30)
    ]  # fmt: skip
    record: dict[str, Any] = {
        "feature_names": NAMES, "converged": False, "n_iter": 29, "history": history,
        "counts": (1e9 * p.weights).tolist(), "support": (1e9 * p.weights).tolist(),
        "result": {"status": "max_iter", "rows": 10**9, "dropped_rows": 10, "bic": 7e12, "n_iter": 29},
        "selection": {"table": TABLE, "criterion": "bic", "stopped": {}, "collapsed": {}},
        "input": {"X": {"location": "/data/" + "a-long-folder-without-blanks/" * 9 + "rows.zarr"}},
        "provenance": {"daskgmm": "0.1", "blas": "openblas"},
    }  # fmt: skip
    return page(Model(p, record), name="a_model_with_a_long_name_" * 6 + ".zarr")


def chromium(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a headless browser did; its console is on stderr."""
    done = subprocess.run(
        [str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr",
         "--force-device-scale-factor=1", *arguments],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints
    return done


def test_a_console_would_be_heard(tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text("<script>console.error('heard')</script>")
    with pytest.raises(AssertionError, match="heard"):
        chromium(tmp_path, "--dump-dom", bad.as_uri())


#: Measures a page in a frame of the width of a phone: which elements reach beyond it, and are in nothing that scrolls.
MEASURE = """<!doctype html><body><pre></pre><iframe style="width:360px;height:800px;border:0" srcdoc="{page}"></iframe>
<script>document.querySelector("iframe").onload = event => {{
  const inside = event.target.contentDocument, root = inside.documentElement;
  const scrolls = element => element.closest("div.wide") !== null;
  const far = [...inside.querySelectorAll("body *")].filter(
    element => !scrolls(element) && element.getBoundingClientRect().right > 360.5).map(element => element.outerHTML);
  const wide = [...inside.querySelectorAll("div.wide")].filter(e => e.scrollWidth > e.clientWidth).length;
  document.querySelector("pre").textContent = JSON.stringify({{width: root.scrollWidth, far, wide,
    pictures: [...inside.images].map(image => image.naturalWidth)}});
}}</script>"""


def measured(content: str, folder: Path) -> dict[str, Any]:
    place = folder / "measure.html"
    place.write_text(MEASURE.format(page=html.escape(content, quote=True)))
    done = chromium(folder, "--window-size=800,1000", "--virtual-time-budget=5000", "--dump-dom", place.as_uri())
    (found,) = re.findall(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    result: dict[str, Any] = json.loads(html.unescape(found))
    return result


def test_on_a_phone_the_page_does_not_scroll_sideways(content: str, tmp_path: Path) -> None:
    found = measured(content, tmp_path)
    assert (found["width"], found["far"]) == (360, [])
    assert found["wide"] > 0, "tables that are wider scroll by themselves"
    assert len(found["pictures"]) == 3
    assert min(found["pictures"]) > 300, "and each picture is drawn"
    broken = content.replace("</h1>", "</h1><p style='width:500px'>x</p>", 1)
    assert measured(broken, tmp_path)["width"] > 360, "(as would be seen)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_as_light_or_dark_as_the_reader_likes(content: str, tmp_path: Path, scheme: str) -> None:
    place, shot = tmp_path / "page.html", tmp_path / "page.png"
    place.write_text(content)
    preferred = {"dark": 0, "light": 1}[scheme]
    chromium(
        tmp_path, f"--blink-settings=preferredColorScheme={preferred}", "--window-size=900,1200",
        f"--screenshot={shot}", place.as_uri(),
    )  # fmt: skip
    pixels = np.asarray(Image.open(shot).convert("L"), dtype=float)
    ground, share = float(np.median(pixels)), float((np.abs(pixels - np.median(pixels)) > 100).mean())
    assert (ground > 240) if scheme == "light" else (ground < 40)
    assert share > 0.01, "and text stands out against it"


def test_on_paper_nothing_is_cut_off(content: str, tmp_path: Path) -> None:
    pypdf = pytest.importorskip("pypdf")
    place, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    place.write_text(content)
    chromium(tmp_path, f"--print-to-pdf={printed}", "--no-pdf-header-footer", place.as_uri())
    pages = pypdf.PdfReader(printed).pages
    text = ""
    for one in pages:
        width = float(one.mediabox.width)

        def within(found: str, cm: list[float], tm: list[float], *_: Any, width: float = width) -> None:
            begin = tm[4] * cm[0] + tm[5] * cm[2] + cm[4]
            assert not found.strip() or 0 <= begin <= width, found

        text += one.extract_text(visitor_text=within)
    squeezed = re.sub(r"\s", "", text)
    for name in NAMES:
        assert name in squeezed
    # The last column of the widest tables, and what is closed on a screen.
    for cell in ("resolution", "<-best", "below3", "n_bytes", "1000000000000", "1234.5678", "condition", "<0.0001"):
        assert cell in squeezed, cell
    assert squeezed.count("1234.5678") == 29


def test_the_browser_reads_the_json(content: str, tmp_path: Path) -> None:
    """As a program that has the page would: no number changes on the way."""
    place = tmp_path / "read.html"
    encoded = base64.b64encode(content.encode()).decode()
    place.write_text(
        f"""<pre></pre><script>
        const text = new TextDecoder().decode(Uint8Array.from(atob("{encoded}"), c => c.charCodeAt(0)));
        const page = new DOMParser().parseFromString(text, "text/html");
        const model = JSON.parse(page.getElementById("model").textContent);
        document.querySelector("pre").textContent = JSON.stringify(model.means);
        </script>"""
    )
    (found,) = re.findall(r"<pre>(.*?)</pre>", chromium(tmp_path, "--dump-dom", place.as_uri()).stdout, re.DOTALL)
    (held,) = re.findall(r'<script type="application/json" id="model">(.*?)</script>', content, re.DOTALL)
    assert json.loads(found) == json.loads(held)["means"]
