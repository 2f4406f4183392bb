"""A survey's web service, asked politely: few requests at once, spaced out, repeated where that helps."""

import http.client
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import IntEnum
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
from numpy.typing import NDArray

from astroclip.errors import DataError, UsageError

logger = logging.getLogger(__name__)
USER_AGENT = "astroclip (Python urllib; https://pypi.org/project/astroclip)"
REPEATED = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP states that may be better the next time
LONGEST_WAIT = 300.0  # s; a service that asks for more is not waited for
GIVE_UP_AFTER = 10  # failures in a row without any answer: the service, or the network, is down


class Fetched(IntEnum):
    """What became of what a row asked for."""

    FETCHED = 0  # fetched now
    CACHED = 1  # it was in the folder already
    ABSENT = 2  # the service has nothing there
    FAILED = 3  # the service refused, or never answered
    UNUSABLE = 4  # the answer is not what it should be
    NOT_ASKED = 5  # the row's position or identifier cannot be asked for
    GIVEN_UP = 6  # not tried, after many failures in a row


class ServiceError(DataError):
    """A web service did not give what was asked for.

    Attributes
    ----------
    status
        The HTTP state; None where no answer came: no connection, a time-out, or an answer cut short.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ServiceDownError(DataError):
    """A web service gives no answer at all: the state of a network is not written into a catalogue."""


class WebService:
    """A web service that answers requests below one address; may be shared by threads.

    All threads together begin at most one request every `delay` seconds, and none while the service has
    asked to wait (Retry-After). A request is repeated, each time after twice the pause, if the connection
    fails, the answer does not come in time or is cut short, or its state is one of `REPEATED`.

    Parameters
    ----------
    url
        Address, http or https, without a query.
    delay
        Least time between two requests, seconds.
    retries
        How often to repeat a request.
    backoff
        Pause before the first repetition, seconds.
    timeout
        Longest silence of the service, seconds.

    Raises
    ------
    UsageError
        If the address is not an http or https one.
    """

    def __init__(
        self, url: str, *, delay: float = 0.1, retries: int = 4, backoff: float = 1.0, timeout: float = 60.0
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
            raise UsageError(f"'{url}': expected an address such as https://host/path")
        self.url = url.rstrip("/")
        self._delay, self._retries, self._backoff, self._timeout = delay, retries, backoff, timeout
        self._lock = threading.Lock()
        self._next = 0.0  # when the next request may begin, by time.monotonic

    def ask(self, path: str, query: dict[str, object], body: bytes | None = None) -> bytes:
        """Return the answer to a GET, or with a `body` of JSON to a POST, of ``<url><path>?<query>``.

        Raises
        ------
        ServiceError
            If the service refuses, or every repetition failed.
        """
        address = f"{self.url}{path}?{urlencode(query)}"
        headers = {"User-Agent": USER_AGENT} | ({"Content-Type": "application/json"} if body else {})
        request = urllib.request.Request(address, body, headers)  # noqa: S310 - the scheme was checked
        for attempt in range(self._retries + 1):
            self._wait()
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as answer:  # noqa: S310
                    return answer.read()
            except urllib.error.HTTPError as error:
                wait = _retry_after(error.headers.get("Retry-After"))
                failure = ServiceError(f"{address}: HTTP {error.code} {error.reason}", error.code)
                error.close()
                if error.code not in REPEATED or wait > LONGEST_WAIT:
                    raise failure from None
            except (OSError, http.client.HTTPException) as error:
                wait = 0.0
                reason = getattr(error, "reason", error)
                failure = ServiceError(f"{address}: {reason or type(error).__name__}")
            if attempt < self._retries:
                logger.info("%s. Asking again", failure)
                self._pause(wait)
                time.sleep(0 if wait else self._backoff * 2**attempt)
        raise ServiceError(f"{failure} (attempts: {self._retries + 1})", failure.status)

    def _wait(self) -> None:
        """Wait for this request's turn."""
        with self._lock:
            start = max(self._next, time.monotonic())
            self._next = start + self._delay
        time.sleep(max(0.0, start - time.monotonic()))

    def _pause(self, seconds: float) -> None:
        """Let no request begin for some time."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def check_answered(name: str, status: NDArray[np.int8], message: list[str]) -> None:
    """Refuse to go on where a service was given up: `status` of `Fetched`, and messages, (n,).

    Raises
    ------
    ServiceDownError
        Naming what was asked for, why the last request failed, and how to go on.
    """
    if (status == Fetched.GIVEN_UP).any():
        failed = np.flatnonzero(status == Fetched.FAILED)
        reason = message[failed[-1] if len(failed) else int(np.argmax(status == Fetched.GIVEN_UP))]
        raise ServiceDownError(f"{name}: the service does not answer ({reason}). Go on later with --resume")


def make_folder(folder: Path) -> None:
    """Make a folder for what a service answers.

    Raises
    ------
    DataError
        If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot make the folder ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise DataError(f"{folder}: cannot write to the folder (permission denied)")


def _retry_after(value: str | None) -> float:
    """Return the seconds that a Retry-After header, a number or a date, asks to wait; 0 without one."""
    if value is None:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
