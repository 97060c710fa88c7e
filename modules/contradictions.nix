# What cannot be meant, told before anything is built. Contradictions inside of the file are tsstack's to find
# (`tsstack check`); here stand those that only Nix sees: two options with one meaning, and NixOS's own modules.
{ lib, config, options }:
let
  inherit (builtins) any all attrNames attrValues concatStringsSep elem filter isString match toString;
  inherit (lib) optional optionals hasPrefix;

  network = config.kernelcore.network;
  vpn = network.vpn.tailscale;
  proxy = network.proxy.nginx-tailscale;
  zones = network.security.firewall-zones;
  inherit (network) tuning;
  secrets = config.kernelcore.secrets.tailscale;
  own = config.kernelcore.tsstack;

  daemon = config.services.tailscale;
  nginx = config.services.nginx;
  nixos = config.networking.firewall;
  sysctl = config.boot.kernel.sysctl;

  refuse = wrong: message: { assertion = !wrong; message = "tsstack: ${message}"; };
  warn = wrong: message: optional wrong "tsstack: ${message}";
  named = predicate: set: filter (name: predicate set.${name}) (attrNames set);
  listed = concatStringsSep ", ";
  inStore = path: path != null && hasPrefix builtins.storeDir (toString path);

  types = import ./types.nix { inherit lib; };
  misnamed = good: set: filter (name: !good name) (attrNames set);
  misnamedKeys = misnamed types.isKey proxy.services ++ misnamed types.isKey zones.zones ++ misnamed types.isKey zones.services;
  misnamedLimits = misnamed types.isInterface network.bandwidth;

  domains = lib.unique (filter (each: each != null) [ proxy.tailnetDomain network.proxy.tailscale-services.tailnetDomain ]);
  # As tsstack asks the file (parts/kernel/desired.py), `settings` and all.
  advertised = own.file.tailscale.advertise or { };
  routes = (advertised.exit_node or false) || (advertised.routes or [ ]) != [ ] || (own.file.firewall.forward or [ ]) != [ ];
  # What arrives then comes by another way than its answer goes, in the eyes of a strict reverse path filter.
  isClient = own.file ? tailscale.exit_node || (own.file.tailscale.accept_routes or false);
  live = lib.filterAttrs (_: zone: zone.enable) zones.zones;
  presetOf = name: if live.${name}.preset != null then live.${name}.preset else name;

  # networking.nat only changes addresses: what may pass is for the filter to say.
  nat = config.networking.nat;
  fromOf = map (rule: rule.from) zones.forward;
  same = interface: pattern: interface == pattern || builtins.replaceStrings [ "*" ] [ "+" ] pattern == interface;
  isForwarded = interface: any
    (name: elem name fromOf && any (same interface) (if live.${name}.interfaces == null then [ ] else live.${name}.interfaces))
    (attrNames live);
  unforwarded = if !nat.enable then [ ] else
    filter (interface: interface != "tailscale0" && !isForwarded interface) (nat.internalInterfaces or [ ])
    ++ optionals (zones.forward == [ ]) (nat.internalIPs or [ ]);

  # boot.kernel.sysctl takes booleans too, and null for "leave it".
  asText = value: if value == true then "1" else if value == false then "0" else toString value;
  # sysctl(8): the first separator decides; after a slash, dots belong to a name.
  dotted = name:
    if match "[^./]*/.*" name == null then name
    else builtins.replaceStrings [ "." "/" ] [ "/" "." ] name;
  # What boot.kernel.sysctl says of a parameter, by whichever spelling.
  saidOf = name: map (each: asText sysctl.${each})
    (filter (each: sysctl.${each} != null && dotted each == dotted name) (attrNames sysctl));
  disputed = filter (name: any (said: said != asText tuning.sysctl.${name}) (saidOf name)) (attrNames tuning.sysctl);
  stopped = filter (name: elem "0" (saidOf name))
    [ "net.ipv4.ip_forward" "net.ipv4.conf.all.forwarding" "net.ipv6.conf.all.forwarding" ];

  collides = (import ./listens.nix { inherit lib config; }).collisions;

  # A key in the store is everybody's to read. tsstack.yaml may name one too, by `settings`.
  keyFiles = filter (path: path != null) [
    secrets.ageKeyFile
    (own.settings.tailscale.auth_key.file or null)
  ];
  # Sections whose options do more than write the file: NixOS's own module gives way, or a unit runs.
  unasked = filter (each: own.settings ? ${each.section} && !each.asked) [
    { section = "tailscale"; asked = vpn.enable; option = "vpn.tailscale.enable"; }
    { section = "proxy"; asked = proxy.enable; option = "proxy.nginx-tailscale.enable"; }
    { section = "firewall"; asked = zones.enable; option = "security.firewall-zones.enable"; }
    { section = "monitor"; asked = network.monitoring.tailscale.enable; option = "monitoring.tailscale.enable"; }
  ];

  wholeTailnet = [ "100.64.0.0/10" "fd7a:115c:a1e0::/48" "0.0.0.0/0" "::/0" ];
  tooWide = filter
    (name: presetOf name == "admin"
      && (any (source: elem source wholeTailnet) live.${name}.allowedIPs
        || elem "tailscale0" (if live.${name}.interfaces == null then [ ] else live.${name}.interfaces)))
    (attrNames live);

  opened = import ./opened.nix { inherit lib config; };
  lost = import ./lost.nix { inherit lib config opened; };

  # What NixOS's firewall takes and the fallback (fallback.nix) cannot say.
  firewallNames = attrNames (nixos.interfaces or { }) ++ (nixos.trustedInterfaces or [ ]);
  oddNames = filter (name: name != "+" && !types.isInterfacePattern (types.asPattern name)) firewallNames;
  patterns = map types.asPattern (attrNames (nixos.interfaces or { }));
  twice = lib.unique (filter (each: builtins.length (filter (other: other == each) patterns) > 1) patterns);
  portsOf = each: (each.allowedTCPPorts or [ ]) ++ (each.allowedUDPPorts or [ ])
    ++ map (range: range.from) ((each.allowedTCPPortRanges or [ ]) ++ (each.allowedUDPPortRanges or [ ]));
  opensZero = any (each: elem 0 (portsOf each)) ([ nixos ] ++ attrValues (nixos.interfaces or { }));

  # Whoever works on this host by another network than the tailnet would be locked out by zones that only know that.
  beyondTailnet = zone:
    any (interface: interface != "tailscale0") (if zone.interfaces == null then [ ] else zone.interfaces)
    || any (source: !opened.ofTailnet source) zone.allowedIPs;
  sshd = config.services.openssh or { enable = false; };
  opensSsh = name: any (port: opened.opens "tcp" { from = port; to = port; } name) (sshd.ports or [ 22 ]);
  unwatched = zones.enable && sshd.enable && own.confirm == null
    && !any (name: presetOf name == "admin" && live.${name}.allowedIPs != [ ]) (attrNames live);
  sshFromTailnetAlone = unwatched && !any (name: beyondTailnet live.${name} && opensSsh name) (attrNames live);
  # Where SSH came in until now, as NixOS's firewall has it, and a zone elsewhere that opens it is no help.
  uplinkZone = if own.uplink == null then null else opened.zoneOf own.uplink;
  sshShutAtUplink = unwatched && !sshFromTailnetAlone && own.switchOnActivation && own.uplink != null
    && any (port: elem port nixos.allowedTCPPorts) (sshd.ports or [ 22 ])
    && (uplinkZone == null || !opensSsh uplinkZone) && !opened.accepts;

  tailnetPorts = nixos.interfaces.tailscale0.allowedTCPPorts or [ ];
  proxyClosed = proxy.enable && !zones.enable && nixos.enable
    && !(elem "tailscale0" (nixos.trustedInterfaces or [ ]))
    && !(any (port: elem port (tailnetPorts ++ nixos.allowedTCPPorts)) [ proxy.httpPort proxy.httpsPort ]);

  # The secret cannot depend on authKeyFile, which is usually that secret's own path: Nix would go round.
  decrypted = config.sops.secrets."tailscale-authkey".path or null;
  keyElsewhere = vpn.enable && vpn.useAuthKeyFile && vpn.authKeyFile != null && secrets.enable
    && secrets.backend == "sops-nix" && decrypted != null && decrypted != toString vpn.authKeyFile;

  # Read only where it is written: newer releases of NixOS declare it as removed, and then reading it fails.
  extraConfig = options.services.resolved.extraConfig or { isDefined = false; };
  resolved = if extraConfig.isDefined then config.services.resolved.extraConfig else "";
  # tailscaled answers for what it is told to ask itself (docs/dns.md); all else is routed by systemd-resolved.
  isTailscaled = servers: vpn.enable && vpn.acceptDNS && servers == [ "100.100.100.100" ];
  unrouted = if config.services.resolved.enable or false then [ ] else named (servers: !isTailscaled servers) network.dns.split;
  mode = (config.systemd.services.tailscaled or { }).environment.TS_DEBUG_FIREWALL_MODE or null;

  noUpstream = named (each: each.enable && each.upstreamPort == null && each.upstream == [ ]) proxy.services;
  bothUpstreams = named (each: each.upstreamPort != null && each.upstream != [ ]) proxy.services;
  nobody = named (each: each.enable && each.enableAuth && each.allow == [ ] && proxy.allowedUsers == [ ]) proxy.services;
  noLimit = named (each: each.egress == null && each.ingress == null) network.bandwidth;
  kinds = target: builtins.length (filter (kind: target.${kind} != null) [ "icmp" "tcp" "https" "dns" ]);
  closedAdmins = filter (name: live.${name}.allowAllServices == false && presetOf name == "admin") (attrNames live);
  empty = filter (name: (live.${name}.interfaces == null || live.${name}.interfaces == [ ]) && live.${name}.allowedIPs == [ ]) (attrNames live);
