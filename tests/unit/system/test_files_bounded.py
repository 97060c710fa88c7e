"""Only files that are what they seem are read, and never more than they may hold."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tsstack.errors import ConfigError, SecretError
from tsstack.model.document import read_source
from tsstack.switch.intent import read_intent
from tsstack.switch.site import Site
from tsstack.system import files
from tsstack.system.files import read_bounded
from tsstack.system.secrets import read_key_file, read_secret


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def test_what_is_no_file_is_named_and_never_waited_for(tmp_path: Path, fifo: Path) -> None:
    unix = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(unix))
        for path, said in (
            (fifo, "pipe"),
            (Path("/dev/zero"), "device"),
            (unix, "socket"),
            (tmp_path, "folder"),
        ):
            with pytest.raises(OSError, match=f"it is a {said}"):
                read_bounded(path, limit_bytes=10)


def test_a_file_beyond_the_limit_is_refused_and_one_at_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * 2048)
    assert read_bounded(path, limit_bytes=2048) == b"x" * 2048
    with pytest.raises(OSError, match="larger than 1 KiB") as refused:
        read_bounded(path, limit_bytes=1024)
    assert refused.value.errno == errno.EFBIG


@pytest.mark.parametrize("read", [read_key_file, lambda path: read_secret(path, "authkey")])
def test_keys_and_secrets_come_from_regular_files_alone(read, fifo: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    with large.open("wb") as out:
        out.truncate(1 << 33)  # sparse
    for path, said in ((fifo, "it is a pipe"), (Path("/dev/zero"), "it is a device"), (large, "larger than")):
        with pytest.raises(SecretError, match=said) as refused:
            read(path)
        assert "a regular file is needed" in refused.value.hint


def test_a_device_as_the_file_is_a_fault_with_its_reason() -> None:
    for read in (read_source, lambda path: read_intent(Site(), path, Site().facts())):
        with pytest.raises(ConfigError) as refused:
            read(Path("/dev/zero"))
        (finding,) = refused.value.findings
        assert finding.code == "TS001"
        assert "it is a device" in finding.message


def feed(path: Path, data: bytes) -> threading.Thread:
    def write() -> None:
        with contextlib.suppress(BrokenPipeError):
            path.write_bytes(data)

    writer = threading.Thread(target=write)
    writer.start()
    return writer


def test_a_pipe_is_read_once_and_to_its_end(fifo: Path) -> None:
    writer = feed(fifo, b"host: {name: piped}\n")
    intent = read_intent(Site(), fifo, Site().facts())
    writer.join()
    assert intent.loaded is not None
    assert intent.loaded.stack.host.name == "piped"


def test_a_pipe_that_nobody_writes_to_is_refused_and_not_waited_for(fifo: Path) -> None:
    tsstack = Path(sys.executable).with_name("tsstack")
    done = subprocess.run(
        [tsstack, "-c", fifo, "check"], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == 3
    assert "error TS001" in done.stdout
    assert "it is a pipe that nobody writes to" in done.stdout


@pytest.mark.parametrize("silent_s", [0.0, 0.3])
def test_whoever_has_opened_a_pipe_may_take_his_time(
    fifo: Path, monkeypatch: pytest.MonkeyPatch, silent_s: float
) -> None:
    monkeypatch.setattr(files, "_WRITER_COMES_S", 0.1)

    def write() -> None:
        with fifo.open("wb") as out:
            time.sleep(silent_s)
            out.write(b"host: ")
            out.flush()
            time.sleep(silent_s)
            out.write(b"{name: piped}\n")

    writer = threading.Thread(target=write)
    writer.start()
    data = read_source(fifo)
    writer.join()
    assert data == b"host: {name: piped}\n"


def test_what_a_shell_hands_over_is_read(tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text("host: {name: piped}\n")
    tsstack = Path(sys.executable).with_name("tsstack")
    for line in (
        '"$0" -c <(sleep 0.2; cat "$1") check',
        'cat "$1" | "$0" -c /dev/stdin check',
        '"$0" -c /dev/stdin check < "$1"',
    ):
        done = subprocess.run(
            ["bash", "-c", line, tsstack, file], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr


def test_a_pipe_without_an_end_is_left_at_the_limit(fifo: Path) -> None:
    writer = feed(fifo, b"#" * (17 << 20))
    with pytest.raises(ConfigError) as refused:
        read_source(fifo)
    writer.join()
    assert (
        refused.value.findings[0].code == "TS002" or "larger than 16 MiB" in refused.value.findings[0].message
    )
