"""What `rliable` says of score arrays: run by its own interpreter, arrays in and numbers out as JSON.

    .rliable-venv/bin/python tools/oracle_rliable.py < request.json > answer.json

Request: {"x": (S, T), "y": (S', T), "resamples": int, "fewer": int}. Answer: interquartile mean of x and
probability that x improves on y (``fewer`` resamples: it is slow), each with its stratified bootstrap interval.
"""

from __future__ import annotations

import json
import sys
import warnings

import numpy as np
from rliable import library, metrics


def main() -> None:
    request = json.load(sys.stdin)
    x, y = (np.array(request[name]) for name in ("x", "y"))
    state, reps = np.random.RandomState(0), request["resamples"]
    warnings.simplefilter("ignore")  # of arch, on how it is called
    point, interval = library.get_interval_estimates(
        {"x": x}, lambda scores: np.array([metrics.aggregate_iqm(scores)]), reps=reps, random_state=state
    )
    chance, chance_interval = library.get_interval_estimates(
        {"x,y": (x, y)}, metrics.probability_of_improvement, reps=request["fewer"], random_state=state
    )
    answer = {
        "iqm": [float(point["x"][0]), *map(float, interval["x"].ravel())],
        "improvement": [float(chance["x,y"]), *map(float, chance_interval["x,y"].ravel())],
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
