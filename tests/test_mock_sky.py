"""The mock's truth: places, names, target classes, planted problems, morphology and votes."""

import fitsio
import numpy as np
import pytest

pytest.importorskip("galsim", reason="needs the extra: pip install 'astroclip[mock]'")
pytest.importorskip("kcorrect", reason="needs the extra: pip install 'astroclip[mock]'")
pytest.importorskip("speclite", reason="needs the extra: pip install 'astroclip[mock]'")

from astroclip.mock import footprint, lines, sed
from astroclip.mock import target_lists as targets
from astroclip.mock import volunteers as votes
from astroclip.mock.fibre import fibre_share
from astroclip.mock.scene import make_sky
from astroclip.mock.truth import Draw, row_rng, transmission


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    return make_sky(600, 3)


def galaxies(truth: np.ndarray, sample: str) -> np.ndarray:
    return truth[(truth["SAMPLE"] == sample) & (truth["KIND"] != "repeat")]


def test_brick_and_targetid_are_those_of_the_survey(survey_data):
    found = 0
    for path in sorted(survey_data.glob("desi/coadd-*.fits*")):
        fibermap = fitsio.read(path, "FIBERMAP")
        real = fibermap[(fibermap["BRICKID"] > 0) & (fibermap["OBJTYPE"] == "TGT")]
        brickid, name = footprint.brick(real["TARGET_RA"], real["TARGET_DEC"])
        ids = footprint.targetid(real["RELEASE"], real["BRICKID"], real["BRICK_OBJID"])
        np.testing.assert_array_equal(brickid, real["BRICKID"])
        np.testing.assert_array_equal(name, np.char.strip(real["BRICKNAME"]))
        np.testing.assert_array_equal(ids, real["TARGETID"])
        found += len(real)
    assert found >= 4


def test_places_agree_with_healpix_and_keep_apart(truth):
    import healpy

    ra, dec = truth["RA"], truth["DEC"]
    np.testing.assert_array_equal(truth["HEALPIX"], healpy.ang2pix(64, ra, dec, nest=True, lonlat=True))
    assert np.ptp(ra) > 359, "the sky crosses RA 0"
    assert len(np.unique(truth["HEALPIX"])) > 15
    own = truth[truth["KIND"] != "repeat"]
    xyz = healpy.ang2vec(own["RA"], own["DEC"], lonlat=True)
    separation = np.linalg.norm(xyz[:, None] - xyz[None], axis=2)[np.triu_indices(len(own), 1)]
    assert np.rad2deg(separation.min()) * 3600 > 30


def test_ids_are_unique_but_for_repeats(truth):
    own = truth[truth["KIND"] != "repeat"]
    assert len(np.unique(own["TARGETID"])) == len(own)
    repeat = truth[truth["KIND"] == "repeat"]
    assert np.isin(repeat["TARGETID"], own["TARGETID"]).all()
    both = np.concatenate([own, repeat])
    keys = both[["TARGETID", "SURVEY", "PROGRAM"]]
    assert len(np.unique(keys)) == len(both)


def test_every_planted_kind_is_there_and_reads_as_planted(truth):
    kinds, counts = np.unique(truth["KIND"], return_counts=True)
    number = dict(zip(kinds.tolist(), counts.tolist(), strict=True))
    assert number["sky"] == 12
    assert number["stuck"] == 6
    assert number["repeat"] == 9
    assert number["image_only"] == 24
    assert number["bad_fiber"] == 6
    assert number["wrong_spectype"] == 6
    assert number["no_image"] == 12
    assert number["zwarn"] >= 9
    good = truth[np.isin(truth["KIND"], ("galaxy", "no_coadd"))]
    assert (good["ZWARN"] == 0).all()
    assert (good["SPECTYPE"] == "GALAXY").all()
    assert (np.abs(good["Z"] - good["Z_TRUE"]) < 0.01).all()
    assert (truth["ZWARN"][truth["KIND"] == "zwarn"] != 0).all()
    assert (truth["COADD_FIBERSTATUS"][truth["KIND"] == "bad_fiber"] != 0).all()
    assert (truth["TARGETID"][truth["KIND"] == "stuck"] < 0).all()
    assert (truth["SPECTYPE"][truth["KIND"] == "wrong_spectype"] != "GALAXY").all()
    lost = np.isin(truth["KIND"], ("no_coadd", "image_only"))
    np.testing.assert_array_equal(~truth["HAS_SPECTRUM"], lost)
    assert not truth["HAS_IMAGE"][np.isin(truth["KIND"], ("no_image", "sky", "stuck"))].any()


