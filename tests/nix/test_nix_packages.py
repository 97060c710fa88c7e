"""Which packages the modules take: from a nixpkgs that has them, has them not, or throws at their names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from nix_engine import MODULES, PROJECT, Case, answers, refusal
from option_cases import HOST

_HTTP3 = (
    "kernelcore.network.proxy.nginx-tailscale = "
    '{ enable = true; tailnetDomain = "t.ts.net"; enableHTTP3 = true; };'
)
_ON = "kernelcore.tsstack.enable = true;"
_OTHER = (
    "{ pkgs, ... }: { kernelcore.tsstack.enable = true;"
    " kernelcore.network.proxy.nginx-tailscale.package = pkgs.nginxMainline; }"
)
_CASES = [
    Case("overlay", f"{{ {HOST} {_HTTP3} }}"),
    Case("no-overlay", f"{{ {HOST} {_ON} }}", missing=("tsstack",)),
    Case("no-overlay-other-nginx", _OTHER, missing=("tsstack",)),
    Case("alias-of-tsstack", f"{{ {HOST} {_ON} }}", throwing=("tsstack",)),
    Case("alias-of-nginx", f"{{ {HOST} {_HTTP3} }}", throwing=("nginxQuic",)),
    Case("no-nginx-quic", f"{{ {HOST} {_HTTP3} }}", missing=("nginxQuic",)),
]


@pytest.fixture(scope="session")
def evaluated(library: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return answers(library, _CASES, tmp_path_factory.mktemp("packages"))


def taken(answer: dict[str, Any]) -> tuple[str, str]:
    """The names of the package and of its nginx."""
    assert not answer["thrown"]
    return answer["package"], answer["nginx"]


def test_tsstack_of_an_overlay_comes_first(evaluated: dict[str, dict[str, Any]]) -> None:
    assert taken(evaluated["overlay"]) == ("tsstack", "nginx-quic")


def test_without_an_overlay_the_modules_bring_the_package(evaluated: dict[str, dict[str, Any]]) -> None:
    own = f"tsstack-{PROJECT['version']}"
    assert taken(evaluated["no-overlay"]) == (own, "nginx")
    assert taken(evaluated["alias-of-tsstack"]) == (own, "nginx")
    assert taken(evaluated["no-overlay-other-nginx"]) == (own, "nginx-mainline")


def test_modules_without_their_source_say_what_is_missing(library: str, tmp_path: Path) -> None:
    """The `modules` folder alone, beside a project of somebody else's."""
    shutil.copytree(MODULES, tmp_path / "modules")
    for other in (None, '[project]\nname = "other"\n', "[tool.ruff]\n"):
        if other:
            (tmp_path / "pyproject.toml").write_text(other)
        said = refusal(library, _CASES[1], tmp_path, tmp_path / "modules")
        assert "kernelcore.tsstack.package" in said
        assert "rest of tsstack's checkout" in said
        assert refusal(library, _CASES[0], tmp_path, tmp_path / "modules") == ""


def test_an_nginx_of_its_own_for_http3_is_taken_where_there_is_one(
    evaluated: dict[str, dict[str, Any]],
) -> None:
    """Newer releases of nixpkgs have HTTP/3 in every nginx, and an alias that throws."""
    for name in ("alias-of-nginx", "no-nginx-quic"):
        assert taken(evaluated[name]) == ("tsstack", "nginx")
