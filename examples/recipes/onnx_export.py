# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm", "skl2onnx", "onnxruntime"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""A pipeline of scikit-learn, and its mixture as ONNX, for programs without Python."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from skl2onnx import convert_sklearn
from skl2onnx.common.data_types import DoubleTensorType
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from daskgmm import GaussianMixture


def main(folder: Path) -> None:
    random = np.random.default_rng(0)
    X = np.concatenate([random.normal(0, [1, 1000], (2_000, 2)), random.normal([8, 5000], [1, 1000], (2_000, 2))])
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0)).fit(X)

    # ONNX knows scikit-learn's mixture; double precision, as far from zero single precision has no digits left.
    steps = make_pipeline(pipeline[0], pipeline[-1].to_sklearn())
    model = convert_sklearn(steps, initial_types=[("X", DoubleTensorType([None, 2]))], target_opset=18)
    (folder / "mixture.onnx").write_bytes(model.SerializeToString())

    labels = onnxruntime.InferenceSession(folder / "mixture.onnx").run(None, {"X": X})[0].ravel()
    print(f"ONNX gives the same label to {np.mean(labels == pipeline.predict(X)):.1%} of the rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
