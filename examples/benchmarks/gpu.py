"""What a card does: tests there, and seconds of a pass beside what the card itself can; within five minutes.

    python examples/benchmarks/gpu.py [--quick] [--parts limits,tests,passes,kill,fit] [--rows-of-fit 100000000]

Begin with --quick, a minute. It writes results/gpu.json after each part, and says which failed and which targets were
missed; what fails leaves its traceback there, and all else is still done. Where there is no card that CuPy can use it
says so, and measures nothing. "Share" is of the card's own product of matrices in float64, measured in the same run,
for the 4 N K F operations of a pass.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gpu_targets import BEFORE, PARTS, missed, wrong

from daskgmm.kernels import cuda
from daskgmm.kernels.block import Block
from daskgmm.kernels.cuda import card_bytes
from daskgmm.kernels.cuda_passes import CardEStep
from daskgmm.kernels.cuda_rows import N_AHEAD, block_length
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.plan import make_plan
from daskgmm.mixture.family import family_called
from daskgmm.mixture.parameters import Parameters
from daskgmm.passes.card import CudaCard, card_here, the_card
from daskgmm.passes.card_rows import card_blocks
from daskgmm.passes.rows import Cut
from daskgmm.sources.source import Reader

ROOT = Path(__file__).resolve().parents[2]
#: Rows on which both are compared, and passes that are timed.
FEW, ROUNDS = 20_000, 5
#: Blocks on the way to the card at least, where that is timed: the first of them comes while nothing is computed.
LONG = 32
#: Seconds for all of it, and for the tests and each fit of `kill`: what hangs must not take the time of the rest.
SECONDS, SECONDS_OF_TESTS, SECONDS_OF_A_FIT = 300, 150, 60


@dataclass(frozen=True)
class Case:
    """So many rows, features and components of a kind of covariance."""

    n_rows: int
    n_features: int
    n_components: int
    kind: str = "full"

    @property
    def name(self) -> str:
        return f"{self.n_features}x{self.n_components}"

    def parameters(self) -> Parameters:
        random, d, k = np.random.default_rng(0), self.n_features, self.n_components
        covariances = {"full": np.stack([np.eye(d)] * k), "spherical": np.ones(k)}[self.kind]
        return Parameters.from_covariances(
            family_called(self.kind), np.full(k, 1 / k), random.normal(0, 2, (k, d)), covariances
        )

    def rows(self) -> np.ndarray:
        random = np.random.default_rng(1)
        X = random.standard_normal((self.n_rows, self.n_features), dtype=np.float32)
        means = self.parameters().means.astype(np.float32)
        X += means[random.integers(0, self.n_components, self.n_rows)]
        return X


CASES = [
    Case(1_000_000, 2, 8), Case(1_000_000, 8, 16), Case(500_000, 16, 32), Case(200_000, 64, 50),
    Case(100_000, 64, 512), Case(100_000, 128, 1024), Case(1_000_000, 128, 1024, "spherical"),
]  # fmt: skip


class InMemory(Reader):
    """Rows in memory."""

    def __init__(self, X):
        self.X = X

    def read(self, start, stop):
        return self.X[start:stop]


def one_pass(card, plan, blocks):
    """Return the statistics of a pass over blocks, once they are in this process."""
    work = CardEStep([plan])
    state = work.zero()
    for block in blocks:
        state = work.update(state, block)
    return work.finish(state)[0]


def coming(card, X):
    """Return the blocks of rows as they come to the card."""
    runs = (*range(0, len(X), 4 * block_length(X.shape[1])), len(X))
    return card_blocks(Cut(0, runs, X.shape[1], "trust", False, None, X.dtype), InMemory(X), {}, card)


def resident(card, X):
    """Return the blocks of rows that lie on the card."""
    found = []
    for block in coming(card, X):
        with card.using():
            stored = card.array(card.host(block.stored))
        found.append(type(block)(card, stored, None, block.first_row, False))
    return found


def difference(plan, X, found):
    """Return the largest difference from the processor's statistics, in units of the largest of their kind."""
    work = EStep([plan])
    (right,) = work.finish(work.update(work.zero(), Block(np.ascontiguousarray(X.T, dtype=float), None, 0)))
    ours, theirs = (each.panel(plan.n_components) for each in (found, right))
    worst = float((np.abs(ours - theirs).max(axis=0) / np.maximum(np.abs(theirs).max(axis=0), 1e-300)).max())
    return max(worst, abs(found.log_sum / right.log_sum - 1))


