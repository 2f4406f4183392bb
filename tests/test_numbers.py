"""Redshifts in bins: where a label lies among them, what an ensemble says of a redshift with two answers."""

import numpy as np
import pytest
import torch

from astroclip.predict.heads import SOFTNESS, HeadSettings, bin_loss
from astroclip.predict.numbers import LabelScale, fit_numbers
from astroclip.predict.posterior import normal_level


def test_labels_come_back_from_their_bins():
    redshift = np.array([[0.01], [0.3], [1.2]])
    target = LabelScale.of(redshift, redshift=True, bins=200)
    place = target.place(redshift)
    outputs = torch.full((3, 200), -1e4)
    for row, at in enumerate(place):
        low = int(at)
        outputs[row, low], outputs[row, low + 1] = (1 - at + low).log(), (at - low).log()
    sample, share = target.from_outputs(outputs)
    np.testing.assert_allclose((sample[:, :, 0] * share).sum(1), redshift[:, 0], rtol=1e-3)
    assert 0 <= sample.min() < 0.01  # no bin is below redshift 0
    assert 1.2 < sample.max() < 1.4
    assert LabelScale.of(redshift - 0.02, redshift=True, bins=50).place(redshift - 0.02)[0] >= 0


def test_the_loss_of_bins_is_the_cross_entropy_with_a_gaussian():
    generator = torch.Generator().manual_seed(0)
    output, place = torch.randn(5, 12, generator=generator), torch.tensor([0.0, 3.3, 7.0, 11.0, torch.nan])
    centre = np.arange(12)
    expected = []
    for row, at in zip(output.double().numpy(), place.numpy(), strict=True):
        wanted = np.exp(-0.5 * ((centre - at) / SOFTNESS) ** 2)
        logs = row - np.log(np.exp(row).sum())
        expected.append(-(wanted / wanted.sum() * logs).sum() if np.isfinite(at) else 0.0)
    found = bin_loss(place, 12)(output, torch.arange(5))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_redshift_with_two_answers_keeps_both():
    rng = np.random.default_rng(1)
    hidden, other = rng.uniform(0, 1, 3000), rng.random(3000) < 0.3
    vectors = (hidden[:, None] * np.arange(1, 5) + 0.01 * rng.standard_normal((3000, 4))).astype(np.float32)
    redshift = np.where(other, 0.9 - 0.2 * hidden, 0.1 + 0.2 * hidden)[:, None]
    head = HeadSettings((64,), dropout=0.0, bins=200, noise=0.02)
    fitted = fit_numbers(vectors[:2000], redshift[:2000], method="mlp", head=head, redshift=True)
    (posterior,), _ = fitted.predict(vectors[2000:])
    score = posterior.score_of(np.broadcast_to([0.35, 0.65], (1000, 2)))
    below, upto = (0.5 * (1 + torch.erf(torch.from_numpy(score) / 2**0.5))).numpy().T
    assert np.median(below) == pytest.approx(0.7, abs=0.05)
    assert np.median(upto - below) < 0.03  # nothing is between
    pit = normal_level(posterior.score_of(redshift[2000:])[:, 0])
    assert np.abs(np.sort(pit) - (np.arange(1000) + 0.5) / 1000).max() < 0.06
