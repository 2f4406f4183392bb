"""Neighbours and what their labels say, against scikit-learn and against plain NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsRegressor
from sklearn.preprocessing import StandardScaler

from astroclip.errors import DataError
from astroclip.predict import knn
from astroclip.predict.knn import Neighbours, weigh
from astroclip.predict.posterior import Posterior


def predict(train, labels, test, k: int, standardise: bool = True) -> np.ndarray:
    distance, index = Neighbours(train, k, standardise).query(test)
    return Posterior.from_samples(labels[index], weigh(distance)).mean


def oracle(train: np.ndarray, labels: np.ndarray, test: np.ndarray, k: int) -> np.ndarray:
    scaler = StandardScaler().fit(train)
    model = KNeighborsRegressor(n_neighbors=k, weights="distance", algorithm="brute")
    return model.fit(scaler.transform(train), labels).predict(scaler.transform(test))


def test_equals_the_original(golden):
    data = np.load(golden / "knn.npz")  # the original standardises before its regressor, not in it
    ours = predict(data["X_train"], data["y_train"], data["X_test"], 64, standardise=False)
    np.testing.assert_allclose(ours, data["pred"], rtol=0, atol=1e-5 * np.abs(data["pred"]).max())
    for column in range(3):
        ours = predict(
            data["X_train"], data["y_train_multi"][:, column], data["X_test"], 64, standardise=False
        )
        theirs = data["pred_multi"][:, column]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 300),
    width=st.integers(1, 40),
    k=st.integers(1, 80),
    offset=st.sampled_from([0.0, 100.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_scikit_learn(rows, width, k, offset, seed):
    rng = np.random.default_rng(seed)
    train = (rng.normal(size=(rows, width)) * rng.uniform(0.1, 10, width) + offset).astype(np.float32)
    test = (rng.normal(size=(7, width)) + offset).astype(np.float32)
    labels = rng.normal(size=rows)
    k = min(k, rows)
    np.testing.assert_allclose(predict(train, labels, test, k), oracle(train, labels, test, k), atol=2e-4)


def test_blocks_of_the_reference_do_not_matter(rng, monkeypatch):
    train = rng.normal(size=(500, 6)).astype(np.float32)
    test = rng.normal(size=(40, 6)).astype(np.float32)
    whole = Neighbours(train, 20).query(test)
    monkeypatch.setattr(knn, "REFERENCE_BLOCK", 37)
    monkeypatch.setattr(knn, "RERANKED_BLOCK", 1000)
    parts = Neighbours(train, 20).query(test)
    np.testing.assert_allclose(parts[0], whole[0], rtol=1e-12)
    np.testing.assert_array_equal(parts[1], whole[1])


def test_a_row_of_the_reference_gets_its_own_label(rng):
    train = rng.normal(size=(200, 8)).astype(np.float32)
    labels = rng.normal(size=200)
    np.testing.assert_array_equal(predict(train, labels, train, 64), labels)


def test_constant_dimension_is_only_centred(rng):
    train = rng.normal(size=(100, 3)).astype(np.float32)
    train[:, 1] = 7
    labels = rng.normal(size=100)
    np.testing.assert_allclose(
        predict(train, labels, train[:5] + 0.1, 10), oracle(train, labels, train[:5] + 0.1, 10), atol=1e-5
    )


def test_fewer_rows_than_neighbours_uses_all(rng):
    train = rng.normal(size=(5, 3)).astype(np.float32)
    neighbours = Neighbours(train, 64)
    assert neighbours.k == 5
    assert neighbours.query(train[:2])[1].shape == (2, 5)


def test_no_query_and_no_reference(rng):
    train = rng.normal(size=(5, 3)).astype(np.float32)
    distance, index = Neighbours(train, 2).query(train[:0])
    assert distance.shape == index.shape == (0, 2)
    with pytest.raises(DataError, match="no row"):
        Neighbours(train[:0], 2)


@pytest.mark.parametrize("near", [False, True])
def test_a_bfloat16_shortlist_loses_no_neighbour(rng, near):
    """Also where vectors are so close together that rounding hides who is nearer."""
    train = rng.normal(size=(3000, 32)).astype(np.float32)
    if near:
        train = (train[:3] + 1e-3 * rng.normal(size=(1000, 3, 32))).reshape(3000, 32).astype(np.float32)
    test = train[::50] + np.float32(1e-4)
    exact = Neighbours(train, 64, bf16=False).query(test)
    quick = Neighbours(train, 64, bf16=True).query(test)
    np.testing.assert_allclose(quick[0], exact[0], rtol=1e-6)
    np.testing.assert_array_equal(quick[1], exact[1])


def test_a_row_is_not_its_own_neighbour(rng):
    train = rng.normal(size=(90, 4)).astype(np.float32)
    train[1] = train[0]
    neighbours = Neighbours(train, 5)
    rows = np.array([0, 1, 40])
    distance, index = neighbours.query(train[rows], but=rows)
    assert index.shape == (3, 5)
    assert (index != rows[:, None]).all()
    assert index[:2, 0].tolist() == [1, 0]
    assert distance[0, 0] == 0
    few = Neighbours(train[:3], 64)
    assert few.query(train[:3], but=np.arange(3))[1].shape == (3, 2)
