"""The first words of TLS, written by hand: what a library of today no longer says. Pure."""

from __future__ import annotations

import struct

from tsstack.prove.questions import Hello

# RFC 8446 section 5.1 and 4: record types and message types.
_HANDSHAKE, _CLIENT_HELLO, _SERVER_HELLO = 22, 1, 2
_VERSIONS: dict[Hello, int] = {"old": 0x0302, "weak": 0x0303}
# Without forward secrecy, or in CBC mode. https://www.iana.org/assignments/tls-parameters
_CIPHERS = (0x002F, 0x0035, 0x009C, 0x009D, 0xC009, 0xC00A, 0xC013, 0xC014, 0xC023, 0xC027, 0x0033, 0x0039)
_NO_RENEGOTIATION = 0x00FF  # RFC 5746 section 3.3
_GROUPS = (0x001D, 0x0017, 0x0018)
_SIGNATURES = (0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0203, 0x0201)


def client_hello(kind: Hello, name: str) -> bytes:
    """A ClientHello of an old version, or of TLS 1.2 with weak ciphers alone; `name` as its SNI."""
    server_name = b"\0" + _counted(name.encode("ascii"))
    extensions = [
        (0, _counted(server_name)),
        (10, _counted(_words(_GROUPS))),
        (11, b"\x01\0"),
        *([(13, _counted(_words(_SIGNATURES)))] if kind == "weak" else []),
    ]
    packed = b"".join(struct.pack("!H", number) + _counted(body) for number, body in extensions)
    version = struct.pack("!H", _VERSIONS[kind])
    body = (
        version
        + bytes(range(32))
        + b"\0"
        + _counted(_words((*_CIPHERS, _NO_RENEGOTIATION)))
        + b"\x01\0"
        + _counted(packed)
    )
    message = bytes([_CLIENT_HELLO]) + struct.pack("!I", len(body))[1:] + body
    return bytes([_HANDSHAKE]) + struct.pack("!H", 0x0301) + _counted(message)


def is_accepted(answer: bytes) -> bool:
    """Whether the server goes on with the handshake."""
    return len(answer) > 5 and answer[0] == _HANDSHAKE and answer[5] == _SERVER_HELLO


def _counted(body: bytes) -> bytes:
    return struct.pack("!H", len(body)) + body


def _words(numbers: tuple[int, ...]) -> bytes:
    return struct.pack(f"!{len(numbers)}H", *numbers)
