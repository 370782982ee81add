"""What is said of a card that is full, and of one that fails: errors as CuPy raises them."""

from types import SimpleNamespace

import pytest

from daskgmm.errors import DaskgmmError
from daskgmm.passes.card import CudaCard


class _OutOfMemoryError(MemoryError):
    pass


class _RuntimeError(RuntimeError):
    pass


class _DriverError(RuntimeError):
    pass


class _CublasError(RuntimeError):
    pass


@pytest.fixture
def card(monkeypatch):
    """A card as far as its errors go: no other part of it is asked for."""
    found = CudaCard.__new__(CudaCard)
    found.xp = SimpleNamespace(
        cuda=SimpleNamespace(
            memory=SimpleNamespace(OutOfMemoryError=_OutOfMemoryError),
            runtime=SimpleNamespace(CUDARuntimeError=_RuntimeError),
            driver=SimpleNamespace(CUDADriverError=_DriverError),
            cublas=SimpleNamespace(CUBLASError=_CublasError),
        )
    )
    found.n_released = 0

    def release():
        found.n_released += 1

    found.release = release
    return found


@pytest.mark.parametrize(
    "error",
    [
        _OutOfMemoryError("Out of memory allocating 1,024 bytes (allocated so far: 512 bytes)."),
        _RuntimeError("cudaErrorMemoryAllocation: out of memory"),
        _DriverError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        _CublasError("CUBLAS_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_card_that_is_full(card, error):
    said = "must fit in the memory of the card; got a card that is full .*See what else runs on it .nvidia-smi."
    with pytest.raises(MemoryError, match=said), card.explained():
        raise error
    assert card.n_released == 1


def test_a_card_that_fails(card):
    said = r"The card must compute; got cudaErrorIllegalAddress: .*Look at it \(nvidia-smi\), and run again"
    with pytest.raises(DaskgmmError, match=said), card.explained():
        raise _RuntimeError("cudaErrorIllegalAddress: an illegal memory access was encountered")
    assert card.n_released == 0


def test_other_errors_are_left_alone(card):
    with pytest.raises(KeyError), card.explained():
        raise KeyError("x")
    with card.explained():
        pass
    assert card.n_released == 0
