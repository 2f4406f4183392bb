"""From survey spectra to patches: against the original's numbers and against slow NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from astroclip.errors import DataError, UsageError
from astroclip.model.prepare_spectra import (
    fill_bad_pixels,
    find_good_pixels,
    mask_chunks,
    prepare_spectra,
    resample_to_desi,
    standardise,
    to_patches,
)
from astroclip.schema import N_WAVE, desi_wave

WAVE = desi_wave()


def make_spectrum(wave: np.ndarray) -> np.ndarray:
    """A smooth continuum with one broad line, in DESI's flux unit."""
    return 3 + np.sin(wave / 300) + 5 * np.exp(-(((wave - 6563) / 15) ** 2))


def test_golden_patches(golden):
    arrays = np.load(golden / "specformer.npz")
    patches = to_patches(torch.from_numpy(arrays["spectra"])).numpy()
    scale = np.abs(arrays["preprocess"]).max()
    np.testing.assert_allclose(patches[:3], arrays["preprocess"][:3], atol=1e-5 * scale)
    np.testing.assert_allclose(patches[3], arrays["preprocess"][3], atol=1e-4)  # constant: rounding only


@pytest.mark.parametrize(
    ("S", "length", "overlap"), [(7781, 20, 10), (7780, 20, 10), (100, 20, 5), (61, 7, 0)]
)
def test_patches_against_numpy(rng, S, length, overlap):
    flux = rng.normal(4, 3, (3, S)).astype(np.float32)
    mean, std = flux.mean(1, keepdims=True), flux.std(1, ddof=1, keepdims=True)
    standard = (flux - mean) / std
    starts = range(0, S - overlap, length - overlap)
    rows = [np.pad(standard[:, s : s + length], ((0, 0), (2, 0))) for s in starts][:-1]
    first = np.zeros((3, length + 2), np.float32)
    first[:, :2] = np.hstack([(mean - 2) / 2, (std - 2) / 8])
    expected = np.stack([first, *rows], axis=1)
    patches = to_patches(torch.from_numpy(flux)[..., None], length, overlap)
    np.testing.assert_allclose(patches, expected, atol=1e-5)
    assert patches.dtype == torch.float32


def test_standardise_floors_the_deviation():
    flux = torch.stack([torch.full((50,), 3.0), torch.linspace(3, 3.01, 50), torch.linspace(0, 9, 50)])
    standard, mean, std = standardise(flux)
    assert std[:2].tolist() == [[pytest.approx(0.2)]] * 2
    assert std[2].item() == pytest.approx(np.linspace(0, 9, 50).std(ddof=1))
    torch.testing.assert_close(standard * std + mean, flux)
    assert (standard[0] == 0).all()


def test_patches_need_one_section():
    assert to_patches(torch.rand(1, 21)).shape == (1, 2, 22)
    with pytest.raises(DataError, match="20 pixels are too short"):
        to_patches(torch.rand(1, 20))


def test_good_pixels():
    flux = torch.tensor([[1, 2, torch.nan, torch.inf, 5, 6, 7]])
    ivar = torch.tensor([[1, 0, 1, 1, -1, torch.nan, torch.inf]])
    assert find_good_pixels(flux).tolist() == [[True, True, False, False, True, True, True]]
    assert find_good_pixels(flux, ivar).tolist() == [[True] + 6 * [False]]
    assert not find_good_pixels(flux, ivar, torch.ones(1, 7, dtype=torch.int32)).any()


@given(
    st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=5), st.integers(0, 99)
)
@settings(max_examples=60, deadline=None)
def test_fill_is_numpys_interpolation(good, seed):
    good = np.array(good)
    flux = np.random.default_rng(seed).normal(size=good.shape).astype(np.float32)
    expected = [
        np.interp(np.arange(12), np.flatnonzero(g), f[g]) if g.any() else np.zeros(12)
        for f, g in zip(flux, good, strict=True)
    ]
    hidden = np.where(good, flux, np.nan).astype(np.float32)
    filled = fill_bad_pixels(torch.from_numpy(hidden), torch.ones(good.shape, dtype=torch.bool))
    np.testing.assert_allclose(filled, expected, atol=1e-6)
    np.testing.assert_array_equal(filled, fill_bad_pixels(torch.from_numpy(flux), torch.from_numpy(good)))


