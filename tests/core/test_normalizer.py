"""The normalizer is invertible, fits what it says, and survives constant columns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdd_ros.core.errors import VddError
from vdd_ros.core.normalizer import Normalizer

DATA = np.random.default_rng(0).normal([1.0, -50.0], [0.1, 20.0], size=(500, 2))


def test_min_max_maps_the_data_to_plus_minus_one():
    unit = Normalizer.fit(DATA, "min_max").normalize(DATA)
    np.testing.assert_allclose(unit.min(0), -1, atol=1e-5)
    np.testing.assert_allclose(unit.max(0), 1, atol=1e-5)


def test_mean_std_gives_zero_mean_and_unit_deviation():
    unit = Normalizer.fit(DATA, "mean_std").normalize(DATA)
    np.testing.assert_allclose(unit.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(unit.std(0), 1, atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), kind=st.sampled_from(["min_max", "mean_std", "identity"]))
def test_unnormalize_inverts_normalize(seed, kind):
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(50, 3)) * 10.0 ** rng.integers(-2, 3, size=3)
    normalizer = Normalizer.fit(data, kind)
    back = normalizer.unnormalize(normalizer.normalize(data))
    np.testing.assert_allclose(back, data, rtol=1e-4, atol=1e-4 * np.abs(data).max())


@pytest.mark.parametrize("kind", ["min_max", "mean_std"])
def test_a_constant_column_becomes_zero_and_does_not_amplify_sensor_noise(kind):
    data = np.column_stack([DATA[:, 0], np.full(500, 0.3)])
    normalizer = Normalizer.fit(data, kind)
    np.testing.assert_array_equal(normalizer.scale[1], 1.0)
    assert abs(normalizer.normalize(np.array([1.0, 0.3001]))[1]) < 1e-3


def test_bad_data_is_refused_by_row_and_column():
    bad = DATA.copy()
    bad[7, 1] = np.nan
    with pytest.raises(VddError, match="row 7, column 1"):
        Normalizer.fit(bad, "mean_std")
    with pytest.raises(VddError, match="unknown kind"):
        Normalizer.fit(DATA, "robust")
    with pytest.raises(VddError, match="expected"):
        Normalizer.fit(DATA[:0], "min_max")
