"""Fits, scores, selections and predictions on a card: the host in the place of one, or the card of this machine."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from distributed import Client, LocalCluster

from daskgmm import BayesianGaussianMixture, GaussianMixture, open_rows, select
from daskgmm.cli.commands import gmm
from daskgmm.fitting.device import check_cards, device_for
from daskgmm.fitting.fit import fit_mixture
from daskgmm.fitting.options import FitOptions
from daskgmm.kernels.cuda_passes import CardEStep
from daskgmm.mixture.family import family_called
from daskgmm.passes import card as cards
from daskgmm.passes.card import CardInfo
from daskgmm.passes.memory import peak_worker_bytes
from daskgmm.passes.need import Need
from daskgmm.passes.pools import n_workers
from daskgmm.passes.rows import Rows
from daskgmm.stores.checkpoint import Checkpoint
from daskgmm.stores.model_file import load_model
from tests import fake_cards
from tests.clusters import LOCAL
from tests.kernels.driving import KINDS
from tests.kernels.host_card import HostCard, library

#: A start is no concern of a card.
ONE = {"random_state": 0, "n_init": 1, "escape": False}


@pytest.fixture
def on(card, monkeypatch):
    """This process has a card."""
    if isinstance(card, HostCard):
        monkeypatch.setattr(cards, "the_card", lambda: card)
        monkeypatch.setattr(cards, "card_here", fake_cards.here)
    return card


@pytest.fixture(scope="module")
def X():
    random = np.random.default_rng(0)
    return np.concatenate([random.normal(0, 1, (900, 3)), random.normal(5, 2, (600, 3))])


def stored(path, X):
    """Write rows as a Zarr array of several chunks."""
    zarr.create_array(path, data=X, chunks=(200, 3))


def alike(found, right, rtol=1e-9):
    for name in ("weights_", "means_", "covariances_", "lower_bound_", "log_likelihood_", "support_", "counts_"):
        np.testing.assert_allclose(getattr(found, name), getattr(right, name), rtol=rtol, err_msg=name)
    assert found.n_iter_ == right.n_iter_
    assert found.n_passes_ == right.n_passes_


@pytest.mark.parametrize(
    "how",
    [
        *({"covariance_type": kind} for kind in KINDS),
        {"covariance_type": "VEE"},
        {"covariance_type": "lowrank", "n_factors": 1},
        {"acceleration": None, "standardize": True},
        {"noise": True},
        {"kernel": "exact"},
        {"init_params": "k-means||"},
        {"covariance_prior": "weak"},
    ],
    ids=str,
)
def test_a_fit_is_that_of_the_processor(on, X, how):
    fits = [GaussianMixture(2, **ONE, device=device, **how).fit(X) for device in ("cpu", "cuda")]
    alike(*reversed(fits))


@pytest.mark.parametrize("source", ["zarr", "dask", "weights", "drop"])
def test_from_any_rows(on, X, source, tmp_path):
    given, how, beside = X, {}, {}
    if source == "zarr":
        given = str(tmp_path / "x.zarr")
        stored(given, X.astype("f4"))
    elif source == "dask":
        given = da.from_array(X, chunks=(200, 3))
    elif source == "weights":
        beside = {"sample_weight": np.random.default_rng(1).uniform(0, 2, len(X))}
    else:
        given, how = X.copy(), {"non_finite": "drop"}
        given[7, 1] = np.nan
    fits = [GaussianMixture(2, **ONE, device=d, **how).fit(given, **beside) for d in ("cpu", "cuda")]
    alike(*reversed(fits))
    right, found = fits
    assert found.score(given, **beside) == pytest.approx(right.score(given, **beside), rel=1e-12)
    for what in ("predict", "predict_proba", "score_samples"):
        ours, theirs = (np.asarray(getattr(fit, what)(given)) for fit in (found, right))
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


def test_errors_that_are_one_for_all_rows(on, X):
    # (The mixture of the rows as they are is fitted, and then its covariances are less the errors.)
    right, found = (GaussianMixture(2, **ONE, device=d).fit(X, errors=np.full(3, 0.1)) for d in ("cpu", "cuda"))
    alike(found, right)


def test_bayes(on, X):
    fits = [
        BayesianGaussianMixture(3, random_state=0, n_init=1, max_iter=30, device=device).fit(X)
        for device in ("cpu", "cuda")
    ]
    np.testing.assert_allclose(fits[1].means_, fits[0].means_, rtol=1e-7)
    assert fits[1].lower_bound_ == pytest.approx(fits[0].lower_bound_, rel=1e-9)


def test_a_selection_by_held_out_rows(on, X):
    how = {"n_components": [1, 2], "criterion": "held_out", "n_folds": 2, **ONE}
    right, found = (select(X, device=device, **how) for device in ("cpu", "cuda"))
    assert len(found.table) == len(right.table) == 2
    for ours, theirs in zip(found.table, right.table, strict=True):
        assert ours["held_out"] == pytest.approx(theirs["held_out"], rel=1e-9)


def test_the_same_bits_whatever_stays_on_the_card(on, X, tmp_path):
    path = str(tmp_path / "x.zarr")
    stored(path, X)
    fits = [GaussianMixture(2, **ONE, device="cuda", cache=cache).fit(path) for cache in (False, True, "auto")]
    for fit in fits[1:]:
        assert (fit.means_ == fits[0].means_).all()
        assert fit.log_likelihood_ == fits[0].log_likelihood_


def test_a_model_says_what_computed_it(on, X, tmp_path):
    path = tmp_path / "m.zarr"
    GaussianMixture(2, **ONE, device="auto").fit(X).save(path)
    record = load_model(path).record
    assert record["provenance"]["device"] == str(cards.card_here())
    assert record["options"]["device"] == "auto"
    assert GaussianMixture.load(path).device == "auto"


def test_a_model_of_the_processor_says_nothing_of_cards(X, tmp_path):
    GaussianMixture(2, **ONE).fit(X).save(tmp_path / "m.zarr")
    assert "device" not in load_model(tmp_path / "m.zarr").record["provenance"]


def test_without_a_card(X, monkeypatch):
    monkeypatch.setattr(cards, "card_here", lambda: "no CuPy (No module named 'cupy')")
    with pytest.raises(
        ValueError,
        match=r"device must be cpu where there is no card that CuPy can use; got no CuPy \(No module named 'cupy'\). "
        r"Install CuPy for CUDA 12 or 13 \(pip install 'daskgmm\[cuda\]'",
    ):
        GaussianMixture(2, device="cuda").fit(X)
    right, found = (GaussianMixture(2, **ONE, device=device).fit(X) for device in ("cpu", "auto"))
    assert (found.means_ == right.means_).all()
    assert found._provenance == {"device": "cpu (no CuPy (No module named 'cupy'))"}


def test_cupy_is_not_imported_for_the_processor():
    # (Nor anything else that only a card needs.)
    code = (
        "import sys, numpy as np, daskgmm\n"
        "daskgmm.GaussianMixture(2, n_init=1).fit(np.random.default_rng(0).normal(size=(100, 2)))\n"
        "print(sorted(m for m in sys.modules if 'cupy' in m or 'kernels.cuda' in m or 'passes.card' in m))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "[]\n"


@pytest.mark.parametrize(
    ("options", "beside", "named"),
    [
        ({"precision": "single"}, {}, "precision single"),
        ({"non_finite": "marginalize"}, {}, "non_finite marginalize"),
        ({}, {"errors": np.full((1500, 3), 0.1)}, "measurement errors"),
        ({}, {"labels": np.repeat([0, 1], [900, 600])}, "labels"),
    ],
)
def test_what_no_card_does_yet(on, X, options, beside, named):
    with pytest.raises(ValueError, match=f"device must be 'cpu' or 'auto' with .*{named}.*; got 'cuda'. Take cpu."):
        GaussianMixture(2, device="cuda", **options).fit(X, **beside)
    # (The remedies that it names:)
    right, found = (GaussianMixture(2, **ONE, device=d, **options).fit(X, **beside) for d in ("cpu", "auto"))
    assert (found.means_ == right.means_).all()
    assert named in found._provenance["device"]


def test_a_card_that_is_too_small(X, monkeypatch):
    monkeypatch.setattr(cards, "card_here", lambda: CardInfo("Small", "C++", 1 << 31, 1 << 30, "0"))
    with pytest.raises(
        MemoryError, match="What a pass takes of a card must fit in what is free of it, 1024 MiB of 2048"
    ):
        GaussianMixture(2, device="cuda").fit(X)
    assert "a need of" in GaussianMixture(2, device="auto", **ONE).fit(X)._provenance["device"]


def test_threads_that_share_a_card_count(X, monkeypatch):
    roomy = CardInfo("Small", "C++", 1 << 34, 1 << 32, "0", n_threads=64)
    monkeypatch.setattr(cards, "card_here", lambda: roomy)
    with pytest.raises(MemoryError, match=r"and 64 threads\. .*fewer threads a worker, or here \(dask\.config\.set"):
        GaussianMixture(2, device="cuda").fit(X)
    # (The remedy that it names:)
    with dask.config.set(num_workers=1):
        alone = replace(roomy, n_threads=n_workers())
        check_cards({"": alone})
        need = Need(family_called("full").shape, 2, device="cuda")
        assert device_for("cuda", "", [need.shape], lambda: {"": alone}, need, 3).name == "cuda"


@pytest.fixture(scope="module")
def cluster():
    """Two workers, each with a card of its own."""
    library()
    with LocalCluster(2, threads_per_worker=1, preload=["tests.fake_cards"], processes=True, **LOCAL) as cluster:
        yield cluster


def test_workers_with_a_card_each(cluster, X, tmp_path):
    path = str(tmp_path / "x.zarr")
    stored(path, X)
    options = {"device": "cuda", **ONE}
    import daskgmm.sources.partition as partition

    with pytest.MonkeyPatch.context() as patch, Client(cluster) as client:
        patch.setattr(partition, "PARTITION_BYTES", 1 << 14)
        found = GaussianMixture(2, **options).fit(path)
        assert found._provenance == {"device": str(fake_cards.INFO)}
        labels = found.predict(path).compute()
        assert set(client.run(lambda: "daskgmm.passes.card_rows" in sys.modules).values()) == {True}
    right = GaussianMixture(2, **ONE).fit(path)
    alike(found, right)
    assert (labels == right.predict(path).compute()).all()


def test_clusters_that_are_refused(X, monkeypatch):
    one, same = fake_cards.here("0"), fake_cards.here("0")
    other = CardInfo("Another", "C++", 1 << 34, 1 << 33, "1")
    for found, said in [
        ({"tcp://a": one, "tcp://b": "no card"}, "have CuPy and a card each; got no card at tcp://b, and 1 that have"),
        ({"tcp://a": one, "tcp://b": other}, "cards and versions of one kind, .*; got Another, C.*; Host, C.* Leave"),
        ({"tcp://a": one, "tcp://b": same}, "have a card each; got 2 workers on 1 of them. Start one for each card"),
        ({}, "got no worker at any worker"),
    ]:
        with pytest.raises(ConnectionError, match=said):
            check_cards(found)
    check_cards({"tcp://a": one, "tcp://b": fake_cards.here("1")})


@pytest.mark.parametrize("seen", [None, "3,5"])
def test_each_process_of_a_local_cluster_has_its_own_card(seen, monkeypatch):
    from daskgmm.places.dask_cluster import DaskCluster

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if seen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    monkeypatch.setattr(cards, "n_cards", lambda: 2)
    place = DaskCluster().for_device("cuda")
    assert DaskCluster(workers=1).for_device("auto").workers == 1
    assert DaskCluster(scheduler="tcp://127.0.0.1:1").for_device("cuda").workers is None
    with place.machines(8) as machines:
        found = machines.client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
    assert sorted(found.values()) == (["0", "1"] if seen is None else ["3", "5"])


def test_commands_without_a_card(X, tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "n_cards", lambda: 0)
    monkeypatch.setattr(cards, "card_here", lambda: "no card")
    stored(str(tmp_path / "x.zarr"), X)
    runner = CliRunner()

    def run(command, *options):
        given = [command, str(tmp_path / "x.zarr"), "-k", "2", "--restarts", "1", *options]
        return runner.invoke(gmm, given)

    for options, said in [
        (["--device", "cuda"], "--device must be cpu where there is no card that CuPy can use; got no card."),
        (["--device", "cuda", "--precision", "single"], "--device must be 'cpu' or 'auto' with --precision single"),
    ]:
        done = run("fit", "-o", str(tmp_path / "m.zarr"), *options)
        assert (done.exit_code, said in done.stderr) == (64, True), done.stderr
        assert not (tmp_path / "m.zarr").exists()
    done = run("plan", "--device", "auto")
    assert done.exit_code == 64
    assert "--device must be cpu where a fit is planned" in done.stderr
    assert run("fit", "-o", str(tmp_path / "m.zarr"), "--device", "auto", "--workers", "1").exit_code == 0
    assert load_model(tmp_path / "m.zarr").record["provenance"]["device"] == "cpu (no card)"


def test_the_benchmark_of_a_card(card, monkeypatch, tmp_path, capsys):
    """What is measured where there is a card has the statistics of the processor; without one nothing is measured."""
    path = Path(__file__).parents[1] / "examples" / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_a_card", path)
    gpu = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, gpu)
    monkeypatch.syspath_prepend(path.parent)
    spec.loader.exec_module(gpu)
    gpu_targets = sys.modules["gpu_targets"]
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "LONG", 0)
    for kind in ("full", "spherical"):
        found = gpu.measured(card, gpu.Case(3000, 4, 5, kind), 1e9)
        assert found["difference"] <= gpu_targets.TOLERANCE
        assert found["rows_per_second"] > 0
    if isinstance(card, HostCard):
        # (What fails, here for want of a real card, leaves all else.)
        monkeypatch.setattr(gpu, "card_here", fake_cards.here)
        monkeypatch.setattr(gpu, "the_card", lambda: card)
        monkeypatch.setattr(gpu, "CASES", [gpu.Case(200_000, 4, 5)])
        monkeypatch.setattr(gpu, "FEW", 2000)
        place = tmp_path / "some.json"
        assert gpu.main(["--quick", "--parts", "passes,kill", "--output", str(place)]) == 1
        found = json.loads(place.read_text())
        assert found["passes"]["4x5 full"]["difference"] <= gpu_targets.TOLERANCE
        assert "--device must be cpu where there is no card" in found["kill"]["error"]
        assert "in killed_and_resumed" in found["kill"]["traceback"]
        assert [said.split(":")[0] for said in found["wrong"]] == ["kill"]
        monkeypatch.setattr(gpu, "card_here", lambda: "no card")
        assert gpu.main(["--output", str(tmp_path / "gpu.json")]) == 1
        assert "This machine has no card: nothing is measured." in capsys.readouterr().out
        assert not (tmp_path / "gpu.json").exists()


def test_commands_on_a_card(on, X, tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "n_cards", lambda: 1)
    rows, bad = str(tmp_path / "x.zarr"), str(tmp_path / "bad.zarr")
    stored(rows, X)
    X = X.copy()
    X[5, 1] = np.nan
    stored(bad, X)

    def run(*given):
        done = CliRunner().invoke(gmm, list(map(str, given)))
        assert done.exit_code == 0, done.stderr
        return json.loads(done.stdout)

    found = {}
    for device in ("cpu", "cuda"):
        model = tmp_path / f"{device}.zarr"
        run("fit", rows, "-k", 2, "--restarts", 1, "-o", model, "--device", device)
        found[device] = [run("score", model, rows, "--device", device)["log_likelihood"]]
        for what in ("label", "proba", "score"):
            to = tmp_path / f"{device}-{what}.zarr"
            done = run("predict", model, bad, "-o", to, "--what", what, "--non-finite", "drop", "--device", device)
            assert done["dropped_rows"] == 1
            found[device] += [zarr.open_array(to)[:], done["rows_by_component"] or 0]
    for ours, theirs in zip(found["cuda"], found["cpu"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)
    refused = CliRunner().invoke(gmm, ["predict", str(model), bad, "-o", str(tmp_path / "no.zarr"), "--device", "cuda"])
    assert refused.exit_code == 65
    assert "NaN or infinity in row 5" in refused.stderr
    assert not (tmp_path / "no.zarr").exists()


def test_a_model_of_a_card_goes_on_without_one(X, tmp_path, monkeypatch):
    model, rows, new = (str(tmp_path / name) for name in ("m.zarr", "x.zarr", "new.zarr"))
    stored(rows, X[:1000])
    stored(new, X[1000:])
    with monkeypatch.context() as patched:
        patched.setattr(cards, "the_card", functools.cache(HostCard))
        patched.setattr(cards, "card_here", fake_cards.here)
        patched.setattr(cards, "n_cards", lambda: 1)
        done = CliRunner().invoke(gmm, ["fit", rows, "-k", "2", "--restarts", "1", "-o", model, "--device", "cuda"])
        assert done.exit_code == 0, done.stderr
    monkeypatch.setattr(cards, "card_here", lambda: "no card")
    monkeypatch.setattr(cards, "n_cards", lambda: 0)
    refused = CliRunner().invoke(gmm, ["update", model, new])
    assert (refused.exit_code, "--device must be cpu where there is no card" in refused.stderr) == (64, True)
    done = CliRunner().invoke(gmm, ["update", model, new, "--device", "cpu"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["weight"] == len(X)


def test_killed_and_gone_on_with(on, X, tmp_path, monkeypatch):
    class KilledError(Exception):
        pass

    monkeypatch.setattr("daskgmm.sources.partition.PARTITION_BYTES", 1 << 13)
    stored(str(tmp_path / "x.zarr"), X)
    source = open_rows(tmp_path / "x.zarr")
    options = FitOptions(2, n_init=1, escape=False, tol=1e-7, device="cuda")
    whole = fit_mixture(source, options)
    for last in (1, 2, 4, whole.n_passes - 1):

        def listen(event, last=last):
            if event.number == last:
                raise KilledError
            return False

        place = str(tmp_path / f"{last}")
        with pytest.raises(KilledError):
            fit_mixture(source, options, checkpoint=Checkpoint.at(place), listener=listen)
        found = fit_mixture(source, options, checkpoint=Checkpoint.at(place))
        assert found.parameters.means.tolist() == whole.parameters.means.tolist()
        assert found.log_likelihood == whole.log_likelihood
        assert found.n_passes == whole.n_passes
    assert whole.provenance == {"device": str(cards.card_here())}


def test_new_rows_after_old_ones(on, X):
    fits = []
    for device in ("cpu", "cuda"):
        fit = GaussianMixture(2, device=device, **ONE).fit(X[::2])
        fits.append(fit.partial_fit(X[1::2]))
    np.testing.assert_allclose(fits[1].means_, fits[0].means_, rtol=1e-9)
    assert fits[1].drift_["z"] == pytest.approx(fits[0].drift_["z"], rel=1e-6)


def test_memory_of_a_process_with_a_card_is_stated(X):
    rows = Rows.plan(open_rows(X), None)
    need = Need(family_called("full").shape, 2)
    beside = peak_worker_bytes(rows, replace(need, device="cuda")) - peak_worker_bytes(rows, need)
    # (Four blocks of 2^18 rows of three features, as CuPy takes them a power of two of bytes, and a weight each.)
    assert beside == (1 << 30) + 4 * (1 << 18) * (4 * 8 + 8)
    # (Threads share what CUDA's libraries take.)
    two = peak_worker_bytes(rows, replace(need, device="cuda"), n_threads=2) - peak_worker_bytes(
        rows, need, n_threads=2
    )
    assert two - beside == beside - (1 << 30)
    small = Rows.plan(open_rows(X.astype("f2")), None)
    beside = peak_worker_bytes(small, replace(need, device="cuda")) - peak_worker_bytes(small, need)
    assert beside == (1 << 30) + 4 * (1 << 18) * (4 * 8 + 8)  # (no loop reads float16: it goes as float64)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_em_on_the_sample_is_done_there_too(on, X, device, monkeypatch):
    n_tiles, update = [0], CardEStep.update

    def counted(self, state, block):
        n_tiles[0] += 1
        return update(self, state, block)

    monkeypatch.setattr(CardEStep, "update", counted)
    fit = GaussianMixture(2, device=device, start_rows=500, random_state=0, n_init=2, escape=False).fit(X)
    passes = {(one["pass"], one["what"]) for one in fit.history_}
    on_sample = sum(one["what"] == "start" and one["rows"] < len(X) for one in fit.history_)
    n_em = sum(what == "em" for _, what in passes)
    assert on_sample > 0
    assert (n_tiles[0] > n_em) if device == "cuda" else (n_tiles[0] == 0)