def rebin_slowly(flux, ivar, good, left, right):
    """Mean flux density over DESI's pixels and its inverse variance, by the definition."""
    out = np.zeros((2, N_WAVE))
    covered = np.zeros(N_WAVE, bool)
    for j, wave in enumerate(WAVE):
        share = (np.minimum(right, wave + 0.4) - np.maximum(left, wave - 0.4)).clip(0) / 0.8
        covered[j] = share.sum() > 1 - 1e-6
        used = share > 1e-8
        if covered[j] and good[used].all():
            out[:, j] = (share * flux)[used].sum(), 1 / (share**2 / ivar)[used].sum()
    return *out, covered


@pytest.mark.parametrize("kind", ["fine", "coarse", "log", "gap"])
def test_resampling_against_numpy(rng, kind):
    wave = {
        "fine": np.arange(3590, 9900, 0.33),
        "coarse": np.arange(3700, 9900, 2.7),
        "log": 10 ** np.arange(3.5797, 3.9642, 1e-4),
        "gap": np.r_[np.arange(3590.13, 5800, 0.77), np.arange(7600.13, 9900, 0.77)],
    }[kind]
    flux, ivar = rng.normal(size=(2, len(wave))), rng.uniform(0.5, 2, (2, len(wave)))
    mask = (rng.random((2, len(wave))) < 0.02).astype(np.int32)
    middle = (wave[1:] + wave[:-1]) / 2
    left = np.r_[1.5 * wave[0] - wave[1] / 2, middle]
    right = np.r_[middle, 1.5 * wave[-1] - wave[-2] / 2]
    for i in np.flatnonzero(np.diff(wave) > 100):
        right[i], left[i + 1] = wave[i] + 0.385, wave[i + 1] - 0.385
    result = resample_to_desi(flux, ivar, mask, wave)
    for row in range(2):
        slow = rebin_slowly(flux[row], ivar[row], mask[row] == 0, left, right)
        for got, expected in zip((result.flux, result.ivar, result.covered), slow, strict=True):
            np.testing.assert_allclose(got[row], expected, rtol=2e-5, atol=1e-6)
        np.testing.assert_array_equal(result.good[row], slow[1] > 0)
    rows = resample_to_desi(flux, ivar, mask, np.stack([wave, wave]))  # a grid a row gives the same
    assert all(torch.equal(a, b) for a, b in zip(result, rows, strict=True))


def test_each_spectrum_on_its_own_grid_of_its_own_length(rng):
    """Rows of unequal length, padded with NaN, DESI's own grid among them, are what each is alone."""
    waves = [
        10 ** np.arange(3.5797, 3.9642, 1e-4),
        WAVE,
        np.arange(3590, 9000, 1.9),
        WAVE[2000:],
        np.zeros(0),
        np.array([5000.0]),
    ]
    longest = max(map(len, waves))
    grid, flux = np.full((len(waves), longest), np.nan), rng.normal(size=(len(waves), longest))
    for i, wave in enumerate(waves):
        grid[i, : len(wave)] = wave
    ivar, mask = rng.uniform(0.5, 2, flux.shape), rng.random(flux.shape) < 0.02
    together = resample_to_desi(flux, ivar, mask, grid)
    for i, wave in enumerate(waves[:4]):
        alone = resample_to_desi(*(v[i : i + 1, : len(wave)] for v in (flux, ivar, mask)), wave)
        for got, expected in zip(together, alone, strict=True):
            assert torch.equal(got[i], expected[0])
    assert not together.covered[4:].any()
    prepared = prepare_spectra(flux, ivar, mask, grid)
    assert prepared.bad_fraction[4:].tolist() == [1, 1]
    assert prepared.coverage[1] == 1
    assert prepared.flux.isfinite().all()


@pytest.mark.parametrize("own", [False, True])
def test_a_part_without_wavelengths_is_not_covered(rng, own):
    """As of a coadd without an arm: NaN amid DESI's grid, and amid another."""
    for wave in (WAVE.copy(), WAVE * 1.01):
        flux = rng.normal(size=(2, N_WAVE)).astype(np.float32)
        whole, hole = prepare_spectra(flux, wave=wave), wave.copy()
        hole[3000:4000] = np.nan
        part = prepare_spectra(flux, wave=np.stack([hole, hole]) if own else hole)
        fewer = prepare_spectra(np.delete(flux, np.s_[3000:4000], axis=1), wave=hole[np.isfinite(hole)])
        assert torch.equal(part.flux, fewer.flux)
        assert torch.equal(part.coverage, fewer.coverage)
        assert (part.coverage < whole.coverage).all()
        assert not part.bad_fraction.any()


