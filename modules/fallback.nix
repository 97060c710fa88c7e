# NixOS's own firewall as a file of zones. It stands wherever tsstack's is not live (`tsstack fallback`): zones
# switch NixOS's off, and a first switch that fails or is not confirmed would leave an open host.
{ lib, config }:
let
  inherit (builtins) attrNames concatMap elem filter genList listToAttrs removeAttrs stringLength substring toString;
  nixos = config.networking.firewall;
  sshd = config.services.openssh or { enable = false; };
  tailnet = "tailscale0";

  span = range: "${toString range.from}-${toString range.to}";
  tcpOf = each: (each.allowedTCPPorts or [ ]) ++ map span (each.allowedTCPPortRanges or [ ]);
  udpOf = each: (each.allowedUDPPorts or [ ]) ++ map span (each.allowedUDPPortRanges or [ ]);
  pattern = (import ./types.nix { inherit lib; }).asPattern;

  interfaces = nixos.interfaces or { };
  trusted = filter (name: name != "lo") (nixos.trustedInterfaces or [ ]);
  trustsAll = elem "+" trusted;
  named = filter (name: !isTrusted name && name != "+") (attrNames ({ ${tailnet} = { }; } // interfaces));
  # As iptables: whatever fits an interface counts, not the closest alone.
  covers = general: name:
    general == name || (lib.hasSuffix "+" general && lib.hasPrefix (lib.removeSuffix "+" general) name);
  of = name: filter (general: covers general name) (attrNames interfaces);
  isTrusted = name: builtins.any (general: covers general name) trusted;
  ports = portsOf: name: concatMap (general: portsOf interfaces.${general}) (of name);
  # Whoever is let into the tailnet and has a key for this host may mend it.
  ssh = name: if name == tailnet && sshd.enable then sshd.ports or [ 22 ] else [ ];

  letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
  every = genList (at: "${substring at 1 letters}*") (stringLength letters);
  special = filter (name: name != "+") trusted;
  taken = map pattern (special ++ named);

  zone = name: members: ports: {
    inherit name;
    value = { interfaces = members; ping = nixos.allowPing or true; } // ports;
  };
  zones = listToAttrs (
    [
      (zone "everywhere" (filter (each: !(elem each taken)) every) (
        if trustsAll then { allow = "all"; }
        else { tcp = lib.unique (tcpOf nixos ++ ports tcpOf "+"); udp = lib.unique (udpOf nixos ++ ports udpOf "+"); }
      ))
    ]
    ++ lib.optional (special != [ ]) (zone "trusted" (map pattern special) { allow = "all"; })
    ++ genList
      (at:
        let name = builtins.elemAt named at; in
        zone "named-${toString (at + 1)}" [ (pattern name) ] {
          tcp = lib.unique (tcpOf nixos ++ ports tcpOf name ++ ssh name);
          udp = lib.unique (udpOf nixos ++ ports udpOf name);
        })
      (builtins.length named)
  );
  names = attrNames zones;
in
{
  host = { name = config.kernelcore.network.vpn.tailscale.hostname; };
  firewall = {
    default_policy = if nixos.rejectPackets or false then "reject" else "drop";
    inherit zones;
    # NixOS's firewall leaves alone what is on its way through this host.
    forward = concatMap (from: map (to: { inherit from to; allow = "all"; }) (attrNames (removeAttrs zones [ from ]))) names;
  };
}
