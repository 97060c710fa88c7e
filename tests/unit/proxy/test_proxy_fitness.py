"""Certificate files of the user's own: what is read, what is refused and in which words."""

from __future__ import annotations

import datetime
import os
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tsstack.errors import CheckFailed
from tsstack.parts.proxy.fitness import list_warnings, load_pair, refuse_unusable
from tsstack.parts.proxy.pem import MOST_BYTES, is_plain, is_same, mark_pair, read_plain
from tsstack.parts.proxy.plan import Certificate
from tsstack.status.words import span

NAME = "wiki.box.tail.test"
DAY = datetime.timedelta(days=1)


def make_pair(*, start=-1.0, end=60.0, names=(NAME,)):
    """A self-signed certificate and its key as PEM; `start` and `end` in days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.datetime.now(datetime.UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start * DAY)
        .not_valid_after(now + end * DAY)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(each) for each in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return leaf.public_bytes(serialization.Encoding.PEM), write_key(key, serialization.NoEncryption())


def write_key(key, encryption):
    pem = serialization.Encoding.PEM
    return key.private_bytes(pem, serialization.PrivateFormat.PKCS8, encryption)


@pytest.fixture
def own(tmp_path):
    """Writes a pair to disk and gives the certificate that names it."""

    def write(certificate, key):
        paths = []
        for name, data in (("c.pem", certificate), ("c.key", key)):
            (tmp_path / name).write_bytes(data)
            paths.append(str(tmp_path / name))
        return Certificate("files", (NAME,), str(tmp_path / "l.crt"), str(tmp_path / "l.key"), *paths)

    return write


def test_a_good_pair_is_taken(own):
    certificate = own(*make_pair())
    refuse_unusable(certificate)
    assert list_warnings(certificate) == []


def test_each_fault_of_a_file_is_named_with_the_file_and_the_way_out(own):
    good, key = make_pair()
    encrypted = write_key(
        ec.generate_private_key(ec.SECP256R1()), serialization.BestAvailableEncryption(b"x")
    )
    other, _ = make_pair()
    cases = [
        (b"", key, "proxy.tls.certificate: {c} is empty", "put it back"),
        (b"junk", key, "proxy.tls.certificate: {c} holds no PEM certificate", "-inform der"),
        (key, key, "proxy.tls.certificate: {c} holds a key and no PEM certificate", "mixed up"),
        (good[:80] + good[90:], key, "proxy.tls.certificate: a certificate in {c} is damaged", "says more"),
        (good, b"\n", "proxy.tls.key: {k} is empty", "put it back"),
        (good, b"junk", "proxy.tls.key: {k} holds no PEM private key", "-inform der"),
        (good, good, "proxy.tls.key: {k} holds no PEM private key", "mixed up"),
        (good, encrypted, "proxy.tls.key: the key in {k} is encrypted", "openssl pkey"),
        (good, key[:60] + key[70:], "proxy.tls.key: the key in {k} is damaged", "says more"),
        (
            other,
            key,
            "proxy.tls: the key {k} does not belong to the certificate {c}",
            "have to print the same",
        ),
        (other + good, key, "proxy.tls.certificate: the first certificate in {c} is not the key's", "first"),
    ]
    for chain, secret, message, hint in cases:
        certificate = own(chain, secret)
        words = message.format(c=certificate.source_certificate, k=certificate.source_key)
        with pytest.raises(CheckFailed) as refused:
            load_pair(certificate)
        assert refused.value.message.startswith(words), (words, refused.value.message)
        assert hint in refused.value.hint, (words, refused.value.hint)


@pytest.mark.parametrize(
    ("validity", "message", "hint"),
    [
        ({"start": -9, "end": -2}, "it expired on ", "renew it in its place and switch again"),
        ({"start": 2}, "it is not valid before ", "`date -u`"),
        ({"names": ("else.example",)}, f"it does not cover {NAME}", "wildcard"),
    ],
)
def test_what_clients_refuse_is_refused_here_and_is_a_warning_where_it_is_in_use(
    validity, message, hint, own
):
    certificate = own(*make_pair(**validity))
    with pytest.raises(CheckFailed) as refused:
        refuse_unusable(certificate)
    place = f"proxy.tls.certificate: {certificate.source_certificate}: "
    assert refused.value.message.startswith(place + message) and hint in refused.value.hint
    assert "no-prove" not in refused.value.hint
    load_pair(certificate)  # nginx does not mind
    (line,) = list_warnings(certificate)
    assert message in line and certificate.source_certificate in line


@pytest.mark.parametrize(
    ("start", "end", "warned"),
    [
        (-80, 10, True),  # Let's Encrypt's ninety days
        (-70, 20, False),
        (-0.1, 2, False),  # made for two days: it is renewed daily
        (-4.4, 2.2, False),  # a short-lived one is renewed every few days
        (-5.2, 1.4, True),
        (-3600, 9, True),
        (-3600, 13, False),
    ],
)
def test_the_end_is_announced_in_time(start, end, warned, own):
    lines = list_warnings(own(*make_pair(start=start, end=end)))
    assert bool(lines) == warned
    assert not warned or (f"in {span(end * 86400)}: " in lines[0] and "certificates renew" in lines[0])


def test_a_pair_that_is_gone_is_a_warning(own):
    certificate = own(*make_pair())
    os.unlink(certificate.source_key)  # noqa: PTH108
    assert "cannot be read" in list_warnings(certificate)[0]


def test_only_plain_files_of_a_sane_size_are_read(tmp_path, own):
    good, key = make_pair()
    certificate = own(good, key)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "giant").write_bytes(b"x" * (MOST_BYTES + 1))
    (tmp_path / "folder").mkdir()
    for path, words in (
        ("/dev/zero", "it is no regular file"),
        (str(tmp_path / "pipe"), "it is no regular file"),
        (str(tmp_path / "folder"), "Is a directory"),
        (str(tmp_path / "giant"), "more than 1 MiB"),
    ):
        for field, name in (("source_certificate", "certificate"), ("source_key", "key")):
            bad = replace(certificate, **{field: path})
            with pytest.raises(CheckFailed, match=f"proxy.tls.{name}: {path} cannot be read: .*{words}"):
                refuse_unusable(bad)
            mark_pair(bad)  # neither waits nor fills the memory
    assert read_plain(tmp_path / "c.pem") == good and is_plain(str(tmp_path / "c.pem"))


def test_a_mark_tells_another_content_and_holds_nothing_of_the_key(own, tmp_path):
    good, key = make_pair()
    certificate = own(good + key, key)
    first = mark_pair(certificate)
    assert mark_pair(certificate, first) is first
    (tmp_path / "c.pem").write_bytes(good + key)  # written anew, the same
    again = mark_pair(certificate, first)
    assert again != first and is_same(again, first)
    (tmp_path / "c.pem").write_bytes(make_pair()[0])
    assert not is_same(mark_pair(certificate, first), first)
    (tmp_path / "c.pem").write_bytes(good)
    assert is_same(mark_pair(certificate, first), first), "the key in that file is not looked at"
    (tmp_path / "new").write_bytes(key)
    (tmp_path / "new").rename(tmp_path / "c.key")
    assert not is_same(mark_pair(certificate, first), first)
    (tmp_path / "c.key").unlink()
    assert not is_same(mark_pair(certificate, first), first)


def test_a_file_that_was_not_touched_is_not_read(own, monkeypatch):
    certificate = own(*make_pair())
    known = mark_pair(certificate)
    monkeypatch.setattr("tsstack.parts.proxy.pem.read_plain", lambda path: pytest.fail(f"{path} was read"))
    assert mark_pair(certificate, known) is known
