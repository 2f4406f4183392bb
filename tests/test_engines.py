"""Both engines of the crossmatch write the same table and the same pairs."""

import fitsio
import numpy as np
import pytest
from matched_survey import make_survey

from astroclip.crossmatch.build import build_pairs
from astroclip.crossmatch.plan import CrossmatchSettings
from astroclip.data.pairs import open_pairs
from astroclip.errors import UsageError


def test_lsdb_gives_the_same_rows(tmp_path):
    pytest.importorskip("lsdb", reason="needs the extra [distributed]")
    survey = make_survey(tmp_path)
    reports = {}
    for engine in ("memory", "lsdb"):
        settings = CrossmatchSettings(engine=engine)
        reports[engine] = build_pairs(survey.catalogue, survey.images, tmp_path / engine, settings=settings)
    assert reports["memory"].reasons == reports["lsdb"].reasons
    ours, theirs = (fitsio.read(tmp_path / f"{engine}.fits") for engine in ("memory", "lsdb"))
    assert ours.dtype == theirs.dtype
    for name in ours.dtype.names:
        np.testing.assert_array_equal(ours[name], theirs[name])
    with open_pairs(tmp_path / "memory.h5") as ours_h5, open_pairs(tmp_path / "lsdb.h5") as theirs_h5:
        names = ["targetid", "image", "flux"]
        ours_rows, theirs_rows = (pairs.read(names, 0, pairs.nrows) for pairs in (ours_h5, theirs_h5))
    for name in names:
        np.testing.assert_array_equal(ours_rows[name], theirs_rows[name])


def test_an_unknown_engine_is_refused(tmp_path):
    survey = make_survey(tmp_path)
    settings = CrossmatchSettings(engine="steam")
    with pytest.raises(UsageError, match="engine is 'steam': expected 'memory' or 'lsdb'"):
        build_pairs(survey.catalogue, survey.images, tmp_path / "out", settings=settings)
