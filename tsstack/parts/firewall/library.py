"""libnftables, in this process, through its Python bindings.

A `Session` talks to the network namespace of the thread that opened it. Loading is one netlink batch:
the kernel takes all of it or nothing (nft(8); nfnetlink batches commit as a whole).
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any, ClassVar

from tsstack.errors import TsstackError

_NETLINK_NETFILTER = 12  # linux/netlink.h
_INSTALL = "install nftables (Debian: apt install nftables), which brings libnftables"


class NftError(TsstackError):
    """nft refused a command; `message` holds its words. Mapped to a part's error by whoever called."""


class Session:
    """One context of libnftables. Not to be shared between threads.

    Raises NftError when the library is missing, or when the kernel has no socket to give.
    """

    _last: ClassVar[Session | None] = None
    _inherited: ClassVar[list[Session]] = []

    def __init__(self) -> None:
        try:
            import nftables

            _require_socket()

            self._nft: Any = nftables.Nftables()
        except (ImportError, OSError) as error:
            raise NftError(f"libnftables cannot be loaded: {error}", hint=_INSTALL) from error
        # Its socket is closed with the next one's opening: see `tsstack.system.nfnetlink.part_from`.
        Session._last = self

    @classmethod
    def disown(cls) -> None:
        """In a fork: what it inherited is never freed: its socket's number may be another's by then."""
        if cls._last is not None:
            cls._inherited.append(cls._last)
            cls._last = None

    def run(self, commands: str) -> str:
        """Run nft commands as one transaction and return what they print. Raises NftError."""
        code, output, errors = self._nft.cmd(commands)
        if code != 0:
            raise _refusal(errors)
        return str(output)

    def load(self, path: Path, *, dry_run: bool = False) -> None:
        """Run a file of nft commands as one transaction; with `dry_run` the kernel judges it only.

        Read by the library itself, whose errors then tell the line. Raises NftError.
        """
        import ctypes

        self._function("nft_ctx_set_dry_run", ctypes.c_bool)(dry_run)
        if self._function("nft_run_cmd_from_filename", ctypes.c_char_p)(os.fsencode(path)) != 0:
            words = self._nft.nft_ctx_get_error_buffer(self._context).decode(errors="replace")
            raise _refusal(words)

    def list_table(self, family: str, table: str) -> str | None:
        """One table as text without the values of counters, or None if there is no such table."""
        if f"table {family} {table}" not in self.run(f"list tables {family}").splitlines():
            return None
        self._nft.set_stateless_output(True)
        return self.run(f"list table {family} {table}")

    def list_with_handles(self, *tables: str) -> str:
        """Tables (`ip filter`; none named: all) as text, each rule with its handle, without the values of
        counters. Raises NftError.
        """
        self._nft.set_stateless_output(True)
        self._nft.set_handle_output(True)
        # One at a time: asked for several at once, nft 1.0.6 finds the last one alone.
        return "".join(self.run(f"list table {each}") for each in tables) or self.run("list ruleset")

    def query(self, command: str) -> list[dict[str, Any]]:
        """The objects that a list command answers with, as libnftables-json(5) has them."""
        before = self._nft.set_json_output(True)
        try:
            answer = json.loads(self.run(command))
        finally:
            self._nft.set_json_output(bool(before))
        return list(answer["nftables"])

    def _function(self, name: str, argument: Any) -> Any:
        """A function of the library that these bindings do not offer, bound to this context."""
        import ctypes

        function = getattr(ctypes.CDLL("libnftables.so.1"), name)
        function.argtypes = [ctypes.c_void_p, argument]
        return lambda value: function(self._context, value)

    @property
    def _context(self) -> Any:
        # The bindings keep the context in a private attribute, in every version up to 1.1.
        return self._nft._Nftables__ctx


os.register_at_fork(after_in_child=Session.disown)


def _require_socket() -> None:
    """Raise NftError where no netlink socket can be had.

    Without one libnftables ends the whole process with exit code 3 (its mnl.c: netlink_init_error), in the
    middle of a change and with nobody left to undo it. What is opened and closed here is there for it.
    """
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER).close()
    except OSError as error:
        hint = "too many open files, or the kernel is out of memory"
        raise NftError(f"no netlink socket for nft: {error.strerror}", hint=hint) from error


def _refusal(words: str) -> NftError:
    denied = "Operation not permitted" in words
    hint = "the packet filter needs root" if denied else ""
    return NftError(words.strip() or "nft gave no reason", hint=hint)
