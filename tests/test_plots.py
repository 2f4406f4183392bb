"""Figures: asserted on what is in them, not on their pixels."""

import sys

import matplotlib as mpl
import numpy as np
import pytest
from numpy.testing import assert_allclose

from astroclip.data.grid import NODATA, Spectra
from astroclip.errors import DataError, UsageError
from astroclip.plots import EMISSION, IMAGES_A_ROW, LINES, draw_pairs, plot_pairs, smooth_spectrum
from astroclip.schema import desi_wave

TITLES = ["39633345008634465", "39089837499744649", "39627866878511337"]


@pytest.fixture
def images(rng):
    return rng.normal(0.02, 0.01, (3, 3, 40, 40)).astype("f4")


@pytest.fixture
def spectra(rng) -> Spectra:
    flux = rng.normal(2, 1, (3, 7781)).astype("f4")
    ivar = np.ones_like(flux)
    ivar[0, 100:110] = 0
    return Spectra(desi_wave(), flux, ivar, np.where(ivar > 0, 0, NODATA).astype("i4"))


def _marked(axes) -> dict[str, float]:
    """Return the wavelengths at which line names stand."""
    return {text.get_text(): text.get_position()[0] for text in axes.texts}


def _curve(axes, label):
    return next(line for line in axes.lines if line.get_label() == label)


def test_each_galaxy_is_an_image_beside_its_spectrum(images, spectra):
    figure = draw_pairs(images, spectra, [0.1, 0.02, np.nan], TITLES)
    left, right = figure.axes[::2], figure.axes[1::2]
    assert len(left) == len(right) == 3
    for i, (image, spectrum) in enumerate(zip(left, right, strict=True)):
        assert len(image.images) == 1
        assert len(spectrum.images) == 0
        assert spectrum.get_title("left").startswith(TITLES[i])
        assert "erg s$^{-1}$ cm$^{-2}$ Å$^{-1}$" in spectrum.get_ylabel()
    assert "z$ = 0.1000" in right[0].get_title("left")
    assert "=" not in right[2].get_title("left")
    assert right[2].get_xlabel() == "observed wavelength (vacuum)  [Å]"
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "pixels", "smoothed", "its 1 σ error",
    ]  # fmt: skip


def test_lines_are_where_the_redshift_puts_them_in_vacuum(images, spectra):
    figure = draw_pairs(images, spectra, [0.1, 0.02, np.nan], TITLES)
    marked = _marked(figure.axes[1])
    assert set(marked) == {line.name for line in LINES}
    assert_allclose(marked["Hα"], 1.1 * 6564.61)
    assert_allclose(marked["[O III]"], 1.1 * 5008.24)
    drawn = [line for line in figure.axes[1].lines if line.get_color() == EMISSION]
    assert len(drawn) == sum(len(line.wave) for line in LINES if line.emission)
    assert not _marked(figure.axes[5])


def test_lines_beyond_the_spectrum_are_left_out(spectra):
    marked = _marked(draw_pairs(None, spectra, [0.9, 2.5, 0.0], TITLES).axes[0])
    assert "[O II]" in marked
    assert "Hα" not in marked


def test_names_do_not_cover_each_other(spectra):
    figure = draw_pairs(None, spectra, [0.0, 0.3, 0.5], TITLES)
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        frame = axes.get_window_extent()
        assert all(box.y1 <= frame.y1 for box in boxes)
        pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert not [1 for a, b in pairs if min(a.x1, b.x1) - max(a.x0, b.x0) > 2 and abs(a.y0 - b.y0) < 5]


def test_images_have_the_stretch_and_the_first_row_at_the_bottom(images):
    images[0, :, 5, 7] = np.nan
    images[1, 2, 0, 0] = 10.0  # z: red
    figure = draw_pairs(images, None, None, TITLES)
    shown = [axes.images[0] for axes in figure.axes]
    assert all(image.origin == "lower" for image in shown)
    assert_allclose(shown[0].get_array()[5, 7], 0.5)
    red, green, _ = shown[1].get_array()[0, 0]
    assert red > 0.9
    assert green < 0.3


