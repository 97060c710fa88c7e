# Which ports the zones open, and whose zone an interface is, as the file says it: for the warnings alone.
{ lib, config }:
let
  inherit (builtins) attrNames concatMap elemAt filter foldl' isInt isList match stringLength;
  inherit (lib) hasPrefix removePrefix;
  known = import ./known.nix;
  own = import ./types.nix { inherit lib; };

  firewall = config.kernelcore.tsstack.file.firewall or { };
  written = firewall.zones or { };
  accepts = (firewall.default_policy or "drop") == "accept";
  list = value: if isList value then value else [ ];

  presetOf = name: written.${name}.preset or name;
  zones = builtins.mapAttrs (name: zone: (known.presets.${presetOf name} or { }) // zone) written;
  interfacesOf = name: list (zones.${name}.interfaces or [ ]);
  sourcesOf = name: list (zones.${name}.sources or [ ]);

  # 443, "443" and "8000-8100" as { from; to; }; anything else is the loader's to refuse.
  span = entry:
    if isInt entry then [ { from = entry; to = entry; } ]
    else let found = own.range entry; in if found == null then [ ] else [ found ];
  portsOf = protocol: service:
    map (removePrefix "${protocol}/")
      (filter (hasPrefix "${protocol}/") (firewall.services.${service} or (known.services.${service} or [ ])));
  openIn = protocol: name:
    let zone = zones.${name}; in
    if (zone.allow or null) == "all" || (accepts && presetOf name != "isolated") then [ { from = 0; to = 65535; } ]
    else concatMap span (list (zone.${protocol} or [ ]) ++ concatMap (portsOf protocol) (list (zone.services or [ ])));
  # Neighbouring ranges may open it together.
  opens = protocol: wanted: name:
    let
      sorted = builtins.sort (left: right: left.from < right.from) (openIn protocol name);
      next = foldl' (at: each: if each.from <= at && at <= each.to then each.to + 1 else at) wanted.from sorted;
    in
    next > wanted.to;

  # As tsstack looks them up: the literal name, then the wildcards, the longest first.
  startOf = pattern: let found = match "(.*)[*]" pattern; in if found == null then null else elemAt found 0;
  takes = interface: pattern: pattern == interface || (startOf pattern != null && hasPrefix (startOf pattern) interface);
  zoneOf = interface:
    let
      fitting = concatMap (name: map (pattern: { inherit name pattern; }) (filter (takes interface) (interfacesOf name))) (attrNames zones);
      closer = left: right: right.pattern == interface || stringLength right.pattern > stringLength left.pattern;
      best = foldl'
        (best: each: if best == null || (best.pattern != interface && closer best each) then each else best)
        null
        fitting;
    in
    if best == null then null else best.name;
in
{
  inherit accepts interfacesOf opens presetOf sourcesOf zoneOf;
  names = filter (name: interfacesOf name != [ ] || sourcesOf name != [ ]) (attrNames zones);
  allows = name: opens "tcp" { from = 1; to = 65535; } name && opens "udp" { from = 1; to = 65535; } name;
  ofTailnet = source:
    match "100[.](6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])[.].*" source != null || hasPrefix "fd7a:115c:a1e0:" source;
}