@pytest.mark.parametrize(
    ("sample", "low", "high"),
    [("BGS", 0.0, 0.6), ("LRG", 0.3, 1.1), ("ELG", 0.6, 1.6), ("SCND", 0.0, 1.3)],
)
def test_samples_pass_desi_cuts(truth, sample, low, high):
    rows = galaxies(truth, sample)
    clear = rows["FLUX"] / transmission(rows["EBV"])
    assert len(rows) > 80
    assert targets.is_target(sample, clear).all()
    assert (rows["Z_TRUE"] > low).all()
    assert (rows["Z_TRUE"] < high).all()


def test_secondary_targets_are_of_all_kinds():
    made = targets.draw_galaxies("SCND", 3000, np.random.default_rng(5))
    low, high = np.percentile(made.redshift, [2, 98])
    assert low < 0.05
    assert high > 1
    assert (made.log_mass > targets.SCND_MASS[0]).all()
    assert (made.log_mass < targets.SCND_MASS[1]).all()
    dwarfs = made.log_mass < targets.DWARF
    assert dwarfs.sum() > 100
    quiescent = made.log_sfr - made.log_mass < -11
    assert not quiescent[dwarfs].any()
    assert quiescent.mean() > 0.1
    near = (made.redshift > 0.3) & (made.redshift < 0.45)  # BGS has bright ones there, LRG red ones
    oxygen = made.lines[near][:, list(lines.LINES).index("OIII_5007")]
    assert (oxygen > 20).mean() > 0.05  # 1e-17 erg/s/cm2


def test_physics_is_that_of_galaxies(truth):
    bright, red, blue = (galaxies(truth, name) for name in ("BGS", "LRG", "ELG"))
    specific = [np.median(rows["LOGSFR"] - rows["LOGMSTAR"]) for rows in (red, bright, blue)]
    assert specific[0] < -11.2 < specific[1] < -9.7 < specific[2] + 0.6
    assert 10.3 < np.median(bright["LOGMSTAR"]) < 11.1 < np.median(red["LOGMSTAR"]) + 0.3
    universe = 13.8 / (1 + truth["Z_TRUE"]) ** 1.2
    assert (truth["AGE"] <= universe).all()
    # Stellar mass is that of the template mix.
    formed = bright["COEFFS"] * sed.distance_factor(bright["Z_TRUE"])[:, None]
    mass = np.log10((formed * sed.load_templates().mass).sum(axis=1))
    brighter = 0.4 * targets.EVOLUTION * bright["Z_TRUE"]  # evolution raises light, not mass
    assert (np.abs(mass - bright["LOGMSTAR"]) < brighter + 0.15).all()


def test_templates_lose_their_lines_and_keep_their_continuum():
    templates = sed.load_templates()
    assert (templates.halpha[:3] > 0).all()
    assert (templates.halpha[3:] == 0).all()
    near = np.abs(templates.wave - 5008.2) < 12
    beside = (np.abs(templates.wave - 5008.2) > 25) & (np.abs(templates.wave - 5008.2) < 40)
    assert templates.shipped[1][near].max() > 5 * np.median(templates.shipped[1][beside])
    assert templates.flux[1][near].max() < 1.05 * np.median(templates.flux[1][beside])
    far = (templates.wave > 5300) & (templates.wave < 5800)
    np.testing.assert_array_equal(templates.flux[:, far], templates.shipped[:, far])


