"""Compiled templates, kept in the state folder: compiling takes longer than all else of a rendering."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket

from tsstack import __version__

_DIGEST_BYTES = hashlib.sha256().digest_size
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Compiled(jinja2.BytecodeCache):
    """A file for each template, which jinja2 itself knows to be of another text or another Python.

    What cannot be read or written is compiled anew each time: nobody needs these files. Where there is no
    folder nothing is kept, and what somebody else could have written is not run.
    """

    def __init__(self, folder: Path, options: str) -> None:
        """`options` are those of the environment: the code depends on them."""
        self._folder = folder
        self._stamp = f"{__version__} {jinja2.__version__} {options}\n".encode()

    def get_cache_key(self, name: str, filename: str | None = None) -> str:
        """The template's own name: of another installation's, jinja2 sees that the text is another."""
        return name.replace("/", "_")

    def load_bytecode(self, bucket: Bucket) -> None:
        """Give jinja2 the code, if it is ours and whole: bytecode that was cut off could be anything."""
        try:
            if not _is_ours(self._folder.lstat()):
                return
            # O_NONBLOCK: a pipe that lies there keeps nobody waiting.
            descriptor = os.open(self._folder / bucket.key, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(file.fileno())
                if not (_is_ours(status) and stat.S_ISREG(status.st_mode)):
                    return
                kept = file.read()
        except OSError:
            return
        digest, said = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
        if hashlib.sha256(said).digest() == digest and said.startswith(self._stamp):
            bucket.bytecode_from_string(said.removeprefix(self._stamp))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code for the next command. Not durably: what is torn is known by its digest."""
        said = self._stamp + bucket.bytecode_to_string()
        staged = self._folder / f".{bucket.key}.{os.getpid()}"
        try:
            staged.write_bytes(hashlib.sha256(said).digest() + said)
            staged.chmod(0o644)
            staged.replace(self._folder / bucket.key)
        except OSError:
            with contextlib.suppress(OSError):  # `Store.prepare` finds what is left
                staged.unlink()


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid in {0, os.geteuid()} and not status.st_mode & _OTHERS_WRITE