def test_a_scale_bar_is_as_long_as_it_says(images):
    axes = draw_pairs(images[:1], None, None, TITLES[:1], pixscale=0.262).axes[0]
    (bar,), (label,) = axes.lines, axes.texts
    assert label.get_text() == "2″"
    assert_allclose(np.ptp(bar.get_xdata()) * 0.262, 2)
    assert not draw_pairs(images[:1], None, None, TITLES[:1], pixscale=None).axes[0].lines


def test_images_alone_stand_in_a_grid(images):
    many = np.concatenate([images, images])
    figure = draw_pairs(many, None, [0.1] * 6, [str(i) for i in range(6)])
    assert len(figure.axes) == 6
    assert len({axes.get_position().x0 for axes in figure.axes}) == IMAGES_A_ROW
    assert figure.axes[5].get_title() == "5\n$z$ = 0.1000"


def test_bad_pixels_are_gaps(spectra):
    axes = draw_pairs(None, spectra, None, TITLES).axes[0]
    for label in ("pixels", "smoothed"):
        gap = np.flatnonzero(np.isnan(_curve(axes, label).get_ydata()))
        assert gap.tolist() == list(range(100, 110))


def test_a_spectrum_without_data_says_so(spectra):
    spectra.ivar[1] = 0
    figure = draw_pairs(None, spectra, [0.1, np.nan, 0.1], TITLES)
    assert [text.get_text() for text in figure.axes[1].texts] == ["no data"]


def test_a_line_is_smoothed_by_inverse_variance(rng):
    flux, ivar = rng.normal(1, 1, 60), rng.uniform(0.5, 2, 60)
    ivar[20] = 0
    line, error = smooth_spectrum(flux, ivar, 2.0)
    for i in (0, 19, 30, 59):  # in loops
        near = [j for j in range(60) if abs(i - j) <= 8]
        kernel = {j: np.exp(-((i - j) ** 2) / 8) for j in near}
        total = sum(ivar[j] * kernel[j] for j in near)
        assert_allclose(line[i], sum(ivar[j] * kernel[j] * flux[j] for j in near) / total)
        assert_allclose(error[i], sum(ivar[j] * kernel[j] ** 2 for j in near) ** 0.5 / total)
    assert np.isnan(line[20])
    assert np.isnan(error[20])


def test_an_unknown_error_draws_no_band(spectra):
    unknown = spectra._replace(ivar=np.full_like(spectra.ivar, np.nan))
    line, error = smooth_spectrum(unknown.flux[0].astype(float), unknown.ivar[0].astype(float), 3.0)
    assert np.isfinite(line).all()
    assert np.isnan(error).all()
    draw_pairs(None, unknown, [0.1, 0.1, 0.1], TITLES)


def test_peaks_stay_in_the_frame(spectra):
    spectra.flux[0, 4000:4006] = 300
    low, high = draw_pairs(None, spectra, None, TITLES).axes[0].get_ylim()
    assert low < 0
    assert 250 < high < 600


@pytest.mark.parametrize("suffix", ["png", "pdf"])
def test_a_figure_is_written_whole_and_alike(images, spectra, tmp_path, suffix):
    before, modules = dict(mpl.rcParams), set(sys.modules)
    a, b = (tmp_path / f"{name}.{suffix}" for name in "ab")
    for path in (a, b):
        plot_pairs(images[:1], spectra.take(np.array([0])), [0.1], TITLES[:1], path)
    assert a.read_bytes() == b.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [a.name, b.name]
    assert dict(mpl.rcParams) == before
    assert "matplotlib.pyplot" not in set(sys.modules) - modules


def test_what_cannot_be_drawn_or_written_is_said_before(images, spectra, tmp_path):
    there = tmp_path / "there.png"
    there.write_bytes(b"mine")
    cases = [
        (UsageError, "exists already", there),
        (UsageError, "written as .png or .pdf", tmp_path / "figure.jpg"),
        (DataError, "no folder", tmp_path / "none" / "figure.png"),
    ]
    for error, said, path in cases:
        with pytest.raises(error, match=said):
            plot_pairs(images, spectra, None, TITLES, path)
    assert there.read_bytes() == b"mine"
    for pixels, z in ((images[:2], None), (None, None)):
        with pytest.raises(DataError, match="nothing to draw"):
            draw_pairs(pixels, None, z, TITLES)
    with pytest.raises(DataError, match="2 redshifts"):
        draw_pairs(images, None, [0.1, 0.2], TITLES)
