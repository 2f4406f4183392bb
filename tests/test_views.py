"""Views for self-distillation: against the original's numbers, scipy's filter and all possible crops."""

import json

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from astroclip.errors import DataError
from astroclip.model.prepare_images import to_rgb
from astroclip.model.views import NOISE_SIGMA, PSF_SIGMA, View, blur_planes, draw_sigma, make_views

PLAIN = View(size=5, number=1, blur=0, noise=0)


@pytest.fixture(scope="module")
def augment(golden) -> dict[str, np.ndarray]:
    with np.load(golden / "augment.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def statistics(golden) -> dict[str, dict]:
    return json.loads((golden / "manifest.json").read_text())["losses_data_etc"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw_images(n: int, size: int = 8, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, size, size, generator=seeded(seed)) * 0.2


def test_golden_blur(augment):
    planes = torch.from_numpy(augment["blur_in"])
    sigma = torch.from_numpy(augment["blur_sigma_augment"]).float()
    blurred = blur_planes(planes[:1], sigma[:1])
    expected = torch.from_numpy(augment["blur_out"])
    assert not sigma[1:].any()
    assert torch.equal(expected[1:], planes[1:])  # what is sharp enough stays as it is
    assert (blurred - expected[:1]).abs().max() < 1e-5 * expected.abs().max()


def test_golden_noise(augment):
    """The noise that the original added has the strength that its sigma says."""
    noise = augment["noise_out"] - augment["blur_in"]
    assert noise.std(axis=(1, 2)) == pytest.approx(augment["noise_sigma_augment"], rel=0.03)


def test_golden_first_global_view(golden, augment):
    """The original's first global view is a plain crop, flipped both ways: one of ours."""
    with np.load(golden / "preprocessing.npz") as arrays:
        raw = torch.from_numpy(arrays["raw_grz"])
    expected = torch.from_numpy(augment["aug_global1_first_row"])
    colours = to_rgb(raw)
    crop = colours[..., 6 : 6 + 144, 4 : 4 + 144].flip(-1, -2)
    assert (crop[:, :, 0].mT - expected).abs().amax((1, 2)).min() < 1e-5


@pytest.mark.parametrize(
    ("name", "lognormal", "numbers"), [("blur", PSF_SIGMA, "blur"), ("noise", NOISE_SIGMA, "noise")]
)
def test_golden_statistics_of_sigma(augment, statistics, name, lognormal, numbers):
    theirs = augment[f"{name}_lognormal_shape_loc_scale"]
    assert np.array_equal([lognormal[key] for key in ("shape", "loc", "scale")], theirs)
    expected = statistics["augment_sigma_stats_4000"]
    sigma = draw_sigma(lognormal, 40_000, torch.device("cpu"), seeded()).numpy()
    error = 4 * sigma.std(axis=0) / np.sqrt(4000)  # of 4000 draws of theirs
    assert (np.abs((sigma == 0).mean(0) - expected[f"{name}_fraction_zero"]) < 4 * 0.5 / np.sqrt(4000)).all()
    assert (np.abs(sigma.mean(0) - expected[f"{name}_mean"]) < error).all()
    assert np.percentile(sigma, 95, axis=0) == pytest.approx(expected[f"{name}_p95"], rel=0.05)


def test_golden_applied_fractions(statistics):
    """The recipe's probabilities are those that were measured on the original's views, not its settings."""
    from astroclip.training.recipes import read_training

    recipe = read_training("image").views
    for i, transform in enumerate(("global_transfo1", "global_transfo2", "local_transfo")):
        measured = statistics["augmentation_applied_fractions"][transform]
        assert recipe.blur[i] == pytest.approx(measured["blur_applied_fraction"], abs=0.03)
        assert recipe.noise[i] == pytest.approx(measured["noise_applied_fraction"], abs=0.03)


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 70), sigmas=st.lists(st.floats(0.05, 6), min_size=1, max_size=4))
@example(size=2, sigmas=[6.0])  # the kernel is wider than the plane and reflects several times
@example(size=61, sigmas=[0.05, 3.0])  # a prime number of pixels
@example(size=144, sigmas=[1.3])
def test_blur_is_scipys(size, sigmas):
    planes = torch.randn(len(sigmas), size, size, generator=seeded(size))
    before = planes.clone()
    blurred = blur_planes(planes, torch.tensor(sigmas))
    for plane, sigma, result in zip(planes.numpy(), torch.tensor(sigmas).tolist(), blurred, strict=True):
        expected = ndimage.gaussian_filter(plane.astype(float), sigma, mode="reflect", truncate=4)
        np.testing.assert_allclose(result, expected, atol=2e-6 * max(1, np.abs(plane).max()))
    assert torch.equal(planes, before)


