"""uvicorn's HTTP connection with a bound on the request's head, and our error shape for what is no HTTP.

uvicorn gathers a head of any size in memory before an application sees it. Here it ends at `HEAD_BYTES`, whether the
head arrives in one packet or in many. This module knows nothing of the application.
"""

from __future__ import annotations

from random import getrandbits

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from millrace.errors import RequestError
from serving.errors import error_body

HEAD_BYTES = 32_768
"""Most bytes of a request's line and headers; more: 431."""
_PHRASES = {400: b"Bad Request", 431: b"Request Header Fields Too Large"}


class Connection(HttpToolsProtocol):
    """One client's connection."""

    _head = 0  # bytes that came while a head was not complete
    _in_head = False

    def data_received(self, data: bytes) -> None:
        """Feed the parser, unless the head has grown too large."""
        self._head += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if not self._in_head:
            self._head = 0
        elif self._head > HEAD_BYTES:
            self._refuse(431)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Measure a head that may be too large; raising here is how the parser is stopped."""
        if self.head_is_too_large:
            self._refuse(431)
            raise ValueError("the head is too large")
        self._in_head = False
        super().on_headers_complete()

    @property
    def head_is_too_large(self) -> bool:
        """Whether the head that is complete now is; what came with it of the body does not count."""
        if self._head <= HEAD_BYTES:
            return False
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES

    def send_400_response(self, msg: str) -> None:
        """Say that this is no HTTP request, and hang up."""
        if not self.transport.is_closing():
            self._refuse(400)

    def _refuse(self, status: int) -> None:
        what = "The request's head is too large." if status == 431 else "This is no HTTP request."
        _, body = error_body(RequestError(status, what), request_id := f"{getrandbits(64):016x}")
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %s\r\n"
        head += b"cache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, _PHRASES[status], len(body), request_id.encode()) + body)
        self.transport.close()
