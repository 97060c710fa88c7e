# What networking.firewall lets in and no zone does. That firewall is off where zones are on, so it would be lost unsaid.
{ lib, config, opened }:
let
  inherit (builtins) any attrNames concatStringsSep elem elemAt filter isString match toString;
  inherit (lib) optional;
  inherit (opened) accepts allows interfacesOf names ofTailnet opens presetOf sourcesOf zoneOf;

  nixos = config.networking.firewall;
  listed = concatStringsSep ", ";

  # What they open, as { from; to; }. tailscaled's own port and replies of DHCP are always let in.
  wanted = kind: at:
    map (port: { from = port; to = port; }) (at."allowed${kind}Ports" or [ ])
    ++ map (range: { inherit (range) from to; }) (at."allowed${kind}PortRanges" or [ ]);
  always = map (port: { from = port; to = port; }) [ 68 546 (config.services.tailscale.port or 41641) ];
  # `opens` says whether a zone does: protocol -> { from; to; } -> bool.
  closedAt = opens: at:
    let
      tcp = filter (each: !opens "tcp" each) (lib.unique (wanted "TCP" at));
      udp = filter (each: !(elem each always || opens "udp" each)) (lib.unique (wanted "UDP" at));
      said = protocol: found: optional (found != [ ]) "${protocol} ${listed (map shown found)}";
    in
    concatStringsSep " and " (said "TCP" tcp ++ said "UDP" udp);
  shown = each: if each.from == each.to then toString each.from else "${toString each.from}-${toString each.to}";

  # An admin zone opens all to a few machines, which is not what was open to everybody.
  fewOnly = name: presetOf name == "admin" && interfacesOf name == [ ];
  many = filter (name: !fewOnly name) names;
  lost = if accepts then "" else closedAt (protocol: each: any (opens protocol each) many) nixos;

  # iptables writes veth+ for what is veth* elsewhere.
  nameOf = interface:
    let start = match "(.*)[+]" interface; in if start == null then interface else "${elemAt start 0}*";
  mayComeBy = interface: name:
    !fewOnly name && any (source: ofTailnet source == (interface == "tailscale0")) (sourcesOf name);
  opensAt = interface: protocol: each:
    let zone = zoneOf interface; in
    (if zone == null then accepts else opens protocol each zone)
    || any (name: mayComeBy interface name && opens protocol each name) names;
  of = interface: let zone = zoneOf interface; in "${interface} (${if zone == null then "in no zone" else "zone ${zone}"})";
  lostBy = interface:
    let closed = closedAt (opensAt (nameOf interface)) nixos.interfaces.${interface}; in
    optional (closed != "") "${of (nameOf interface)} ${closed}";
  interfaces = builtins.concatMap lostBy (attrNames (nixos.interfaces or { }));

  isWhole = interface: let zone = zoneOf interface; in if zone == null then accepts else allows zone;
  trusted = filter (interface: interface != "lo" && !isWhole interface) (map nameOf (lib.unique (nixos.trustedInterfaces or [ ])));

  # NixOS itself puts the clearing of its NAT chains there, which nat.service does where the firewall is off.
  isNixos = line: match "[[:space:]]*(#.*)?" line != null || match ".*nixos-nat-.*" line != null;
  rules = text: filter (line: isString line && !isNixos line) (builtins.split "\n" text);
  own = filter (name: isString (nixos.${name} or null) && rules nixos.${name} != [ ])
    [ "extraCommands" "extraInputRules" "extraForwardRules" "extraReversePathFilterRules" ]
    ++ optional (nixos.filterForward or false) "filterForward"
    # Releases after 25.11.
    ++ optional (nixos.filterOutput.enabled or false) "filterOutput";
  warn = wrong: message: optional wrong "tsstack: networking.firewall is off in favour of the zones, and ${message}";
in
warn (lost != "") "no zone (but one of admins) opens ${lost}, which it has open."
++ warn (interfaces != [ ])
  "the zones do not open what its `interfaces` have open: ${concatStringsSep "; " interfaces}."
++ warn (trusted != [ ])
  "its trustedInterfaces no longer let in everything: ${listed (map of trusted)}. Set allowAllServices for their zone, or list what it needs."
++ warn (own != [ ]) "its ${listed own} ${if builtins.length own == 1 then "is" else "are"} not applied. What it was for has to be said by zones."
