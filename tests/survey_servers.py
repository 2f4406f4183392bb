"""Stand-ins on this machine's loopback for the web services of the Legacy Survey and of SPARCL."""

import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from astropy.io import fits
from builders import make_image, make_wcs_cards


class Answer:
    """What a stand-in sends: a state, a body, headers; after a while, or only a part of it."""

    def __init__(self, body=b"", state=200, headers=None, after=0.0, drop_after=None):
        self.body, self.state, self.headers = body, state, headers or {}
        self.after, self.drop_after = after, drop_after


class Server:
    """A running stand-in: its address, what it was asked (path, query, JSON, headers), and when."""

    def __init__(self, answer):
        self.asked: list[tuple[str, dict[str, str], Any, Any]] = []
        self.times: list[float] = []
        self.most_at_once = self._now = 0
        self._answer, self._lock = answer, threading.Lock()
        self.url = ""

    def handle(self, handler):
        path = urlsplit(handler.path)
        query = {k: v[0] for k, v in parse_qs(path.query).items()}
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        with self._lock:
            self.asked.append((path.path, query, json.loads(body) if body else None, handler.headers))
            self.times.append(time.monotonic())
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            answer = self._answer(self, path.path, query, self.asked[-1][2])
        time.sleep(answer.after)
        handler.send_response(answer.state)
        for key, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(answer.body[: answer.drop_after])
        with self._lock:
            self._now -= 1


@contextmanager
def serve(answer) -> Iterator[Server]:
    """Run a server whose answers are ``answer(server, path, query, json)``."""
    server = Server(answer)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.handle(self)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *args):
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *args):  # a client that went away is part of the test
            pass

    with Quiet(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        server.url = f"http://127.0.0.1:{http.server_port}"
        yield server
        http.shutdown()
        thread.join()


def fits_cutout(query: dict[str, str], seed: int | None = 0, **cards: Any) -> bytes:
    """Return the FITS cube that the cut-out service sends; all 0 without a seed."""
    size, ra, dec = int(query["size"]), float(query["ra"]), float(query["dec"])
    bands = query["bands"]
    shape = (size, size)
    image = np.zeros((len(bands), *shape), "f4") if seed is None else make_image(len(bands), shape, seed)
    header = make_wcs_cards(shape, ra, dec, float(query["pixscale"]) / 3600) | {"BANDS": bands} | cards
    stream = io.BytesIO()
    fits.PrimaryHDU(image, header=fits.Header(header)).writeto(stream)
    return stream.getvalue()
