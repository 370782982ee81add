"""The data on which naive sums fail, once more, as a card computes them."""

import numpy as np
import pytest

from daskgmm.kernels.cuda_passes import CardEStep
from daskgmm.kernels.cuda_rows import CardBlock
from tests.kernels import driving
from tests.kernels.test_nasty import *  # noqa: F403  (its tests are tests here)


@pytest.fixture(autouse=True)
def passes_run_on(card, monkeypatch):
    """Have the driver of the mathematics do its passes on a card."""

    class OnCard(CardEStep):
        def update(self, state, block):
            weights = None if block.weights is None else card.array(block.weights)
            stored = card.array(np.ascontiguousarray(block.x.T))
            return super().update(state, CardBlock(card, stored, weights, block.first_row, False))

    monkeypatch.setattr(driving, "EStep", OnCard)