def test_plain_views_are_all_flipped_crops():
    """Every view is one of 4 x 4 crops, flipped in one of 4 ways, and all of them come equally often."""
    images = draw_images(2)
    (views,) = make_views(images, [PLAIN._replace(number=3200)], seeded())
    counts = np.zeros((2, 64), int)
    for galaxy in range(2):
        colours = to_rgb(images[galaxy])
        possible = torch.stack(
            [
                colours[:, top : top + 5, left : left + 5].flip(axes)
                for top in range(4)
                for left in range(4)
                for axes in ((), (1,), (2,), (1, 2))
            ]
        )
        found = (views[galaxy::2, None] == possible).flatten(2).all(2)  # the galaxies take turns
        assert (found.sum(1) == 1).all()
        counts[galaxy] = found.sum(0)
    assert (np.abs(counts - 50) < 5 * np.sqrt(50)).all()
    assert np.corrcoef(counts)[0, 1] < 0.5  # drawn for each galaxy on its own


def test_kinds_order_and_reproducibility():
    images = draw_images(5, 12)
    before = images.clone()
    kinds = [View(12, 1, 0, 0), View(10, 2, 0.9, 0.9), View(4, 3, 0.5, 0.5)]
    first, again, other = (make_views(images, kinds, seeded(seed)) for seed in (1, 1, 2))
    assert [tuple(view.shape) for view in first] == [(5, 3, 12, 12), (10, 3, 10, 10), (15, 3, 4, 4)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[2], other[2])
    assert torch.equal(images, before)
    assert all(view.min() >= 0 and view.max() <= 1 for view in first)
    state = torch.get_rng_state()
    make_views(images, kinds, seeded())
    assert torch.equal(state, torch.get_rng_state())
    make_views(images, kinds)
    assert not torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("probability", "changed"), [(0.0, 0.0), (0.5, 0.5 * 7 / 8), (1.0, 7 / 8)])
def test_how_often_views_are_degraded(probability, changed):
    """With the probability, if the wanted seeing or noise is worse in one band of three at least."""
    sky = torch.zeros(1, 3, 12, 12)
    (views,) = make_views(sky, [View(12, 2000, 0, probability)], seeded())
    uneven = views.flatten(1).std(1) > 1e-7
    noisy = (views - to_rgb(sky)).abs().flatten(1).amax(1) > 1e-7
    assert torch.equal(uneven, noisy)
    assert noisy.float().mean().item() == pytest.approx(changed, abs=0.04)
    star = sky.clone()
    star[..., 6, 6] = 0.02
    (views,) = make_views(star, [View(12, 2000, probability, 0)], seeded())
    blurred = views.flatten(2).amax(2) < to_rgb(star).amax((2, 3)) - 1e-7  # (view, channel)
    assert blurred.any(1).float().mean().item() == pytest.approx(changed, abs=0.04)
    assert blurred.float().mean().item() == pytest.approx(probability / 2, abs=0.04)


def test_noise_is_added_before_the_stretch():
    """In bands without light, the stretch of nothing but noise has the noise's log-normal strengths."""
    (views,) = make_views(torch.zeros(1, 3, 40, 40), [View(40, 600, 0, 1.0)], seeded())
    plain = to_rgb(torch.zeros(3, 1, 1))
    red = (views[:, 0] - plain[0]).flatten(1).std(1)
    blue = (views[:, 2] - plain[2]).flatten(1).std(1)
    quiet = ((views - plain).abs().flatten(2).amax(2) < 1e-7).sum(1)
    assert red[quiet == 0].median() > 1.2 * blue[quiet == 0].median()  # z is noisier than g, in nanomaggies


@pytest.mark.parametrize("shape", [(2, 3, 8), (2, 4, 8, 8), (2, 3, 4, 8), (2, 3, 8, 4)])
def test_wrong_shapes_are_refused(shape):
    with pytest.raises(DataError, match="H and W of 5 px, the size of the largest view, or more"):
        make_views(torch.zeros(shape), [PLAIN])
