# /// script
# requires-python = ">=3.11"
# dependencies = ["daskgmm"]
#
# [tool.uv.sources]
# daskgmm = { path = "../.." }
# ///
"""Speakers: a background model of all voices is adapted to each, and tells who has spoken."""

import sys
from pathlib import Path

import numpy as np

from daskgmm import GaussianMixture

N_CEPSTRA, SOUNDS = 12, np.random.default_rng(0).normal(0, 3, (8, 12))
VOICES = np.random.default_rng(1).normal(0, 0.8, (10, 8, 12))


def frames(speaker: int, n_frames: int, seed: int) -> np.ndarray:
    """Return cepstra of a speaker's frames, as librosa.feature.mfcc(...).T would; here eight sounds in his voice."""
    random = np.random.default_rng(seed)
    sound = random.integers(len(SOUNDS), size=n_frames)
    return SOUNDS[sound] + VOICES[speaker, sound] + random.normal(0, 1, (n_frames, N_CEPSTRA))


def main(folder: Path) -> None:
    everybody = np.concatenate([frames(speaker, 600, seed=speaker) for speaker in range(10)])
    background = GaussianMixture(8, covariance_type="diag", covariance_prior="weak", n_init=2, random_state=0)
    background.fit(everybody)
    background.save(folder / "background.zarr")

    # Ten seconds of each of five speakers. A component that they hardly use stays that of everybody.
    models = [background.adapted(frames(speaker, 1000, seed=100 + speaker), relevance=16) for speaker in range(5)]
    right = 0
    for speaker in range(5):
        said = frames(speaker, 100, seed=200 + speaker)
        ratios = [model.score(said) - background.score(said) for model in models]
        right += int(np.argmax(ratios)) == speaker
        print(f"speaker {speaker}: log-likelihood ratios a frame {np.round(ratios, 2)}")
    print(f"{right} of 5 are told by one second of speech")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
