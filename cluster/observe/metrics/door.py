"""Where a run is scraped: /metrics on loopback, on a thread beside the run."""

import hmac
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cluster.observe.metrics.collector import Exposition, Source
from emulation.errors import MoelabError

LOOPBACK = "127.0.0.1"
PATH = "/metrics"
IDLE_S = 30
"""How long a connection may say nothing."""
MOST_CONNECTIONS = 16
"""At once; one more waits until another is over."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 4 * MOST_CONNECTIONS

    def __init__(self, port: int, exposition: Exposition, token: str | None) -> None:
        self.exposition, self.expected = exposition, None if token is None else f"Bearer {token}".encode()
        self._room = threading.BoundedSemaphore(MOST_CONNECTIONS)
        super().__init__((LOOPBACK, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._room.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A scraper that has left is nobody's fault; a fault of ours was answered with 500."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = IDLE_S
    server_version, sys_version = "moelab", ""

    def do_GET(self) -> None:
        """The metrics, to who may see them."""
        given = self.headers.get_all("Authorization", [])
        if self.server.expected is not None and not (
                len(given) == 1 and hmac.compare_digest(given[0].encode("latin-1", "replace"), self.server.expected)):
            return self._answer(401, b"the token is missing or wrong: send it as `Authorization: Bearer TOKEN`\n")
        if self.path.partition("?")[0] != PATH:
            return self._answer(404, f"there is nothing here but {PATH}\n".encode())
        body, kind = self.server.exposition.text(self.headers.get("Accept", ""))
        return self._answer(200, body, kind)

    def _answer(self, status: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not told of."""


@contextmanager
def opened(port: int, source: Source, token: str | None, linger_s: float = 0.0) -> Iterator[str]:
    """Show what a source tells, until the end and so many seconds more; yields where. port 0: any that is free. token:
    what scrapers must send. MoelabError where it cannot listen there."""
    try:
        server = _Server(port, Exposition(source), token)
    except OSError as error:
        raise MoelabError(f"metrics cannot be shown at {LOOPBACK} port {port}: {error.strerror}; choose another port, "
                          "or 0 for any that is free") from None
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    url = f"http://{LOOPBACK}:{server.server_address[1]}{PATH}"
    print(f"moelab: metrics at {url}", file=sys.stderr, flush=True)
    try:
        yield url
        if linger_s:
            print(f"moelab: done; the last metrics stay for {linger_s:g} s", file=sys.stderr, flush=True)
            time.sleep(linger_s)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
