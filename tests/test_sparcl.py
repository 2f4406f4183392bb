"""SPARCL: a stand-in on the loopback that answers as its client expects, errors included."""

import json

import numpy as np
import pytest
from builders_who import who
from survey_servers import Answer, serve

from astroclip.data import desi, sparcl
from astroclip.data.coadd_sets import CoaddFiles
from astroclip.data.webservice import GIVE_UP_AFTER, Fetched, WebService
from astroclip.errors import DataError, UsageError
from astroclip.schema import N_WAVE, desi_wave

pytestmark = pytest.mark.network
TARGETS = [39627866878511337, 39627866878514741, 39633300968442591, 7]


def make_records(targets=TARGETS, per_target=1):
    """Make SPARCL records of targets: noise, a few masked pixels, made from the target's number."""
    records = []
    for target in targets:
        for copy in range(per_target):
            rng = np.random.default_rng(target % 1000 + copy)
            mask = (rng.random(N_WAVE) < 0.01).astype(int)
            records.append(
                {
                    "sparcl_id": f"{target:x}-{copy}",
                    "specid": target,
                    "specprimary": copy == per_target - 1,
                    "data_release": "DESI-DR1",
                    "wavelength": desi_wave().round(1).tolist(),
                    "flux": rng.normal(2, 1, N_WAVE).astype("f4").tolist(),
                    "ivar": rng.uniform(0.5, 2, N_WAVE).astype("f4").tolist(),
                    "mask": mask.tolist(),
                    "ra": 10.0 + target % 7,
                    "dec": -5.0,
                    "redshift": 0.1 + copy,
                    "redshift_err": 1e-5,
                    "redshift_warning": 4 * copy,
                    "spectype": "GALAXY",
                    "subtype": "",
                    "deltachi2": 100.0,
                }
            )
    return records


class Sparcl:
    """The stand-in: finds and sends records, backwards, after the troubles it was given."""

    def __init__(self, records, troubles=(), largest=10**6):
        self.records, self.troubles, self.largest = records, list(troubles), largest

    def __call__(self, server, path, query, body):
        if self.troubles:
            trouble = self.troubles.pop(0)
            if trouble is not None:
                return trouble
        if path.endswith("/find/"):
            search = {key: values for key, *values in body["search"]}
            found = [r for r in self.records if all(r[k] in v for k, v in search.items())]
            found = [{k: r[k] for k in body["outfields"]} for r in found][: int(query["limit"])]
        else:
            assert query["format"] == "json"
            if len(body) > self.largest:
                return Answer(b"{}", 504)
            fields = query["include"].split(",")
            found = [{k: r[k] for k in fields if k in r} for r in self.records if r["sparcl_id"] in body]
        header = {"status": {"success": True, "info": [], "warnings": []}}
        return Answer(json.dumps([header, *found[::-1]]).encode())


def fetch(server, targets, folder, **options):
    service = WebService(server.url + "/api", delay=0, backoff=0.01, timeout=2, retries=1)
    return sparcl.fetch_spectra(targets, folder, service=service, **options)


def read(folder, targets):
    """Read spectra and redshifts of targets with the readers of DESI's own files."""
    coadds = CoaddFiles("fetched", desi.find_coadds(folder))
    number = coadds.match(who(TARGETID=targets)).row
    parts, redshifts = [], []
    for file, row in zip(*coadds.locate(number), strict=True):
        with desi.open_coadd(coadds.files[file]) as coadd:
            parts.append(coadd.read([row]))
        redshifts.append(desi.read_redrock(desi.redrock_path(coadds.files[file]))["Z"][row])
    return parts, redshifts


