"""A publisher on this machine: an HTTP server that can break off, forget ranges, change its file, or stall."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class FileServer:
    """Files and behavior of the server; a test may change them between requests."""

    files: dict[str, bytes]
    address: str = ""
    etag: str = '"one"'
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)  # for each answer to come: after how many bytes it breaks off
    stall: threading.Event | None = None  # after a cut's bytes the connection stays open until this is set
    largest: int | None = None  # a range holds no more bytes than these
    total: str | None = None  # what a range says instead of the bytes in all
    length: str | None = None  # what it says instead of the length
    moved: str | None = None  # it sends everybody on to this address
    requests: list[dict[str, str]] = field(default_factory=list)  # the headers of each

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.requests.append({name.lower(): value for name, value in handler.headers.items()})
        content = self.files.get(urlsplit(handler.path).path.rpartition("/")[2])
        if self.moved is not None:
            handler.send_response(302)
            handler.send_header("Location", self.moved)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        if content is None:
            handler.send_error(404)
            return
        start = self._start(handler)
        if start is not None and start >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(200 if start is None else 206)
        body = content[start or 0 :]
        if start is not None:
            body = body[: self.largest]
            handler.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{self.total or len(content)}")
        if self.etag:
            handler.send_header("ETag", self.etag)
        handler.send_header("Content-Length", str(len(body)) if self.length is None else self.length)
        handler.end_headers()
        handler.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)
        handler.wfile.flush()
        if self.stall is not None:
            self.stall.wait(60)

    def _start(self, handler: BaseHTTPRequestHandler) -> int | None:
        """The first byte that is asked for; None: the whole file."""
        range_match = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if not range_match or not self.ranges or handler.headers.get("If-Range", self.etag) != self.etag:
            return None
        return int(range_match[1])


@contextmanager
def serving(files: dict[str, bytes], **options: object) -> Iterator[FileServer]:
    """Serve files on the loopback address until the block ends."""
    served = FileServer(files, **options)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            if served.stall is not None:
                served.stall.set()
            server.shutdown()
            thread.join()
