"""Console scripts end at once, and lose nothing by it."""

from __future__ import annotations

import subprocess
import sys

import pytest

_LEAVE = "from tsstack.cli.ending import leave\n"


def run(code: str, *, stdout: int | None = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.mark.parametrize("code", [0, 3])
def test_what_was_printed_is_out_and_the_interpreter_does_not_end_itself(code: int) -> None:
    end = "import atexit, sys\natexit.register(print, 'taken apart')\n"
    said = f"{end}{_LEAVE}print('a' * 100_000)\nprint('told', file=sys.stderr)\nleave({code})"
    done = run(said)
    assert (done.returncode, done.stdout, done.stderr) == (code, "a" * 100_000 + "\n", "told\n")


def test_a_thread_is_waited_for() -> None:
    late = (
        "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.3), print('done'))).start()\n"
    )
    done = run(f"{_LEAVE}{late}leave(4)")
    assert (done.returncode, done.stdout) == (4, "done\n")


def test_output_that_cannot_be_written_is_told() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = run(f"{_LEAVE}print('lost')\nleave(0)", stdout=full.fileno())
    assert done.returncode != 0
    assert "No space left" in done.stderr


def test_without_streams_it_ends_too() -> None:
    assert run(f"{_LEAVE}import sys\nsys.stdout = sys.stderr = None\nleave(2)").returncode == 2
