"""The type of most arrays: `Floats` in every annotation means float64, and a docstring says the shape."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