def test_spectra_become_a_folder_of_coadds(tmp_path):
    records = make_records()
    with serve(Sparcl(records)) as server:
        result = fetch(server, [TARGETS[2], 99, TARGETS[0], -5, TARGETS[2]], tmp_path)
        assert [path for path, *_ in server.asked] == ["/api/find/", "/api/spectras/"]
        assert server.asked[0][2]["search"][1] == ["data_release", "DESI-DR1"]
        assert server.asked[1][1]["dataset_list"] == "DESI-DR1"
        assert server.asked[0][3]["Content-Type"] == "application/json"
    expected = [Fetched.FETCHED, Fetched.ABSENT, Fetched.FETCHED, Fetched.NOT_ASKED, Fetched.FETCHED]
    assert result.status.tolist() == expected
    assert not result.ambiguous.any()
    assert "has no spectrum" in result.message[1]
    assert result.folder == tmp_path / "DESI-DR1"
    parts, redshifts = read(result.folder, [TARGETS[0], TARGETS[2]])
    for spectra, redshift, record in zip(parts, redshifts, (records[0], records[2]), strict=True):
        good = np.array(record["mask"]) == 0
        np.testing.assert_array_equal(spectra.flux[0], np.where(good, np.float32(record["flux"]), 0))
        np.testing.assert_array_equal(spectra.ivar[0], np.where(good, np.float32(record["ivar"]), 0))
        np.testing.assert_array_equal(spectra.mask[0] == 0, good)
        assert redshift == record["redshift"]
    (path,) = desi.find_coadds(result.folder)
    with desi.open_coadd(path) as coadd:
        np.testing.assert_array_equal(coadd.fibermap["TARGET_RA"], [10.0 + t % 7 for t in coadd.targetid])
    redrock = desi.read_redrock(desi.redrock_path(path))
    assert redrock["SPECTYPE"].tolist() == ["GALAXY"] * 2
    np.testing.assert_array_equal(redrock["TARGETID"], coadd.targetid)
    assert sorted(p.name[:6] for p in result.folder.iterdir()) == ["coadd-", "redroc"]


def test_checksums_are_written(tmp_path):
    from astropy.io import fits

    with serve(Sparcl(make_records())) as server:
        folder = fetch(server, TARGETS, tmp_path).folder
    for path in folder.iterdir():
        with fits.open(path, checksum=True) as hdus:
            assert all("CHECKSUM" in hdu.header for hdu in hdus[1:])
            assert hdus[0].header["DATAREL"] == "DESI-DR1"


def test_batches_and_resume(tmp_path):
    with serve(Sparcl(make_records())) as server:
        assert fetch(server, TARGETS[:3], tmp_path, batch=2).status.tolist() == [Fetched.FETCHED] * 3
        assert len(server.asked) == 4
        again = fetch(server, TARGETS, tmp_path, batch=2)
        assert len(server.asked) == 6
        assert again.status.tolist() == [Fetched.CACHED] * 3 + [Fetched.FETCHED]
        fetch(server, TARGETS, tmp_path)
        assert len(server.asked) == 6
    assert len(desi.find_coadds(tmp_path)) == 3
    assert fetch(server, [], tmp_path).status.shape == (0,)


def test_a_damaged_file_of_the_folder_is_fetched_again(tmp_path):
    with serve(Sparcl(make_records())) as server:
        first = fetch(server, TARGETS, tmp_path)
        (path,) = desi.find_coadds(tmp_path)
        path.write_bytes(path.read_bytes()[:2000])
        known = CoaddFiles("damaged", [path])
        assert [file for file, _ in known.problems] == [path]
        again = fetch(server, TARGETS, tmp_path, known=known)
    assert again.status.tolist() == first.status.tolist() == [Fetched.FETCHED] * 4
    (kept,) = again.coadds.blocks()
    assert sorted(kept.ids["TARGETID"]) == sorted(TARGETS)
    assert again.coadds.problems == []


def test_the_primary_spectrum_is_taken(tmp_path):
    records = make_records(TARGETS[:2], per_target=3)
    for record in records[3:]:
        record["specprimary"] = False
    with serve(Sparcl(records)) as server:
        result = fetch(server, TARGETS[:2], tmp_path)
        assert fetch(server, TARGETS[1::-1], tmp_path).ambiguous.tolist() == [True, False]  # from the cache
    assert result.ambiguous.tolist() == [False, True]
    assert sorted(p.name[:20] for p in desi.find_coadds(tmp_path))[1] == "coadd-sparcl_several"
    _, redshifts = read(result.folder, TARGETS[:2])
    assert redshifts == [2.1, 0.1]


@pytest.mark.parametrize(
    "trouble",
    [Answer(state=500), Answer(state=429, headers={"Retry-After": "0.05"}), Answer(b"[" * 99, drop_after=3)],
)
def test_trouble_that_passes(tmp_path, trouble):
    with serve(Sparcl(make_records(), troubles=[trouble, None, trouble])) as server:
        assert fetch(server, TARGETS, tmp_path).status.tolist() == [Fetched.FETCHED] * 4


