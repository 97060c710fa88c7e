"""Compiled templates, kept in the state folder: compiling takes longer than all else of a rendering."""

from __future__ import annotations

import hashlib
from pathlib import Path

import jinja2
from jinja2.bccache import Bucket

from tsstack.system.files import write_durably

_DIGEST_BYTES = hashlib.sha256().digest_size


class Compiled(jinja2.BytecodeCache):
    """A file for each template, which jinja2 itself knows to be of another text or another Python.

    What cannot be read or written is compiled anew each time: nobody needs these files. Where there is no
    folder nothing is kept.
    """

    def __init__(self, folder: Path, stamp: str) -> None:
        """Only root may write to `folder`. `stamp` is what else the code depends on."""
        self._folder = folder
        self._stamp = f"{jinja2.__version__} {stamp}\n".encode()

    def load_bytecode(self, bucket: Bucket) -> None:
        """Give jinja2 the code, if it is whole: bytecode that was cut off could be anything."""
        try:
            kept = (self._folder / bucket.key).read_bytes()
        except OSError:
            return
        digest, said = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
        if hashlib.sha256(said).digest() == digest and said.startswith(self._stamp):
            bucket.bytecode_from_string(said.removeprefix(self._stamp))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code for the next command."""
        said = self._stamp + bucket.bytecode_to_string()
        try:
            write_durably(self._folder / bucket.key, hashlib.sha256(said).digest() + said)
        except OSError:
            return
