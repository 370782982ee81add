"""The card of a process, where CuPy has a stand-in: what is said of it, rows on their way, and errors as CuPy's."""

import numpy as np
import pytest

from daskgmm.errors import DaskgmmError
from daskgmm.kernels import cuda_rows
from daskgmm.kernels.cuda_passes import CardEStep
from daskgmm.kernels.estep import EStep
from daskgmm.kernels.plan import make_plan
from daskgmm.passes import card as cards
from daskgmm.passes.pools import n_workers
from daskgmm.passes.rows import WEIGHT
from daskgmm.passes.task import stream
from tests.kernels import cupy_stand_in as errors
from tests.kernels.cupy_stand_in import StandIn
from tests.kernels.driving import parameters_of, row_set_of
from tests.passes.test_card_rows import Counted, cut_of
from tests.strategies import make_case


@pytest.fixture
def cupy(monkeypatch):
    """Have a stand-in for CuPy, and no card that was made before."""
    cards._made.cache_clear()
    yield StandIn.put_in_place(monkeypatch)
    cards._made.cache_clear()


def test_what_a_process_says_of_its_card(cupy):
    found = cards.card_here()
    assert str(found) == "Stand-in, CuPy 14.2.0, CUDA 13.1, driver for CUDA 13.0"
    assert (found.free_bytes, found.total_bytes) == ((1 << 33) + (1 << 20), 1 << 34)
    assert found.identity.endswith("0000:01:00.0")
    assert found.n_threads == n_workers()
    assert cards.n_cards() == 1


def test_what_a_process_without_a_card_says(cupy):
    cupy.n_cards = 0
    assert cards.card_here() == "no card"
    cupy.failure = RuntimeError('Failure finding "libnvrtc.so.13"')
    assert cards.card_here() == 'a CuPy that lacks libraries of CUDA (Failure finding "libnvrtc.so.13")'


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("is_pinned", [False, True])
@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2"])
def test_rows_come_to_the_card(cupy, monkeypatch, weighted, is_pinned, dtype):
    monkeypatch.setattr(cuda_rows, "BLOCK_VALUES", 1)
    monkeypatch.setattr(cuda_rows, "SHORTEST", 32)
    case = make_case("full", seed=2, n_rows=299, n_components=2, n_features=3)
    X = (10 * case.X).astype(dtype)
    if is_pinned:
        cupy.pinned.append(X)
    plan = make_plan(parameters_of(case), origin=row_set_of(case.X).mean)
    names, beside = ((WEIGHT,), [Counted(np.linspace(0, 2, 299)[:, np.newaxis])]) if weighted else ((), [])
    right, found = (
        stream(work([plan]), [cut_of(X)], names, Counted(X), *beside).state[0] for work in (EStep, CardEStep)
    )
    np.testing.assert_allclose(found.values, right.values, rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize(
    "error",
    [
        errors.OutOfMemoryError("Out of memory allocating 1,024 bytes (allocated so far: 512 bytes)."),
        errors.CUDARuntimeError("cudaErrorMemoryAllocation: out of memory"),
        errors.CUDADriverError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        errors.CUBLASError("CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_card_that_is_full(cupy, error):
    said = "must fit in the memory of the card; got a card that is full .*See what else runs on it .nvidia-smi."
    with pytest.raises(MemoryError, match=said), cards.the_card().explained():
        raise error
    assert cupy.n_freed == 1


def test_a_card_that_fails(cupy):
    said = r"The card must compute; got cudaErrorIllegalAddress: .*Look at it \(nvidia-smi\), and run again"
    with pytest.raises(DaskgmmError, match=said), cards.the_card().explained():
        raise errors.CUDARuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
    with pytest.raises(KeyError), cards.the_card().explained():
        raise KeyError("x")
    assert cupy.n_freed == 0
