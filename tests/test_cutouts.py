"""The cut-out service: a stand-in on the loopback that behaves like it, errors included."""

import os
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest
from survey_servers import Answer, fits_cutout, serve

from astroclip.data import webservice
from astroclip.data.cutouts import CUTOUT_URL, URL_VARIABLE, cutout_path, fetch_cutouts
from astroclip.data.legacysurvey import open_images
from astroclip.data.pixels import How
from astroclip.data.webservice import Fetched, ServiceError, WebService
from astroclip.errors import DataError, UsageError
from astroclip.tables.identity import Who

pytestmark = pytest.mark.network
SIZE = 24


def quick(server, **options):
    return WebService(server.url, **({"delay": 0, "backoff": 0.01, "timeout": 5} | options))


def fetch(server, ra, dec, folder, *, size=SIZE, workers=4, **options):
    return fetch_cutouts(ra, dec, folder, size=size, workers=workers, service=quick(server, **options))


def good(server, path, query, body):
    return Answer(fits_cutout(query))


def in_turn(*answers):
    """Answer a request of the same query with each of these in turn, then with the last one for ever."""

    def answer(server, path, query, body):
        turn = sum(asked[1] == query for asked in server.asked) - 1
        chosen = answers[min(turn, len(answers) - 1)]
        return chosen(server, path, query, body) if callable(chosen) else chosen

    return answer


def test_images_are_fetched_once_and_found_again(tmp_path):
    ra, dec = np.array([10.0, 359.9999999, 200.5, 10.0]), np.array([-5.0, 89.5, 0.0, -5.0])
    with serve(good) as server:
        first = fetch(server, ra, dec, tmp_path)
        assert len(server.asked) == 3  # two rows share a position
        path, query, _, headers = min(server.asked, key=lambda asked: asked[1]["dec"])
        assert path == "/fits-cutout"
        wanted = {"layer": "ls-dr9", "size": str(SIZE), "pixscale": "0.262", "bands": "grz"}
        assert query == {"ra": "10.000000", "dec": "-5.000000"} | wanted
        assert headers["User-Agent"].startswith("astroclip")
        again = fetch(server, ra, dec, tmp_path)
        assert len(server.asked) == 3
        fetch(server, ra[:1], dec[:1], tmp_path, size=SIZE + 2)
        assert len(server.asked) == 4  # other settings are other images
    assert first.counts() == {"FETCHED": 4}
    assert again.counts() == {"CACHED": 4}
    assert again.path == first.path
    assert first.folder == tmp_path / f"ls-dr9-grz-{SIZE}px-0.262"
    images = open_images(first.folder)
    match = images.match(Who({}, np.asarray(ra), np.asarray(dec)))
    assert [images.files[i] for i in match.row] == first.path
    assert (match.how == How.CENTRE).all()
    assert images.read([0], size=SIZE).flux.shape == (1, 3, SIZE, SIZE)
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".")]


def test_names_by_position(tmp_path):
    assert cutout_path(tmp_path, -0.5, 1 / 3) == tmp_path / "359" / "cutout_359.500000_0.333333.fits"
    assert cutout_path(tmp_path, 359.9999999, -0.0) == tmp_path / "000" / "cutout_0.000000_0.000000.fits"


@pytest.mark.parametrize(
    "trouble",
    [
        Answer(state=500),
        Answer(state=503),
        Answer(state=429, headers={"Retry-After": "0.05"}),
        Answer(state=429),
        Answer(b"SIMPLE and more", drop_after=4),
        Answer(drop_after=0, headers={"Content-Length": "100"}),
        Answer(after=0.6),
    ],
    ids=["500", "503", "429-after", "429", "dropped", "empty", "slow"],
)
def test_trouble_that_passes_is_waited_for(tmp_path, trouble):
    with serve(in_turn(trouble, trouble, good)) as server:
        result = fetch(server, [10.0, 11.0], [5.0, 6.0], tmp_path, timeout=0.3)
        assert len(server.asked) == 6
    assert result.counts() == {"FETCHED": 2}
    assert result.message == ["", ""]