def attempted(call, *arguments):
    """Return what a call returns, or what it failed of: all else is still measured, as time on a card is short."""
    try:
        return call(*arguments)
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error!s:.300}", "traceback": traceback.format_exc()[-4000:]}


def seconds_of(call, rounds=ROUNDS):
    """Return the median time of a call, after one that is not timed."""
    call()
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def seconds_of_resident(card, plan, X):
    """Return the time of a pass over rows that lie on the card."""
    there = resident(card, X)
    return seconds_of(lambda: one_pass(card, plan, there))


def measured(card, case, product):
    """Return what a case takes, with rows on the card and from memory; `product` is the card's rate, flop/s."""
    X = pinned(card, case.rows())
    parameters = case.parameters()
    origin = X[:FEW].mean(axis=0, dtype=float)
    plan = make_plan(parameters, origin=origin, kernel="phi")
    differs = difference(plan, X[:FEW], one_pass(card, plan, coming(card, X[:FEW])))
    if isinstance(card, CudaCard):
        card.release()
    n_times = max(1, LONG * block_length(case.n_features) // case.n_rows) if case.n_components < LONG else 1
    long = X if n_times == 1 else pinned(card, np.concatenate([X] * n_times))
    streamed = seconds_of(lambda: one_pass(card, plan, coming(card, long))) / n_times
    # (With what the pool holds of memory that is free again: it is the card's whole loss.)
    taken = card.xp.get_default_memory_pool().total_bytes() if isinstance(card, CudaCard) else None
    on_card, by_phi = seconds_of_resident(card, plan, X), None
    long_on_card = on_card if n_times == 1 else seconds_of_resident(card, plan, long) / n_times
    if case.n_features <= cuda.WITHOUT_PHI and case.kind == "full":
        most, cuda.WITHOUT_PHI = cuda.WITHOUT_PHI, 0
        plan.derived.clear()
        by_phi = 1e3 * seconds_of_resident(card, plan, X)
        cuda.WITHOUT_PHI = most
        plan.derived.clear()
    n_phi = plan.shape.n_statistics(case.n_features, exact=False)
    flops = 4.0 * case.n_rows * case.n_components * n_phi
    return {
        "rows": case.n_rows, "features": case.n_features, "components": case.n_components, "kind": case.kind,
        "resident_ms": 1e3 * on_card, "resident_ms_with_phi_in_memory": by_phi,
        "streamed_ms": 1e3 * streamed, "difference": differs,
        "rows_per_second": case.n_rows / on_card, "share": flops / on_card / product if product else None,
        "streamed_over_resident": long_on_card / streamed,
        "stated_bytes": card_bytes(plan.shape, case.n_components, case.n_features, n_candidates=1, n_ahead=N_AHEAD),
        "taken_bytes": taken,
    }  # fmt: skip


def pinned(card, X):
    """Return rows in memory that the card can take them from."""
    if not isinstance(card, CudaCard):
        return X
    import cupyx

    found = cupyx.empty_pinned(X.shape, X.dtype)
    found[...] = X
    return found


def limits(card):
    """Return the card's own product in float64, flop/s, and its copy, bytes/s read and written."""
    xp, n = card.xp, 8192
    with card.using():
        # (Of equal numbers a product takes less power, and so less time, than one of any others.)
        a, out = card.array(np.random.default_rng(0).standard_normal((n, n))), xp.empty((n, n))
        x, y = xp.ones(1 << 27), xp.empty(1 << 27)

    def product():
        with card.using():
            xp.matmul(a, a, out=out)
            card.host(out[:1, :1])

    def copy():
        with card.using():
            y[...] = x
            card.host(y[:1])

    return 2.0 * n**3 / seconds_of(product), 16.0 * (1 << 27) / seconds_of(copy)


def of_scikit_learn(case):
    """Return seconds an iteration of scikit-learn's mixture on torch's arrays on the card; None where they are not."""
    try:
        os.environ["SCIPY_ARRAY_API"] = "1"
        import array_api_compat  # noqa: F401
        import sklearn
        import torch
        from sklearn.mixture import GaussianMixture
    except ImportError:
        return None
    if not torch.cuda.is_available() or case.kind != "full" or case.n_features > 64:
        return None
    X, p = torch.asarray(case.rows(), dtype=torch.float64, device="cuda"), case.parameters()
    start = {
        "weights_init": torch.asarray(p.weights, device="cuda"), "means_init": torch.asarray(p.means, device="cuda"),
        "precisions_init": torch.asarray(p.precisions, device="cuda"),
    }  # fmt: skip

    def run(n_iter):
        with sklearn.config_context(array_api_dispatch=True):
            GaussianMixture(case.n_components, tol=0, max_iter=n_iter, init_params="random", **start).fit(X)
        torch.cuda.synchronize()

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return (seconds_of(lambda: run(4), 1) - seconds_of(lambda: run(1), 1)) / 3
        except Exception as error:  # (another version takes other arrays)
            print(f"scikit-learn on torch: {type(error).__name__}: {error!s:.200}", file=sys.stderr)
            return None


def fitted(command):
    """Run a fit; a RuntimeError with what it says where it fails. (It ends with 3 where it has not converged.)"""
    done = subprocess.run(  # noqa: S603 (our own command)
        command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS_OF_A_FIT
    )
    if done.returncode not in (0, 3):
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-1500:]}")


