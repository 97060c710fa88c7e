"""What a client could send to be taken for somebody else: every header that docs/proxy.md lists. Pure."""

from __future__ import annotations

from tsstack.prove.questions import LIE, LIE_ADDRESS

_REMOVED = """
Tailscale-User-Login Tailscale-User-Name Tailscale-User-Profile-Pic Tailscale-Headers-Info
Tailscale-App-Capabilities Tailscale-Funnel-Request Tailscale-Ingress-Src Tailscale-Ingress-Target
Tailscale-Cap Tailscale-Login Tailscale-User Tailscale-Name Tailscale-Profile-Picture Tailscale-Tailnet
Tailscale-Node Tailscale-Tags X-Tailscale-User-Login X-Tailscale-User-Name X-Tailscale-User-Email
X-Tailscale-User-Picture X-Tailscale-User-Profile-Pic X-Tailscale-Login X-Tailscale-Profile-Picture
X-Tailscale-Tailnet X-Tailscale-Headers-Info X-Tailscale-App-Capabilities X-Tailscale-User-ID
X-Tailscale-User-LoginName X-Tailscale-User-LoginName-Localpart X-Tailscale-User-LoginName-Domain
X-Tailscale-User-DisplayName X-Tailscale-User-ProfilePicURL X-Tailscale-Caps X-Tailscale-Addresses
X-Tailscale-WhoIs X-Tailscale-Node-ID X-Tailscale-Node-Name X-Tailscale-Node-Caps X-Tailscale-Node-Tags
X-Tailscale-Node-User X-Tailscale-Node-Hostname X-Tailscale-Node-OS X-Tailscale-Node-Online
X-Tailscale-Node-Expired X-Tailscale-Node-Addresses X-Tsdproxy-ID X-Tsdproxy-Username
X-Tsdproxy-Displayname X-Tsdproxy-Profilepicurl X-Tsdproxy-Auth-Token Forwarded X-Forwarded-User
X-Forwarded-Email X-Forwarded-Groups X-Forwarded-Preferred-Username X-Forwarded-Access-Token
X-Auth-Request-User X-Auth-Request-Email X-Auth-Request-Groups X-Auth-Request-Preferred-Username
X-Auth-Request-Access-Token X-Webauth-User X-Webauth-Name X-Webauth-Email X-Webauth-Groups
X-Webauth-Login X-Webauth-Role Remote-User Remote-Name Remote-Email Remote-Groups X-Remote-User
X-Remote-Name X-Remote-Email X-Remote-Group X-Remote-Groups X-Auth-User X-Auth-Email
X-Authenticated-User X-User X-User-Email X-Authentik-Username X-Authentik-Groups
X-Authentik-Entitlements X-Authentik-Email X-Authentik-Name X-Authentik-Uid X-Authentik-Jwt
Cf-Access-Authenticated-User-Email Cf-Access-Jwt-Assertion X-Goog-Authenticated-User-Email
X-Goog-Authenticated-User-ID X-Goog-Iap-Jwt-Assertion X-Pomerium-Jwt-Assertion X-Pomerium-Claim-Email
"""
REMOVED = tuple(_REMOVED.split())
"""Headers that no upstream gets to see as a client wrote them."""

_OURS = """
X-Tailscale-User X-Tailscale-Name X-Tailscale-Node X-Tailscale-Tags
X-Real-IP X-Forwarded-For X-Forwarded-Proto X-Forwarded-Host X-Forwarded-Port X-Forwarded-Prefix
"""
OURS = tuple(_OURS.split())
"""Headers that an upstream believes nginx in."""


_ADDRESSES = {"X-Real-IP", "X-Forwarded-For"}
_SPELLED = [*REMOVED, *OURS, "Remote_User", *(name.replace("-", "_") for name in OURS)]
FORGED = "".join(f"{name}: {LIE_ADDRESS if name in _ADDRESSES else LIE}\r\n" for name in _SPELLED)
"""All of them as a client sends them, some with `_`, which is the same as `-` behind CGI."""
