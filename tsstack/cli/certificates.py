"""`tsstack certificates`: renew what is due, hand out the local CA's root."""

from __future__ import annotations

from pathlib import Path

import click

from tsstack.cli.options import file_option, group_options, json_option, unused_file_option
from tsstack.cli.output import chatter, progress, result, result_json
from tsstack.errors import UsageError
from tsstack.switch.site import Site


@click.group()
@group_options
def certificates() -> None:
    """Certificates of the proxy: renew them, and make clients trust the local CA.

    \b
    Examples:
      tsstack certificates renew
      tsstack certificates root > tsstack.crt
    """


@certificates.command()
@unused_file_option
@json_option
@click.option("--force", is_flag=True, help="Renew all, due or not.")
def renew(as_json: bool, force: bool) -> None:
    """Renew the certificates that are due, and reload nginx once if any was.

    Meant for a daily timer; with nothing due it does nothing.

    \b
    Examples:
      tsstack certificates renew
      tsstack certificates renew --force
    """
    from tsstack.parts.proxy.host import renew as renew_due
    from tsstack.switch.lock import host_lock

    site = Site(report=progress(quiet=as_json))
    with host_lock(site.paths.state, site.clock, wait_s=10.0):
        renewed = renew_due(site.facts(), site.report, force=force)
    if as_json:
        result_json({"renewed": list(renewed)})
    else:
        result("renewed: " + ", ".join(renewed) if renewed else "nothing is due")


@certificates.command()
@file_option
@json_option
def root(file: Path, as_json: bool) -> None:
    """Print the local CA's certificate, for clients to trust.

    \b
    On Debian and Ubuntu:
      tsstack certificates root | ssh CLIENT 'sudo tee /usr/local/share/ca-certificates/tsstack.crt'
      ssh CLIENT sudo update-ca-certificates
    On macOS: security add-trusted-cert -d -k /Library/Keychains/System.keychain FILE
    Firefox has a store of its own: Settings, Certificates, Import.

    \b
    Example:
      tsstack certificates root > tsstack.crt
    """
    from tsstack.parts.proxy.host import root_certificate
    from tsstack.switch.intent import load

    site = Site()
    live = site.store.current()
    source = site.store.path(live) / "source.yaml" if live else file
    loaded, _ = load(source, None)
    if loaded.stack.host.tailnet is None:
        raise UsageError("host.tailnet is not set: there is no local CA", hint=f"see {source}")
    pem = root_certificate(site.facts(), loaded.stack.host.tailnet)
    if as_json:
        result_json({"root": pem})
        return
    click.echo(pem, nl=False)
    chatter("clients install this once; `tsstack certificates root --help` says where")