@pytest.mark.parametrize(
    ("trouble", "status", "asked", "message"),
    [
        (Answer(b"no such layer", 404), Fetched.FAILED, 1, "HTTP 404 Not Found"),
        (Answer(b"", 400), Fetched.FAILED, 1, "HTTP 400"),
        (Answer(b"", 502), Fetched.FAILED, 3, r"HTTP 502 .* \(attempts: 3\)"),
        (Answer(b"abcdef", drop_after=3), Fetched.FAILED, 3, "IncompleteRead"),
        (Answer(state=429, headers={"Retry-After": "9999"}), Fetched.FAILED, 1, "HTTP 429"),
        (
            Answer(b"<html>\n<h1>Oops</h1>"),
            Fetched.UNUSABLE,
            1,
            "answered '<html> <h1>Oops</h1>', not a FITS",
        ),
        (Answer(b"SIMPLE  = rubbish"), Fetched.UNUSABLE, 1, "Not FITS"),
        (Answer(b""), Fetched.UNUSABLE, 1, "answered ''"),
    ],
)
def test_trouble_that_stays_is_told_and_asked_for_again(tmp_path, trouble, status, asked, message):
    with serve(lambda *_: trouble) as server:
        result = fetch(server, [10.0], [5.0], tmp_path, retries=2)
        assert len(server.asked) == asked
    assert result.status.tolist() == [status]
    assert result.path == [None]
    import re

    assert re.search(message, result.message[0])
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    with serve(good) as server:
        assert fetch(server, [10.0], [5.0], tmp_path).counts() == {"FETCHED": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q: fits_cutout(q | {"size": "30"}), r"\(30, 30\) pixels, asked for 24"),
        (lambda q: fits_cutout(q | {"bands": "gri"}), "no image in the band z"),
        (lambda q: fits_cutout(q)[:4000], "cut short"),
        (lambda q: fits_cutout(q, BUNIT="adu"), "expected nanomaggy"),
    ],
)
def test_other_images_are_not_kept(tmp_path, change, message):
    with serve(lambda server, path, query, body: Answer(change(query))) as server:
        result = fetch(server, [10.0], [5.0], tmp_path)
    assert result.counts() == {"UNUSABLE": 1}
    assert message.replace("\\", "") in result.message[0]
    assert ".part" not in result.message[0]
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_outside_of_the_footprint_is_remembered(tmp_path):
    def answer(server, path, query, body):
        return Answer(fits_cutout(query, seed=None if float(query["dec"]) < -60 else 0))

    with serve(answer) as server:
        for expected in ("FETCHED", "CACHED"):
            result = fetch(server, [10.0, 11.0], [-70.0, 5.0], tmp_path)
            assert result.counts() == {"ABSENT": 1, expected: 1}
            assert result.path[0] is None
        assert len(server.asked) == 2
    assert len(open_images(tmp_path)) == 1


def test_rows_that_cannot_be_asked_for(tmp_path):
    with serve(good) as server:
        result = fetch(server, [np.nan, 10.0, 10.0, np.inf], [1.0, 91.0, np.nan, 0.0], tmp_path)
        assert not server.asked
        assert result.counts() == {"NOT_ASKED": 4}
        assert fetch(server, [], [], tmp_path).counts() == {}


def test_requests_are_few_and_spaced(tmp_path):
    def slow(server, path, query, body):
        return Answer(fits_cutout(query), after=0.05)

    with serve(slow) as server:
        fetch(server, np.arange(12.0), np.zeros(12), tmp_path, workers=3)
        assert server.most_at_once <= 3
    with serve(good) as server:
        fetch(server, np.arange(20.0, 26.0), np.zeros(6), tmp_path, delay=0.04)
        assert np.diff(sorted(server.times)).sum() >= 5 * 0.04 * 0.8


