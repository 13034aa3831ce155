"""What the store keeps of predictions: any array of numbers, records or texts comes back as it was, to the bit."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load, save

from peftport.metrics.base import ANSWER
from peftport.study.predicted import TARGETS, as_tensors, from_tensors, is_of_predictions, predicted_name

SHAPES = arrays.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5)
NUMBERS = st.one_of(
    *(arrays.arrays(kind, SHAPES) for kind in (np.float32, np.float64, np.int64, np.bool_, np.uint8)),
)
TEXT = st.text(st.characters(codec=None), max_size=8)  # surrogates too
TEXTS = st.one_of(st.lists(st.none() | TEXT, max_size=6), st.lists(st.lists(TEXT, min_size=1, max_size=3).map(tuple)))


@st.composite
def texts(draw: st.DrawFn) -> np.ndarray:
    values = draw(TEXTS)
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found


@st.composite
def answers(draw: st.DrawFn) -> np.ndarray:
    own = draw(st.lists(st.tuples(st.floats(width=64), st.integers(0, 2**40), st.none() | TEXT), max_size=6))
    return np.array(own, dtype=ANSWER)


@given(st.one_of(NUMBERS, texts(), answers()), st.one_of(NUMBERS, texts()))
@settings(max_examples=80, deadline=None)
def test_arrays_come_back_as_they_were(values: np.ndarray, targets: np.ndarray) -> None:
    """Through a real file, beside others whose names begin alike."""
    name, other = predicted_name("job", 1), predicted_name("job", 10)
    tensors = as_tensors(name, values) | as_tensors(TARGETS, targets) | as_tensors(other, values)
    assert all(is_of_predictions(each) for each in tensors) and not is_of_predictions("job/module/1/slot/A")
    read = load(save({key: np.ascontiguousarray(own) for key, own in tensors.items()}))
    for key, wanted in ((name, values), (TARGETS, targets), (other, values)):
        found = from_tensors(key, read)
        assert found is not None and found.dtype == wanted.dtype and found.shape == wanted.shape
        if wanted.dtype == object:
            assert found.tolist() == wanted.tolist()
        elif wanted.dtype.names:
            assert [repr(each) for each in found.tolist()] == [repr(each) for each in wanted.tolist()]
        else:
            assert found.tobytes() == np.ascontiguousarray(wanted).tobytes()
    assert from_tensors(predicted_name("job", 2), read) is None