def killed_and_resumed(folder, n_rows):
    """Return whether a fit on the card that is killed ends in the bits of one that is not."""
    import zarr

    X = Case(n_rows, 4, 3).rows()
    zarr.create_array(str(folder / "x.zarr"), data=X, chunks=(max(1, n_rows // 64), 4))
    command = [sys.executable, "-m", "daskgmm", "fit", str(folder / "x.zarr"), "-k", "5", "--device", "cuda", "--tol",
               "0", "--max-iter", "60", "--restarts", "1", "--acceleration", "none", "--output"]  # fmt: skip
    whole, cut = str(folder / "whole.zarr"), str(folder / "cut.zarr")
    fitted([*command, whole])
    process = subprocess.Popen(  # noqa: S603
        [*command, cut], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=ROOT
    )
    deadline = time.monotonic() + 60
    while not Path(cut + ".checkpoint").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    was_running = process.poll() is None
    if was_running:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    fitted([*command, cut])
    from daskgmm import GaussianMixture

    ours, theirs = GaussianMixture.load(cut), GaussianMixture.load(whole)
    return {"killed": was_running, "same_bits": bool((ours.means_ == theirs.means_).all())}


def large_fit(folder, n_rows):
    """Return what a fit of many rows from a store takes, and the time of reading them alone."""
    import zarr

    from daskgmm import GaussianMixture

    case, chunk = Case(1_000_000, 16, 32), 1_000_000
    array = zarr.create_array(
        str(folder / "large.zarr"), shape=(n_rows, 16), chunks=(chunk, 16), dtype="f4", compressors=None
    )
    X = case.rows()
    for low in range(0, n_rows, chunk):
        array[low : low + chunk] = X[: min(chunk, n_rows - low)]
    began = time.perf_counter()
    for low in range(0, n_rows, chunk):
        array[low : low + chunk]
    reading, began = time.perf_counter() - began, time.perf_counter()
    fit = GaussianMixture(32, device="cuda", n_init=1, random_state=0, max_iter=20, escape=False)
    fit.fit(str(folder / "large.zarr"))
    seconds = time.perf_counter() - began
    passes = [one["seconds"] for one in fit.history_ if one["what"] == "em"]
    return {
        "rows": n_rows, "seconds": seconds, "passes": fit.n_passes_, "median_pass_seconds": float(np.median(passes)),
        "reading_seconds": reading,
        "hours_for_1e9_and_1e11_rows_read_each_pass": [
            (reading + float(np.median(passes))) * n / n_rows * fit.n_passes_ / 3600 for n in (1e9, 1e11)
        ],
    }  # fmt: skip


def tests():
    """Return what the tests say that run on the card."""
    files = ["kernels/test_cuda.py", "kernels/test_cuda_nasty.py", "passes/test_card_rows.py", "test_device.py"]
    # (What CuPy warns of is no error: its versions, and what it finds of CUDA, differ from machine to machine.)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "card", "-p", "no:cacheprovider", "-W", "default", "-o",
               "faulthandler_timeout=60"]  # fmt: skip
    with tempfile.TemporaryFile("w+") as said:
        try:
            code = subprocess.run(  # noqa: S603
                [*command, *(f"tests/{name}" for name in files)],
                cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, check=False, timeout=SECONDS_OF_TESTS,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            code = None
        said.seek(0)
        text = said.read()
    passed = code == 0
    print(text[-12_000:] if not passed else text[-300:], file=sys.stderr)
    last = f"not done after {SECONDS_OF_TESTS} s" if code is None else (text.strip().splitlines() or [""])[-1]
    return {"passed": passed, "said": last, **({} if passed else {"output": text[-12_000:]})}


def peer_ms(case):
    """Return the milliseconds of scikit-learn an iteration, None where it cannot."""
    seconds = of_scikit_learn(case)
    return None if seconds is None else 1e3 * seconds


def main(given=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rows")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--rows-of-fit", type=int, default=100_000_000)
    parser.add_argument("--output", default=str(Path(__file__).parent / "results" / "gpu.json"))
    asked = parser.parse_args(given)
    parts, began = asked.parts.split(","), time.monotonic()
    if set(parts) - set(PARTS):
        parser.error(f"--parts must be some of {','.join(PARTS)}; got {asked.parts}")
    here = card_here()
    if isinstance(here, str):
        print(f"This machine has {here}: nothing is measured. The tests of the arithmetic run without a card.")
        return 1
    found = {"card": str(here), "total_bytes": here.total_bytes, "quick": asked.quick}

    def note(name, call, *arguments):
        """Do a part, if there is time, and write down what comes of it."""
        late = time.monotonic() - began > SECONDS
        found[name] = {"error": f"not begun after {SECONDS} s"} if late else attempted(call, *arguments)
        write()
        print(f"{name}: {json.dumps({key: one for key, one in found[name].items() if key != 'output'})}", flush=True)

    def write():
        Path(asked.output).write_text(json.dumps({**found, "seconds": time.monotonic() - began}, indent=1) + "\n")

    card = the_card()

    def all_limits():
        product, copy = limits(card)
        return {"float64_tflops": product / 1e12, "copy_tb_per_second": copy / 1e12}

    def all_passes():
        product = 1e12 * found.get("limits", {}).get("float64_tflops", 0.0)
        rows = found["passes"] = {}
        for case in CASES:
            small = Case(max(FEW, case.n_rows // 100), case.n_features, case.n_components, case.kind)
            now = small if asked.quick else case
            rows[f"{case.name} {case.kind}"] = {
                **attempted(measured, card, now, product), "scikit_learn_ms": attempted(peer_ms, now),
                "prototype_and_scikit_learn_on_an_h200_ms": BEFORE.get(case.name) if case.kind == "full" else None,
            }  # fmt: skip
            write()
            if isinstance(card, CudaCard):
                card.release()
        return rows

    with tempfile.TemporaryDirectory() as folder:
        calls = {
            "limits": (all_limits,),
            "tests": (tests,),
            "passes": (all_passes,),
            "kill": (killed_and_resumed, Path(folder), 200_000 if asked.quick else 4_000_000),
            "fit": (large_fit, Path(folder), 1_000_000 if asked.quick else asked.rows_of_fit),
        }
        for name in PARTS:
            if name in parts:
                note(name, *calls[name])
    failed = list(wrong(found))
    late = [] if asked.quick else list(missed(found.get("passes", {})))
    found.update(wrong=failed, missed=late)
    write()
    print("\n".join([*failed, *late]) or "All is as it should be.")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