def test_fit_describes_the_real_galaxies():
    sdss = sed.load_sdss()
    assert len(sdss.redshift) > 9000
    assert (sdss.formed >= 0).all()
    flux = sed.synthesise(
        sed.load_photometry().shipped,
        sdss.formed / sed.distance_factor(sdss.redshift)[:, None],
        sdss.redshift,
    )
    colour = -2.5 * np.log10(flux[:, 0] / flux[:, 1])
    assert 0.6 < np.median(colour) < 1.0  # g - r of SDSS main-sample galaxies


def test_lines_follow_atomic_physics_and_dust(rng):
    n = 500
    flux = lines.line_fluxes(np.ones(n), np.zeros(n), np.full(n, 8.6), np.zeros(n, bool), rng)
    dusty = lines.line_fluxes(np.ones(n), np.full(n, 1.5), np.full(n, 8.6), np.zeros(n, bool), rng)
    at = list(lines.LINES).index
    np.testing.assert_allclose(flux[:, at("HALPHA")] / flux[:, at("HBETA")], 2.86)
    np.testing.assert_allclose(flux[:, at("OIII_5007")] / flux[:, at("OIII_4959")], 2.98)
    assert (dusty[:, at("HALPHA")] / dusty[:, at("HBETA")] > 3.5).all()
    doublet = flux[:, at("OII_3729")] / flux[:, at("OII_3726")]
    assert doublet.min() >= 1.15
    assert doublet.max() <= 1.45
    poor = lines.line_fluxes(np.ones(n), np.zeros(n), np.full(n, 8.0), np.zeros(n, bool), rng)
    assert np.median(poor[:, at("OIII_5007")]) > 3 * np.median(flux[:, at("OIII_5007")])
    assert np.median(poor[:, at("NII_6584")]) < 0.3 * np.median(flux[:, at("NII_6584")])


def test_fibre_catches_less_of_larger_galaxies(truth):
    row = np.repeat(truth[truth["SAMPLE"] == "BGS"][:1], 3)
    row["BULGE_FRACTION"], row["AXIS_RATIO"], row["DISK_RADIUS"] = 0.0, 1.0, [0.03, 1.0, 5.0]
    share = fibre_share(row)[:, 1]
    assert share[0] == pytest.approx(0.789, abs=0.01), (
        "a point source: MEAN_PSF_TO_FIBER_SPECFLUX of real coadds"
    )
    assert share[0] > 2 * share[1] > 8 * share[2]


def test_votes_follow_the_decision_tree(truth):
    rows = galaxies(truth, "BGS")
    for k, row in enumerate(rows[:60]):
        found = votes.draw_votes(row, row_rng(0, Draw.VOTES, k))
        assert set(found) == set(votes.vote_columns())
        for question, answers in votes.GALAXY_ZOO.items():
            total = found[f"{question}_total-votes"]
            assert sum(found[f"{question}_{a}"] for a in answers) == total
            if question in votes.PARENTS:
                assert total == found["_".join(votes.PARENTS[question])]
            debiased = sum(found[f"{question}_{a}_debiased"] for a in answers)
            assert debiased == pytest.approx(1) or (total == 0 and np.isnan(debiased))
            if total:
                assert found[f"{question}_{answers[0]}_fraction"] == found[f"{question}_{answers[0]}"] / total


def test_votes_see_what_is_there(truth):
    row = galaxies(truth, "BGS")[0].copy()
    row["FLUX"][1], row["DISK_RADIUS"], row["FEATURED"], row["ARMS"] = 1000.0, 8.0, True, 2
    row["ARM_STRENGTH"], row["AXIS_RATIO"], row["BULGE_FRACTION"], row["MERGER"] = 0.9, 0.8, 0.1, 0

    def mean(column: str) -> float:
        return float(
            np.nanmean([votes.draw_votes(row, row_rng(1, Draw.VOTES, k))[column] for k in range(80)])
        )

    assert mean("smooth-or-featured_featured-or-disk_fraction") > 0.6
    assert mean("has-spiral-arms_yes_fraction") > 0.7
    assert mean("spiral-arm-count_2_fraction") > 0.5
    row["DISK_RADIUS"] = 0.5  # too small to see its arms
    assert mean("smooth-or-featured_featured-or-disk_fraction") < 0.25
    assert mean("smooth-or-featured_featured-or-disk_debiased") > 0.5