def test_all_workers_wait_when_the_service_asks_to(tmp_path):
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    for asks, least in (("0.3", 0.25), (date, 0.2)):
        busy = Answer(state=429, headers={"Retry-After": asks})

        def answer(server, path, query, body, busy=busy):
            return busy if len(server.asked) == 1 else Answer(fits_cutout(query))

        with serve(answer) as server:
            fetch(server, [40.0], [least], tmp_path, workers=1)
            assert server.times[1] - server.times[0] >= least


@pytest.mark.parametrize(("header", "seconds"), [(None, 0), ("12", 12), ("-3", 0), ("soon", 0)])
def test_retry_after(header, seconds):
    assert webservice._retry_after(header) == seconds


def test_given_up_when_nothing_answers(tmp_path):
    with serve(good) as server:
        url = server.url
    gone = WebService(url, delay=0, retries=0, timeout=1)
    result = fetch_cutouts(np.arange(30.0), np.zeros(30), tmp_path, size=SIZE, workers=2, service=gone)
    counts = result.counts()
    assert counts["FAILED"] + counts["GIVEN_UP"] == 30
    assert counts["FAILED"] <= webservice.GIVE_UP_AFTER + 2
    assert "refused" in result.message[0] or "reset" in result.message[0]


def test_kill_and_resume(tmp_path):
    """A run that dies half-way leaves whole images only, and the next run fetches the rest."""
    ra = np.arange(8.0)
    done = []

    def die(count):
        done.append(count)
        if len(done) == 3:
            raise KeyboardInterrupt

    with serve(good) as server:
        with pytest.raises(KeyboardInterrupt):
            fetch_cutouts(ra, ra, tmp_path, size=SIZE, service=quick(server), progress=die)
        result = fetch(server, ra, ra, tmp_path)
        assert result.counts()["CACHED"] >= 3
        assert sum(result.counts().values()) == 8
        assert None not in result.path
        assert len(server.asked) <= 8 + 4  # at most those under way were asked for twice


def test_usage(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="expected g, r and z"):
        fetch_cutouts([1], [1], tmp_path, bands="gr")
    for layer in ("../ls-dr9", "", "a/b"):
        with pytest.raises(UsageError, match="expected a name such as ls-dr9"):
            fetch_cutouts([1], [1], tmp_path, layer=layer)
    with pytest.raises(UsageError, match="must be positive"):
        fetch_cutouts([1], [1], tmp_path, workers=0)
    for url in ("file:///etc/hosts", "www.legacysurvey.org", "ftp://host/x"):
        with pytest.raises(UsageError, match="expected an address"):
            WebService(url)
    assert CUTOUT_URL.startswith("https://www.legacysurvey.org/")
    with serve(good) as server:
        monkeypatch.setenv(URL_VARIABLE, server.url + "/viewer/")
        fetch_cutouts([1], [1], tmp_path, size=SIZE)
        assert server.asked[0][0] == "/viewer/fits-cutout"


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with serve(good) as server:
        with pytest.raises(DataError, match="cannot make the folder"):
            fetch(server, [1], [1], tmp_path / "file")
        if os.geteuid() != 0:
            (tmp_path / "closed").mkdir(mode=0o500)
            with pytest.raises(DataError, match="permission denied"):
                fetch(server, [1], [1], tmp_path / "closed")
        assert not server.asked


def test_full_disk(tmp_path, monkeypatch):
    from pathlib import Path

    def full(self, data):
        raise OSError(28, "No space left on device")

    with serve(good) as server:
        monkeypatch.setattr(Path, "write_bytes", full)
        with pytest.raises(DataError, match=r"cannot write it: the disk or quota is full"):
            fetch(server, [1], [1], tmp_path)


def test_error_tells_its_state():
    assert ServiceError("x", 404).status == 404
    assert issubclass(ServiceError, DataError)