def test_resampling_propagates_noise(rng):
    """The scatter of many noise spectra is what ivar says, for bins finer than DESI's."""
    wave = np.arange(5000, 5040, 0.29)
    sigma = np.linspace(0.5, 2, len(wave))
    noise = rng.normal(size=(800, len(wave))) * sigma
    result = resample_to_desi(noise, np.broadcast_to(sigma**-2, noise.shape), wave=wave)
    inside = result.good[0].numpy()
    chi = (result.flux * result.ivar.sqrt())[:, inside].numpy()
    assert inside.sum() == 49
    np.testing.assert_allclose(chi.std(axis=0), 1, atol=0.12)
    assert chi.std() == pytest.approx(1, abs=0.02)


def test_resampling_keeps_a_spectrum_and_its_integral():
    wave = 10 ** np.arange(3.55, 4.0, 1e-4)
    result = resample_to_desi(make_spectrum(wave)[None], wave=wave)
    assert result.covered.all()
    np.testing.assert_allclose(result.flux[0], make_spectrum(WAVE), atol=0.15)
    assert result.flux.sum().item() == pytest.approx(make_spectrum(WAVE).sum(), rel=1e-4)


def test_desi_grid_passes_through_bit_for_bit(rng):
    flux = torch.from_numpy(rng.normal(size=(3, N_WAVE)).astype(np.float32))
    flux[0, 5] = torch.nan
    ivar = torch.rand(3, N_WAVE, generator=torch.Generator().manual_seed(0))
    for wave in (None, WAVE, WAVE.astype(np.float32), np.stack(3 * [WAVE + 5e-4]), WAVE.astype(">f8")):
        result = resample_to_desi(flux, ivar, None, wave)
        assert result.flux is flux
        assert result.ivar is ivar
        assert result.covered.all()
        assert result.good.logical_not().nonzero().tolist() == [[0, 5]]


def test_part_of_the_desi_grid_keeps_its_values(rng):
    keep = (WAVE > 4000) & ((WAVE < 5800) | (WAVE > 7520))
    flux, ivar = rng.normal(size=(2, 2, keep.sum())).astype(np.float32)
    wave = np.r_[WAVE[keep], 9824.8, 9825.6]  # DESI's steps, beyond its end
    result = resample_to_desi(np.pad(flux, ((0, 0), (0, 2))), np.pad(ivar**2, ((0, 0), (0, 2))), None, wave)
    np.testing.assert_array_equal(result.flux[:, keep], flux)
    np.testing.assert_array_equal(result.ivar[:, keep], ivar**2)
    np.testing.assert_array_equal(result.covered, np.stack([keep, keep]))
    assert not result.good[:, ~keep].any()


def test_every_second_desi_pixel_is_a_coarser_grid():
    result = resample_to_desi(make_spectrum(WAVE)[None, ::2], wave=WAVE[::2])
    assert result.covered.sum() == N_WAVE
    np.testing.assert_allclose(result.flux[0], make_spectrum(WAVE), atol=0.3)


@pytest.mark.parametrize(
    ("wave", "match"),
    [
        (WAVE[::-1], "does not ascend at pixel 1"),
        (np.r_[WAVE[:7], np.inf, WAVE[8:]], "does not ascend at pixel 7"),
        (np.r_[WAVE[:7], np.nan, WAVE[6], WAVE[9:]], "does not ascend at pixel 8"),
        (WAVE / 10, "is it in nm"),
        (WAVE / 1e4, "is it in micron"),
        (WAVE / 1e10, "is it in m"),
        (np.log10(WAVE), "log10"),
        (WAVE + 1e4, "outside DESI's 3600 to 9824"),
        (WAVE[:-1], r"expected \(S,\) or \(N, S\)"),
    ],
)
def test_wavelengths_that_cannot_be_are_refused(wave, match):
    with pytest.raises(DataError, match=match):
        resample_to_desi(np.ones((2, N_WAVE)), wave=wave)


def test_the_row_of_bad_wavelengths_is_named():
    wave = np.stack([WAVE, WAVE])
    wave[1, 9] = 0
    with pytest.raises(DataError, match="row 1, pixel 9"):
        resample_to_desi(np.ones((2, N_WAVE)), wave=wave)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="spectra of 100 pixels"):
        prepare_spectra(np.ones((2, 100)))
    with pytest.raises(DataError, match="ivar of shape"):
        prepare_spectra(np.ones((2, N_WAVE)), np.ones((1, N_WAVE)))
    with pytest.raises(DataError, match="flux of shape"):
        prepare_spectra(np.ones(N_WAVE))