def test_a_batch_too_large_for_the_service_is_halved(tmp_path):
    targets = list(range(1, 8))
    with serve(Sparcl(make_records(targets), largest=2)) as server:
        result = fetch(server, targets, tmp_path)
    assert result.status.tolist() == [Fetched.FETCHED] * 7
    assert (
        sorted(np.concatenate([desi.open_coadd(p).targetid for p in desi.find_coadds(tmp_path)])) == targets
    )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (Answer(b'{"errorMessage": "bad", "errorCode": "UNKFIELD"}', 400), "HTTP 400"),
        (Answer(b"<html>maintenance</html>"), "not JSON"),
        (Answer(b'{"a": 1}'), "not a list of records"),
    ],
)
def test_refusals(tmp_path, answer, message):
    with serve(lambda *_: answer) as server:
        result = fetch(server, TARGETS[:1], tmp_path)
    assert result.status.tolist() == [Fetched.FAILED]
    assert message in result.message[0]
    assert not desi.find_coadds(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flux": None}, "no flux"),
        ({"ivar": [1.0]}, "differ in length"),
        ({"wavelength": (desi_wave() * 1.001).tolist()}, "not on the grid"),
        ({"sparcl_id": "another"}, "did not send"),
    ],
)
def test_records_that_cannot_be_used(tmp_path, change, message):
    records = make_records(TARGETS[:2])

    class Changed(Sparcl):
        def __call__(self, server, path, query, body):
            answer = super().__call__(server, path, query, body)
            if path.endswith("/spectras/"):
                sent = json.loads(answer.body)
                answer = Answer(json.dumps([sent[0], sent[1] | change, *sent[2:]]).encode())
            return answer

    with serve(Changed(records)) as server:
        result = fetch(server, TARGETS[:2], tmp_path)
    assert result.status.tolist() == [Fetched.FETCHED, Fetched.UNUSABLE]
    assert message in result.message[1]
    (kept,) = CoaddFiles("kept", desi.find_coadds(tmp_path)).blocks()
    assert kept.ids["TARGETID"].tolist() == TARGETS[:1]


def test_records_without_mask_or_redshift(tmp_path):
    records = make_records(TARGETS[:1])
    for name in ("mask", "redshift", "subtype", "redshift_warning"):
        del records[0][name]
    records[0]["deltachi2"] = None
    with serve(Sparcl(records)) as server:
        folder = fetch(server, TARGETS[:1], tmp_path).folder
    (spectra,), (redshift,) = read(folder, TARGETS[:1])
    np.testing.assert_array_equal(spectra.flux[0], np.float32(records[0]["flux"]))
    assert np.isnan(redshift)
    assert desi.read_redrock(desi.redrock_path(desi.find_coadds(folder)[0]))["ZWARN"].tolist() == [-1]


def test_given_up_when_nothing_answers(tmp_path):
    with serve(Sparcl([])) as server:
        pass
    targets = np.arange(1, 200)
    service = WebService(server.url, delay=0, retries=0, timeout=1)
    result = sparcl.fetch_spectra(targets, tmp_path, service=service, batch=16)
    states, counts = np.unique(result.status, return_counts=True)
    assert set(states) <= {Fetched.FAILED, Fetched.GIVEN_UP}
    assert counts[states == Fetched.FAILED].sum() <= GIVE_UP_AFTER
    assert len(result.status) == 199


def test_usage(tmp_path, monkeypatch):
    for batch in (0, 501):
        with pytest.raises(UsageError, match="expected 1 to 500"):
            sparcl.fetch_spectra([1], tmp_path, batch=batch)
    for release in ("SDSS-DR17", "DESI-../x"):
        with pytest.raises(UsageError, match="expected DESI-EDR"):
            sparcl.fetch_spectra([1], tmp_path, release=release)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot make the folder"):
        sparcl.fetch_spectra([1], tmp_path / "file")
    with serve(Sparcl(make_records())) as server:
        monkeypatch.setenv(sparcl.URL_VARIABLE, server.url + "/sparc")
        sparcl.fetch_spectra(TARGETS[:1], tmp_path)
        assert server.asked[0][0] == "/sparc/find/"
