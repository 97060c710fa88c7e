# Where NixOS's nginx listens, as its module makes it of the virtual hosts, and which of that tsstack's nginx needs.
{ lib, config }:
let
  inherit (builtins) any attrNames attrValues concatMap elem elemAt filter fromJSON head isInt isList match replaceStrings toString;
  inherit (lib) hasPrefix optionals;

  nginx = config.services.nginx;
  proxy = config.kernelcore.network.proxy.nginx-tailscale;

  # Theirs. Without a port a line means 80, unless the address is a socket or holds the port itself.
  line = addr: port:
    let
      bare = match "[0-9]+" addr;
      both = match "(.*[^:]):([0-9]+)" addr;
    in
    if hasPrefix "unix:" addr then [ ]
    else if port != null then [ { inherit addr port; } ]
    else if bare != null then [ { addr = "*"; port = fromJSON addr; } ]
    else if both != null then [ { addr = elemAt both 0; port = fromJSON (elemAt both 1); } ]
    else [ { inherit addr; port = 80; } ];
  listensOf = vhost:
    let
      onlySSL = vhost.onlySSL or false;
      withSSL = onlySSL || any (name: vhost.${name} or false) [ "addSSL" "forceSSL" "rejectSSL" ];
      addresses = if (vhost.listenAddresses or [ ]) != [ ] then vhost.listenAddresses else nginx.defaultListenAddresses or [ "0.0.0.0" "[::0]" ];
      lines = if (nginx.defaultListen or [ ]) != [ ] then nginx.defaultListen else map (addr: { inherit addr; }) addresses;
      portOf = default: each: if (each.port or null) == null then default else each.port;
      both = each:
        optionals (withSSL && (each.ssl or null) != false) (line each.addr (portOf (nginx.defaultSSLListenPort or 443) each))
        ++ optionals (!onlySSL && (each.ssl or null) != true) (line each.addr (portOf (nginx.defaultHTTPListenPort or 80) each));
    in
    if (vhost.listen or [ ]) != [ ] then concatMap (each: line (each.addr or "") (each.port or null)) vhost.listen
    else concatMap both lines;
  # nixpkgs makes a server of its own for it.
  statusPage = optionals (nginx.statusPage or false)
    (map (addr: { inherit addr; port = nginx.defaultHTTPListenPort or 80; about = "statusPage"; }) [ "0.0.0.0" "[::]" ]);
  theirs = statusPage
    ++ concatMap (name: map (each: each // { about = "virtual host ${name}"; }) (listensOf nginx.virtualHosts.${name})) (attrNames (nginx.virtualHosts or { }));

  # Ours: nothing where there is nothing to serve.
  served = filter (each: each.enable && (each.upstreamPort != null || each.upstream != [ ])) (attrValues proxy.services);
  web = filter (each: each.protocol == "http") served;
  streams = filter (each: each.protocol == "tcp") served;
  taken = each: filter isInt (filter (port: port != null) [ each.port each.upstreamPort ] ++ each.upstream);
  first = ports: optionals (ports != [ ]) [ (head ports) ];
  ports =
    (if web == [ ] then [ ]
      else if proxy.names == "port" then filter (port: port != null) (map (each: each.port) web)
      else [ proxy.httpPort ] ++ optionals (proxy.tls != "off" || proxy.certificate != null) [ proxy.httpsPort ])
    ++ concatMap (each: first (taken each)) streams;
  addresses = if isList proxy.listen then proxy.listen else [ proxy.listen ];

  plain = replaceStrings [ "[" "]" ] [ "" "" ];
  isIPv6 = addr: match ".*:.*" addr != null;
  # "tailnet" stands for addresses of both families.
  everywhere = addr: ours:
    (elem addr [ "" "*" "0.0.0.0" ] && !isIPv6 ours) || (match "[0:]*::[0:]*" (plain addr) != null && (ours == "tailnet" || isIPv6 ours));
  collides = each: elem each.port ports && any (ours: ours == "all" || everywhere each.addr ours || plain each.addr == ours) addresses;
in
{
  # As "0.0.0.0:80 (virtual host a)".
  collisions = lib.unique (map (each: "${each.addr}:${toString each.port} (${each.about})") (filter collides theirs));
  # What tsstack's nginx has to be reached at.
  ports = lib.unique ports;
}
