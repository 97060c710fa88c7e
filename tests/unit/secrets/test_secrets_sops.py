"""Secrets with the real sops and age: what is read, and what each failure says without showing anything."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tsstack.cli.main import run
from tsstack.errors import SecretError
from tsstack.lab.engines import ENGINES, build, installed
from tsstack.system import secrets
from tsstack.system.secrets import check_secrets, identity_file, prepare_edit, read_key_file, read_secret

VALUE = "hskey-auth-do-not-show-me"
PLAIN = f"authkey: {VALUE}\nnested:\n  deep: other-value\nnumber: 7\nempty: ''\n"


@pytest.fixture(scope="session")
def sops_folder() -> Path:
    """Where sops and age are: on PATH, or built from the pinned module."""
    engine = next(engine for engine in ENGINES if engine.module == "sops")
    found = installed(engine) or build(engine, lambda _: None)
    return found["sops"].parent


@pytest.fixture(autouse=True)
def tools(sops_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{sops_folder}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(new_identity(tmp_path / "age.key")))


def new_identity(path: Path) -> Path:
    subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True)
    return path


def recipient() -> str:
    done = subprocess.run(["age-keygen", "-y", identity_file()], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def seal(file: Path, text: str = PLAIN) -> Path:
    argv = ["sops", "encrypt", "--age", recipient(), "--filename-override", file]
    file.write_text(subprocess.run(argv, input=text, check=True, capture_output=True, text=True).stdout)
    return file


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.yaml", PLAIN),
        ("s.json", json.dumps({"authkey": VALUE})),
        ("s.env", f"authkey={VALUE}\n"),
    ],
)
def test_a_value_is_read_from_every_format(tmp_path: Path, name: str, text: str) -> None:
    assert read_secret(seal(tmp_path / name, text), "authkey") == VALUE


def test_a_dotted_key_is_one_below_another(tmp_path: Path) -> None:
    file = seal(tmp_path / "s.yaml")
    assert read_secret(file, "nested.deep") == "other-value"
    with pytest.raises(SecretError, match=r"has no key nested\.none"):
        read_secret(file, "nested.none")


def test_the_default_identity_is_used_without_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = seal(tmp_path / "s.yaml")
    monkeypatch.setattr(secrets, "IDENTITY", identity_file())
    monkeypatch.delenv("SOPS_AGE_KEY_FILE")
    assert read_secret(file, "authkey") == VALUE


def other_recipient(file: Path) -> None:
    os.environ["SOPS_AGE_KEY_FILE"] = str(new_identity(file.parent / "other.key"))


def no_identity(file: Path) -> None:
    os.environ["SOPS_AGE_KEY_FILE"] = str(file.parent / "nothing.key")


def broken_identity(file: Path) -> None:
    identity_file().chmod(0o600)
    identity_file().write_text("not an identity\n")


def tampered_value(file: Path) -> None:
    line = next(line for line in file.read_text().splitlines() if line.startswith("authkey"))
    data = line.partition("data:")[2][:4]
    swapped = "AAAA" if data != "AAAA" else "BBBB"
    file.write_text(file.read_text().replace(f"data:{data}", f"data:{swapped}", 1))


def tampered_mac(file: Path) -> None:
    file.write_text(file.read_text().replace("number:", "renamed:", 1))


def not_encrypted(file: Path) -> None:
    file.write_text(PLAIN)


def cut_off(file: Path) -> None:
    text = file.read_text()
    file.write_text(text[: text.index("sops:")])


def empty(file: Path) -> None:
    file.write_text("\n")


def malformed(file: Path) -> None:
    file.write_text(f"a: [1, {VALUE}\nb: }}\n")


def absent(file: Path) -> None:
    file.unlink()


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def binary(file: Path) -> None:
    file.write_bytes(b"\xff\xfe" + VALUE.encode("utf-16"))


@pytest.mark.parametrize(
    ("hurt", "words"),
    [
        (other_recipient, "is encrypted for another recipient"),
        (no_identity, "no age identity to open"),
        (broken_identity, "is not an age identity"),
        (tampered_value, "was changed after it was encrypted"),
        (tampered_mac, "was changed after it was encrypted"),
        (not_encrypted, "is not encrypted: it has no sops metadata"),
        (cut_off, "is malformed: it is cut off"),
        (empty, "is malformed: it holds nothing"),
        (malformed, r"s\.yaml:\d+ is malformed"),
        (absent, "does not exist"),
        (a_folder, "is a folder"),
        (binary, "is not text"),
    ],
)
def test_each_failure_is_one_clear_sentence_and_shows_nothing(
    tmp_path: Path, hurt: Callable[[Path], None], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(identity_file()))  # put back afterwards, whatever `hurt` does
    file = seal(tmp_path / "s.yaml")
    hurt(file)
    with pytest.raises(SecretError, match=words) as failure:
        read_secret(file, "authkey")
    expect_silence(failure.value)
    assert "\n" not in failure.value.message


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("authkee", "has no key authkee; it has authkey, empty, nested, number"),
        ("number", "number in .* is not text"),
        ("nested", "nested in .* is not text"),
        ("empty", "empty in .* is empty"),
    ],
)
def test_a_key_that_will_not_do_is_named_with_the_names_of_the_others(
    tmp_path: Path, key: str, words: str
) -> None:
    with pytest.raises(SecretError, match=words) as failure:
        read_secret(seal(tmp_path / "s.yaml"), key)
    expect_silence(failure.value)


def expect_silence(error: BaseException | None) -> None:
    """No value, not even in an error that this one was raised from."""
    while error is not None:
        said = (
            f"{error} {getattr(error, 'hint', '')} {getattr(error, 'stderr', '')} {getattr(error, 'doc', '')}"
        )
        assert VALUE not in said
        assert "other-value" not in said
        error = error.__cause__ or error.__context__


def test_a_missing_sops_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = seal(tmp_path / "s.yaml")
    monkeypatch.setattr("tsstack.system.command._SBIN", "/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SecretError, match="sops is not installed"):
        read_secret(file, "authkey")


def test_sops_gets_the_file_name_alone_and_none_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = seal(tmp_path / "s.yaml")
    real = subprocess.run(["which", "sops"], check=True, capture_output=True, text=True).stdout.strip()
    wrapper = tmp_path / "bin" / "sops"
    wrapper.parent.mkdir()
    wrapper.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/argv\nenv >{tmp_path}/env\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("UNRELATED_TOKEN", "must-not-travel")
    assert read_secret(file, "authkey") == VALUE
    assert (tmp_path / "argv").read_text().split() == ["decrypt", "--output-type", "json", str(file)]
    assert "must-not-travel" not in (tmp_path / "env").read_text()


def test_check_secrets_tells_found_from_missing(tmp_path: Path) -> None:
    found = check_secrets(seal(tmp_path / "s.yaml"), ["authkey", "absent"])
    assert found["authkey"] is None
    assert isinstance(found["absent"], SecretError)


def test_a_key_file_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(f"  {VALUE}\n\n")
    assert read_key_file(file) == VALUE
    for text, words in (
        ("", "is empty"),
        (f"{VALUE}\n{VALUE}\n", "more than one line"),
        ("x" * 70_000, "larger than 64 KiB"),
    ):
        file.write_text(text)
        with pytest.raises(SecretError, match=words) as failure:
            read_key_file(file)
        expect_silence(failure.value)
    with pytest.raises(SecretError, match="does not exist"):
        read_key_file(tmp_path / "nothing")


def test_the_first_edit_makes_an_identity_and_an_encrypted_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, file = tmp_path / "etc" / "age.key", tmp_path / "etc" / "secrets.yaml"
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(identity))
    argv, env = prepare_edit(file)
    assert stat.S_IMODE(identity.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(SecretError, match=r"authkey in .* is empty"):
        read_secret(file, "authkey")
    first = identity.read_text()
    editor = tmp_path / "editor"
    # What the editor gets to see must lie on a tmpfs.
    editor.write_text(f'#!/bin/sh\ndf --output=fstype "$1" >{tmp_path}/seen\necho "authkey: {VALUE}" >"$1"\n')
    editor.chmod(0o755)
    subprocess.run(argv, env={**env, "EDITOR": str(editor)}, check=True, capture_output=True)
    assert "tmpfs" in (tmp_path / "seen").read_text()
    assert read_secret(file, "authkey") == VALUE
    assert VALUE not in file.read_text()
    prepare_edit(file)
    assert identity.read_text() == first
    assert read_secret(file, "authkey") == VALUE


def write_stack(folder: Path, auth_key: str) -> Path:
    file = folder / "tsstack.yaml"
    file.write_text(
        "host: {name: kernelcore, tailnet: tail.test}\n"
        "secrets: {file: s.yaml}\n"
        f"tailscale: {{login_server: 'http://10.77.0.1:8080', auth_key: {auth_key}}}\n"
    )
    return file


def test_the_verb_check_says_found_or_missing_and_no_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seal(tmp_path / "s.yaml")
    assert run(["secrets", "check", "-c", str(write_stack(tmp_path, "{secret: authkey}")), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(line["path"], line["found"]) for line in said["secrets"]] == [("tailscale.auth_key", True)]
    assert VALUE not in str(said)
    assert run(["secrets", "check", "-c", str(write_stack(tmp_path, "{secret: authkee}"))]) == 4
    out = capsys.readouterr().out
    assert out.startswith("missing  tailscale.auth_key")
    assert VALUE not in out
    (tmp_path / "key").write_text(VALUE)
    assert run(["secrets", "check", "-c", str(write_stack(tmp_path, f"{{file: {tmp_path}/key}}"))]) == 0
    assert VALUE not in capsys.readouterr().out


def test_the_verb_edit_becomes_sops_and_tells_of_the_new_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOPS_AGE_KEY_FILE", str(tmp_path / "new" / "age.key"))
    editor = tmp_path / "editor"
    editor.write_text(f'#!/bin/sh\necho "authkey: {VALUE}" >"$1"\n')
    editor.chmod(0o755)
    monkeypatch.setenv("EDITOR", str(editor))
    file = tmp_path / "s.yaml"
    argv = [sys.executable, "-c", "from tsstack.cli.main import main; main()", "secrets", "edit", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "keep a copy of it" in done.stderr
    assert VALUE not in done.stdout + done.stderr
    assert read_secret(file, "authkey") == VALUE


def test_edit_without_a_file_opens_the_one_that_the_hosts_file_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    seal(tmp_path / "s.yaml")
    before = (tmp_path / "s.yaml").read_bytes()
    editor = tmp_path / "editor"
    monkeypatch.setenv("EDITOR", str(editor))
    argv = ["-c", str(write_stack(tmp_path, "{secret: authkey}")), "secrets", "edit", "--json"]
    for script, changed in (("exit 0", False), ('echo "authkey: tskey-other" >"$1"', True)):
        editor.write_text(f"#!/bin/sh\n{script}\n")
        editor.chmod(0o755)
        assert run(argv) == 0
        assert json.loads(capfd.readouterr().out) == {"file": str(tmp_path / "s.yaml"), "changed": changed}
        assert ((tmp_path / "s.yaml").read_bytes() != before) is changed
    assert read_secret(tmp_path / "s.yaml", "authkey") == "tskey-other"


def test_without_a_terminal_an_edit_that_cannot_be_read_ends_with_an_error(tmp_path: Path) -> None:
    seal(tmp_path / "s.yaml")
    before = (tmp_path / "s.yaml").read_bytes()
    editor = tmp_path / "editor"
    editor.write_text(f'#!/bin/sh\necho "authkey: [{VALUE}" >"$1"\n')
    editor.chmod(0o755)
    verb = "from tsstack.cli.main import main; main()"
    argv = [sys.executable, "-c", verb, "secrets", "edit", str(tmp_path / "s.yaml")]
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        env={**os.environ, "EDITOR": str(editor)},
    )
    assert done.returncode == 4
    assert "what the editor left cannot be read" in done.stderr
    assert VALUE not in done.stdout + done.stderr
    assert (tmp_path / "s.yaml").read_bytes() == before
