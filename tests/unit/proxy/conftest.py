"""Stacks from YAML and the facts of some machines."""

from __future__ import annotations

from pathlib import Path

import pytest
from proxy_machines import ADDRESSES, DEBIAN_12
from ruamel.yaml import YAML

from tsstack import assets
from tsstack.model.facts import Facts, TailscaleFacts
from tsstack.model.stack import Stack
from tsstack.parts.proxy.desired import render_proxy


@pytest.fixture
def load():
    return lambda text: Stack.model_validate(YAML(typ="safe").load(text))


@pytest.fixture
def facts():
    def make(nginx=DEBIAN_12, addresses=ADDRESSES, **more):
        tailscale = TailscaleFacts((1, 102, 3), "Running", addresses) if addresses else None
        return Facts(nginx=nginx, tailscale=tailscale, **more)

    return make


@pytest.fixture
def render(load, facts):
    def rendered(text, known=None):
        return render_proxy(load(text), known or facts(), assets.folder("templates") / "nginx")

    return rendered


@pytest.fixture
def golden():
    return Path(__file__).parents[2] / "golden" / "proxy"
