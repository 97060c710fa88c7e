"""Ask by HTTP/3 and nothing else: http3_client.py ADDRESS PORT NAME PATH CA prints the answer as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, QuicEvent

_LIMIT_S = 30.0


class Client(QuicConnectionProtocol):
    """One request, and what was answered."""

    def ask(self, name: str, path: str) -> asyncio.Future[dict[str, str]]:
        self._answer: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self._found: dict[str, str] = {}
        self._http = H3Connection(self._quic)
        headers = {":method": "GET", ":scheme": "https", ":authority": name, ":path": path}
        stream = self._quic.get_next_available_stream_id()
        self._http.send_headers(
            stream, [(k.encode(), v.encode()) for k, v in headers.items()], end_stream=True
        )
        self.transmit()
        return self._answer

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated) and not self._answer.done():
            self._answer.set_exception(ConnectionError(event.reason_phrase or str(event.error_code)))
            return
        for each in self._http.handle_event(event) if hasattr(self, "_http") else ():
            if isinstance(each, HeadersReceived):
                self._found |= {key.decode(): value.decode() for key, value in each.headers}
            elif isinstance(each, DataReceived):
                self._found["body"] = self._found.get("body", "") + each.data.decode()
            if isinstance(each, (HeadersReceived, DataReceived)) and each.stream_ended:
                self._answer.set_result(self._found)


async def ask(address: str, port: int, name: str, path: str, ca: str) -> dict[str, str]:
    settings = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN, server_name=name, cafile=ca)
    async with connect(address, port, configuration=settings, create_protocol=Client) as client:
        return await asyncio.wait_for(cast("Client", client).ask(name, path), _LIMIT_S)


if __name__ == "__main__":
    address, port, *rest = sys.argv[1:]
    sys.stdout.write(json.dumps(asyncio.run(ask(address, int(port), *rest))))
