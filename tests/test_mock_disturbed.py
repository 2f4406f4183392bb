"""A mock with what real spectra have besides noise, and with targets that are no galaxies."""

import numpy as np
import pytest

pytest.importorskip("galsim")
pytest.importorskip("kcorrect")
pytest.importorskip("speclite")

from astroclip.mock import disturb, observe
from astroclip.mock.desi_files import observe_row
from astroclip.mock.scene import make_sky
from astroclip.mock.truth import NO_GALAXY


@pytest.fixture(scope="module")
def wild():
    return make_sky(300, 4, disturbed=True)


def test_without_disturbances_the_sky_is_as_before():
    calm = make_sky(100, 4)
    assert not np.isin(calm["KIND"], NO_GALAXY).any()
    assert (calm["RESIDUAL"] == 0).all()
    assert (calm["IVAR_FACTOR"] == 1).all()
    assert (calm["LINE_BOOST"] == 1).all()
    assert (calm["LOST_ARM"] == "").all()


def test_strangers_are_planted_with_what_they_are(wild):
    for kind, share in disturb.STRANGERS.items():
        assert (wild["KIND"] == kind).sum() == round(share * 300)
    quasar, star, blank = (wild[wild["KIND"] == kind] for kind in disturb.STRANGERS)
    assert (quasar["SPECTYPE"] == "QSO").all()
    assert (quasar["Z"] == quasar["Z_TRUE"]).all()
    assert quasar["Z_TRUE"].min() > 0.05
    assert (star["SPECTYPE"] == "STAR").all()
    assert np.abs(star["Z_TRUE"]).max() < 0.002
    assert (blank["ZWARN"] != 0).all()
    assert (wild["FLUX"][wild["SAMPLE"] != ""] > 0).all()


def test_light_of_strangers_has_the_flux_of_the_catalogue(wild):
    index = int(np.flatnonzero(wild["KIND"] == "quasar")[0])
    light = disturb.stranger_light(wild[index], index, 4)
    dimmed = wild["FLUX"][index, 1] * disturb.PER_NANOMAGGY[1]
    assert np.interp(6420, observe.WAVE, light) == pytest.approx(dimmed, rel=1e-6)
    blank = int(np.flatnonzero(wild["KIND"] == "blank")[0])
    assert not disturb.stranger_light(wild[blank], blank, 4).any()


def test_the_same_seed_gives_the_same_spectra(wild):
    row = int(np.flatnonzero(wild["RESIDUAL"] > 0)[0])
    first, second = (observe_row(wild[row], row, 4) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.flux, other.flux)


def test_ends_arms_and_errors_are_as_the_truth_says(wild):
    rng = np.random.default_rng(1)
    light = np.full(len(observe.WAVE), 5.0)
    row = wild[0].copy()
    row["RESIDUAL"], row["IVAR_FACTOR"], row["WAVE_MIN"], row["WAVE_MAX"] = 0, 4, 3800, 9200
    row["LOST_ARM"] = "R"
    seen = observe.observe(light, 0.08, 1000, rng)
    arms = dict(zip("BRZ", disturb.disturb(seen, row, rng), strict=True))
    before = dict(zip("BRZ", seen, strict=True))
    waves = {arm.name: arm.wave for arm in observe.load_arms()}
    assert not arms["R"].ivar.any()
    assert (arms["R"].mask != 0).all()
    assert not arms["B"].ivar[waves["B"] < 3800].any()
    assert not arms["Z"].ivar[waves["Z"] > 9200].any()
    good = (arms["B"].ivar > 0) & (before["B"].ivar > 0)
    assert 2.5 < np.median(arms["B"].ivar[good] / before["B"].ivar[good]) < 6.5


def test_residuals_add_below_4300(wild):
    row = wild[0].copy()
    row["IVAR_FACTOR"], row["WAVE_MIN"], row["WAVE_MAX"], row["LOST_ARM"] = 1, 3600, 9824, ""
    seen = observe.observe(np.zeros(len(observe.WAVE)), 0.08, 1000, np.random.default_rng(2))
    added = []
    for seed in range(20):
        row["RESIDUAL"] = 0.5
        found = disturb.disturb(seen, row, np.random.default_rng(seed))
        added.append(found[0].flux - seen[0].flux)
    rms = np.sqrt(np.mean(np.square(added), axis=0))
    wave = observe.load_arms()[0].wave
    assert rms[wave < 3800].mean() > 3 * rms[(wave > 5000) & (wave < 5600)].mean()


def test_broad_lines_stand_at_their_redshift(wild):
    row = wild[0].copy()
    row["BROAD_WIDTH"], row["BROAD_KMS"], row["Z_TRUE"] = 100, 4000, 0.2
    light = np.ones(len(observe.WAVE))
    added = disturb.broad_lines(row, light)
    assert observe.WAVE[added.argmax()] == pytest.approx(6564.6 * 1.2, abs=1)
    near = np.abs(observe.WAVE - 6564.6 * 1.2) < 400
    assert added[near].sum() * observe.STEP == pytest.approx(100 * 1.2, rel=0.02)