in
{
  inherit routes isClient;
  # By either name, which are one parameter.
  forwards = routes || any (name: elem (dotted name) [ "net.ipv4.ip_forward" "net.ipv4.conf.all.forwarding" ]) (attrNames tuning.sysctl);

  assertions =
    [
      (refuse (vpn.hostname == "") "the host has no name; set networking.hostName or kernelcore.network.vpn.tailscale.hostname.")
      (refuse (proxy.hostname != vpn.hostname)
        "the proxy's hostname is ${proxy.hostname}, that of the VPN ${vpn.hostname}; a host has one name on its tailnet. Set kernelcore.network.vpn.tailscale.hostname alone.")
      (refuse (builtins.length domains > 1) "two names for one tailnet: ${listed domains}.")
      (refuse (misnamedKeys != [ ])
        "${listed misnamedKeys}: services and zones are named by a letter, then lower-case letters, digits, - and _ (31 at most).")
      (refuse (misnamedLimits != [ ]) "kernelcore.network.bandwidth: ${listed misnamedLimits} is no name of an interface.")
      (refuse (any inStore keyFiles)
        "${listed (map toString (filter inStore keyFiles))} lies in the Nix store, which everybody can read; name a file on the host.")
      (refuse (unasked != [ ])
        "kernelcore.tsstack.settings has ${listed (map (each: each.section) unasked)}, which needs more of NixOS than the file: set ${listed (map (each: "kernelcore.network.${each.option}") unasked)} too.")
      (refuse (noLimit != [ ]) "kernelcore.network.bandwidth: ${listed noLimit} has no limit; set egress, ingress or both.")
      (refuse (disputed != [ ])
        "boot.kernel.sysctl and kernelcore.network.tuning.sysctl disagree about ${listed disputed}; write each in one of them.")
    ]
    ++ optionals vpn.enable [
      (refuse (vpn.exitNode && vpn.useExitNodes != [ ])
        "exitNode offers this host as an exit node while useExitNodes sends its own traffic through another; tailscaled refuses both at once. Keep one.")
      (refuse (elem vpn.hostname vpn.useExitNodes) "useExitNodes names this host itself.")
      (refuse (vpn.enableMagicDNS != vpn.acceptDNS)
        "enableMagicDNS and acceptDNS differ; a node takes all of the tailnet's DNS or none. MagicDNS itself is set at the control server.")
      (refuse (vpn.enableSubnetRouter && vpn.advertiseRoutes == [ ]) "enableSubnetRouter is set, and advertiseRoutes is empty.")
      (refuse (inStore vpn.authKeyFile)
        "authKeyFile lies in the Nix store, which everybody can read; name a file on the host, as sops-nix gives it.")
      (refuse (secrets.enable && secrets.backend == "sops-nix" && !(config ? sops))
        "kernelcore.secrets.tailscale.backend is sops-nix, which is not imported.")
      (refuse ((daemon.authKeyFile or null) != null)
        "services.tailscale.authKeyFile would enrol the host a second time; use kernelcore.network.vpn.tailscale.authKeyFile.")
      (refuse ((daemon.extraUpFlags or [ ]) != [ ] || (daemon.extraSetFlags or [ ]) != [ ])
        "services.tailscale.extraUpFlags and extraSetFlags would change what tsstack sets; write the options of kernelcore.network.vpn.tailscale.")
      (refuse ((daemon.useRoutingFeatures or "none") != "none")
        "services.tailscale.useRoutingFeatures sets forwarding and networking.firewall.checkReversePath, as these modules do of what the host offers and uses; leave it at \"none\".")
      (refuse ((daemon.interfaceName or "tailscale0") != "tailscale0")
        "services.tailscale.interfaceName must be tailscale0, where zones and the proxy expect the tailnet.")
    ]
    ++ optionals routes [
      (refuse (stopped != [ ]) "this host forwards packets (advertiseRoutes, exitNode or firewall-zones.forward), and boot.kernel.sysctl switches off ${listed stopped}.")
    ]
    ++ optionals proxy.enable [
      (refuse (proxy.tailnetDomain == null) "the proxy needs the tailnet's name; set kernelcore.network.proxy.nginx-tailscale.tailnetDomain.")
      (refuse (noUpstream != [ ]) "kernelcore.network.proxy.nginx-tailscale.services: ${listed noUpstream} has neither upstreamPort nor upstream.")
      (refuse (bothUpstreams != [ ])
        "kernelcore.network.proxy.nginx-tailscale.services: ${listed bothUpstreams} has both upstreamPort and upstream; write the port as an entry of upstream.")
      (refuse ((proxy.certificate == null) != (proxy.certificateKey == null)) "certificate and certificateKey belong together.")
      (refuse (inStore proxy.certificateKey) "certificateKey lies in the Nix store, which everybody can read; name a file on the host.")
      (refuse (nginx.enable && collides != [ ])
        "services.nginx listens on ${listed collides}, where tsstack's nginx has to listen. Set services.nginx.defaultListenAddresses (and the listen of each virtual host) to the host's other addresses, or other ports here.")
    ]
    ++ optionals zones.enable [
      (refuse nixos.enable
        "networking.firewall.enable is set beside kernelcore.network.security.firewall-zones; a packet would have to pass both. Take one of them out.")
      (refuse (config.services.firewalld.enable or false)
        "services.firewalld is enabled beside kernelcore.network.security.firewall-zones; a packet would have to pass both. Take one of them out.")
      (refuse (config.networking.nftables.enable && (config.networking.nftables.flushRuleset or true))
        "networking.nftables.flushRuleset removes tsstack's table (and tailscaled's rules) with each reload; set it to false.")
      (refuse (oddNames != [ ])
        "networking.firewall names the interface ${listed oddNames}; what it lets in holds while no generation of tsstack's is live, which needs names like eth0 or veth+. Write each interface by itself.")
      (refuse (twice != [ ]) "networking.firewall.interfaces names ${listed twice} in two ways (veth+ and veth*); keep one.")
      (refuse opensZero "networking.firewall opens port 0, which no packet can be sent to; take it out.")
      (refuse (zones.zones != { } && live == { })
        "firewall-zones is enabled and all of its zones are switched off, which would close everything; take it off, or enable a zone.")
      (refuse (closedAdmins != [ ])
        "zone ${listed closedAdmins} says allowAllServices = false, but starts from the preset admin, which opens everything. Give it another preset or name.")
    ]
    ++ optionals network.monitoring.tailscale.enable [
      (refuse (!all (target: kinds target == 1) network.monitoring.tailscale.targets)
        "each of kernelcore.network.monitoring.tailscale.targets needs exactly one of icmp, tcp, https, dns.")
    ];

  warnings =
    warn (vpn.enable && vpn.exitNodeAllowLANAccess && vpn.useExitNodes == [ ])
      "exitNodeAllowLANAccess means nothing without useExitNodes: it is about the exit node that a host uses, not the one that it is."
    ++ warn (zones.enable && tooWide != [ ])
      "zone ${listed tooWide} is an admin zone that takes in the whole tailnet. `tsstack check` refuses that (TS205): list the operators' own machines, or give the zone another name if everybody shall have every port."
    ++ warn (zones.enable && empty != [ ])
      "zone ${listed empty} has neither interfaces nor allowedIPs, so nothing falls into it${lib.optionalString (elem "dmz" empty) "; for dmz set kernelcore.tsstack.uplink, or its interfaces"}."
    ++ optionals zones.enable lost
    ++ warn (zones.enable && unforwarded != [ ])
      "networking.nat is enabled, and what it hides is dropped: only firewall-zones.forward lets packets through this host, and no rule of it begins in a zone of ${listed unforwarded}. Write forward = [ { from = ...; to = ...; allowAllServices = true; masquerade = true; } ], and take networking.nat out."
    ++ warn (zones.enable && nat.enable && (nat.forwardPorts or [ ]) != [ ])
      "networking.nat.forwardPorts leads connections through this host, which only firewall-zones.forward lets pass: add a rule for each port, to the zone of the machine that answers."
    ++ warn sshFromTailnetAlone
      "SSH is let in from the tailnet alone, and no admin zone names a machine that every switch must go on letting in. If you work on this host by another network, open ssh to it or set kernelcore.tsstack.confirm."
    ++ warn sshShutAtUplink
      "SSH is closed on the uplink ${own.uplink}, where networking.firewall had it open, and no admin zone names a machine that every switch must go on letting in. If you work on this host by it, open ssh there; else say so by an admin zone or kernelcore.tsstack.confirm."
    ++ warn proxyClosed
      "networking.firewall lets nobody reach the proxy. Add networking.firewall.interfaces.tailscale0.allowedTCPPorts = [ ${toString proxy.httpPort} ${toString proxy.httpsPort} ], or enable kernelcore.network.security.firewall-zones."
    ++ warn keyElsewhere
      "authKeyFile is ${toString vpn.authKeyFile}, and sops-nix decrypts tailscale-authkey all the same, which then has to be in its file. Set kernelcore.secrets.tailscale.enable = false."
    ++ warn (proxy.enable && nobody != [ ])
      "${listed nobody} asks who the client is, and nobody is let in: set its allow, or kernelcore.network.proxy.nginx-tailscale.allowedUsers."
    ++ warn (proxy.enable && !nginx.enable && (nginx.appendConfig or "") != "")
      "services.nginx.appendConfig is for NixOS's nginx, which is off. tsstack's has one worker per processor, 65535 files each and epoll already; kernelcore.network.proxy.nginx-tailscale.workerConnections sets the rest."
    ++ warn (proxy.enable && nginx.enable && any (text: match ".*(^|[^a-z_])listen[[:space:]].*" (builtins.replaceStrings [ "\n" ] [ " " ] text) != null) [ (nginx.appendHttpConfig or "") (nginx.streamConfig or "") (nginx.httpConfig or "") ])
      "services.nginx has servers written by hand (httpConfig, appendHttpConfig, streamConfig), where nobody looks for what tsstack's nginx has to listen on; `tsstack switch` refuses what is taken."
    ++ warn (network.dns.split != { } && isString resolved && match ".*(DNS|Domains)=.*" (builtins.replaceStrings [ "\n" ] [ " " ] resolved) != null)
      "services.resolved.extraConfig names DNS servers for the whole host beside kernelcore.network.dns.split, and may be asked instead of it."
    ++ warn (unrouted != [ ])
      "kernelcore.network.dns.split: names below ${listed unrouted} are not asked there, since systemd-resolved is off. Set services.resolved.enable, or add them to the tailnet's split DNS."
    ++ warn (mode != null && !(elem mode [ "auto" "nftables" "iptables" ]))
      "TS_DEBUG_FIREWALL_MODE is ${toString mode}, which tailscaled does not know; it takes auto, nftables or iptables.";
}