def test_prepare_fills_and_counts(rng):
    keep = WAVE < 8000
    flux = np.stack(4 * [make_spectrum(WAVE[keep])]).astype(np.float32)
    mask = np.zeros(flux.shape, np.uint32)
    mask[1, 100:200] = 4
    flux[2] = np.nan
    prepared = prepare_spectra(flux, np.ones_like(flux), mask, WAVE[keep])
    n = keep.sum()
    np.testing.assert_allclose(prepared.bad_fraction, [0, 100 / n, 1, 0], atol=1e-6)
    np.testing.assert_allclose(prepared.coverage, n / N_WAVE)
    np.testing.assert_array_equal(prepared.flux[0, :n], flux[0])
    np.testing.assert_allclose(prepared.flux[0, n:], flux[0].mean(), rtol=1e-6)
    np.testing.assert_allclose(
        prepared.flux[1, 99:201], np.linspace(flux[1, 99], flux[1, 200], 102), rtol=1e-5
    )
    assert (prepared.flux[2] == 0).all()
    # what is not covered looks to the encoder like masked patches
    assert to_patches(prepared.flux[:1])[0, -100:].abs().max() < 1e-5


def test_prepare_leaves_good_spectra_alone(rng):
    flux = torch.from_numpy(rng.normal(size=(2, N_WAVE)).astype(np.float32))
    prepared = prepare_spectra(flux)
    assert prepared.flux is flux
    assert prepared.bad_fraction.tolist() == [0, 0]
    assert prepared.coverage.tolist() == [1, 1]


@given(st.integers(1, 8), st.integers(1, 20), st.integers(30, 400), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_masked_chunks(chunks, width, n, seed):
    patches = torch.rand(5, n, 3) + 1
    if (2 * chunks - 1) * width > n or n // chunks <= width:
        with pytest.raises(UsageError, match="do not fit"):
            mask_chunks(patches, torch.Generator().manual_seed(seed), chunks, width)
        return
    masked, rows = mask_chunks(patches, torch.Generator().manual_seed(seed), chunks, width)
    assert torch.equal(masked, torch.where(rows[..., None], 0, patches))
    assert rows.sum(dim=1).tolist() == [chunks * width] * 5
    for sample in rows.numpy():
        first = np.flatnonzero(np.diff(sample, prepend=False) & sample)  # fewer where chunks touch
        for i in range(chunks):
            part = sample[i * n // chunks : (i + 1) * n // chunks]
            assert part.sum() == width
            assert part.argmax() < n // chunks - width
        assert len(first) <= chunks
    again = mask_chunks(patches, torch.Generator().manual_seed(seed), chunks, width)
    assert torch.equal(again.rows, rows)


def test_masked_chunks_are_uniform_and_independent():
    rows = mask_chunks(torch.ones(4000, 778, 1), torch.Generator().manual_seed(0)).rows
    starts = torch.stack([rows[:, i * 778 // 6 : (i + 1) * 778 // 6].int().argmax(dim=1) for i in range(6)])
    assert starts.min() == 0
    assert starts.max() == 778 // 6 - 50 - 1
    np.testing.assert_allclose(starts.double().mean(dim=1), 39, atol=1.5)
    assert np.abs(np.corrcoef(starts) - np.eye(6)).max() < 0.06


def test_golden_masks_are_possible(golden):
    """The published masking's rows obey the rule: each sixth has one run of 50 at a place we can draw."""
    for sample in np.load(golden / "specformer.npz")["mask_rows"]:
        for i in range(6):
            part = sample[i * 778 // 6 : (i + 1) * 778 // 6]
            assert part.sum() == 50
            assert part.argmax() < 778 // 6 - 50


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_same_result_on_gpu(rng):
    wave = np.arange(3700, 9900, 1.1)
    flux = torch.from_numpy(rng.normal(size=(3, len(wave))).astype(np.float32))
    flux[0, 40:70] = torch.nan
    for cpu, gpu in zip(
        prepare_spectra(flux, wave=wave), prepare_spectra(flux.cuda(), wave=wave), strict=True
    ):
        torch.testing.assert_close(gpu.cpu(), cpu, atol=1e-5, rtol=1e-5)
