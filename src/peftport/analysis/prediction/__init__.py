"""Predictions of what a port keeps, from recorded ports of other pairs of hosts; unknown for anything unlike these."""

from __future__ import annotations

from peftport.analysis.prediction.predict import Asked, Prediction, predict
from peftport.analysis.prediction.recorded import Recorded, RecordedPort, recorded

__all__ = ["Asked", "Prediction", "Recorded", "RecordedPort", "predict", "recorded"]
