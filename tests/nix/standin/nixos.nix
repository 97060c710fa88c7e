# The options of NixOS (and of sops-nix) that the modules read or set, as NixOS 25.11 declares them.
{ withSops ? true, isNewer ? false }:
{ lib, ... }:
let
  inherit (lib) mkOption types;
  of = type: default: mkOption { inherit type default; };
  flag = of types.bool;
  listOf = type: of (types.listOf type) [ ];
  submodule = options: types.submodule { inherit options; };
  ranges = listOf (submodule { from = mkOption { type = types.port; }; to = mkOption { type = types.port; }; });
  ports = {
    allowedTCPPorts = listOf types.port;
    allowedTCPPortRanges = ranges;
    allowedUDPPorts = listOf types.port;
    allowedUDPPortRanges = ranges;
  };
  listen = ssl: listOf (submodule {
    addr = mkOption { type = types.str; };
    port = of (types.nullOr types.port) null;
    proxyProtocol = flag false;
    extraParameters = listOf types.str;
    inherit ssl;
  });
  vhost = submodule {
    listen = listen (flag false);
    listenAddresses = listOf types.str;
    onlySSL = flag false;
    addSSL = flag false;
    forceSSL = flag false;
    rejectSSL = flag false;
    locations = of (types.attrsOf types.anything) { };
  };
in
{
  # NixOS's own default, for which all interfaces are asked (tasks/network-interfaces.nix).
  config.networking.firewall.extraCommands = "iptables -w -t nat -F nixos-nat-pre 2>/dev/null || true\n";
  config.boot.kernel.sysctl."net.ipv4.conf.all.forwarding" = lib.mkDefault false;

  options = {
    assertions = of (types.listOf types.anything) [ ];
    warnings = of (types.listOf types.str) [ ];
    environment.etc = of (types.attrsOf types.anything) { };
    environment.systemPackages = of (types.listOf types.anything) [ ];
    systemd.packages = of (types.listOf types.anything) [ ];
    systemd.services = of (types.attrsOf types.anything) { };
    systemd.paths = of (types.attrsOf types.anything) { };
    systemd.sockets = of (types.attrsOf types.anything) { };
    systemd.timers = of (types.attrsOf types.anything) { };
    networking = {
      hostName = of types.str "nixos";
      nftables = {
        enable = flag false;
        flushRuleset = flag false;
      };
      nat = {
        enable = flag false;
        internalInterfaces = listOf types.str;
        internalIPs = listOf types.str;
        forwardPorts = listOf types.anything;
      };
      firewall = ports // {
        enable = flag true;
        allowPing = flag true;
        rejectPackets = flag false;
        checkReversePath = of (types.either types.bool (types.enum [ "strict" "loose" ])) true;
        trustedInterfaces = listOf types.str;
        interfaces = of (types.attrsOf (submodule ports)) { };
        extraCommands = of types.lines "";
        filterForward = flag false;
        # Releases after 25.11.
        filterOutput = of (submodule { enabled = flag false; }) { };
        extraInputRules = of types.lines "";
        extraForwardRules = of types.lines "";
        extraReversePathFilterRules = of types.lines "";
      };
    };
    boot.kernel.sysctl = of (types.attrsOf types.anything) { };
    specialisation = of (types.attrsOf types.anything) { };
    services = {
      tailscale = {
        enable = flag false;
        authKeyFile = of (types.nullOr types.path) null;
        extraUpFlags = of (types.listOf types.str) [ ];
        extraSetFlags = of (types.listOf types.str) [ ];
        useRoutingFeatures = of (types.enum [ "none" "client" "server" "both" ]) "none";
        interfaceName = of types.str "tailscale0";
        port = of types.port 41641;
      };
      openssh = {
        enable = flag false;
        ports = of (types.listOf types.port) [ 22 ];
      };
      nginx = {
        enable = flag false;
        appendConfig = of types.lines "";
        appendHttpConfig = of types.lines "";
        httpConfig = of types.lines "";
        streamConfig = of types.lines "";
        statusPage = flag false;
        defaultListenAddresses = of (types.listOf types.str) [ "0.0.0.0" "[::0]" ];
        defaultHTTPListenPort = of types.port 80;
        defaultSSLListenPort = of types.port 443;
        defaultListen = listen (of (types.nullOr types.bool) null);
        virtualHosts = of (types.attrsOf vhost) { };
      };
      logrotate.settings = of (types.attrsOf types.anything) { };
      firewalld.enable = flag false;
      resolved.enable = flag false;
      # Newer releases declare it as removed: it is there, and reading it fails.
      resolved.extraConfig = if isNewer then mkOption { type = types.lines; } else of types.lines "";
    };
  } // lib.optionalAttrs withSops {
    sops = {
      defaultSopsFile = mkOption { type = types.path; };
      secrets = of
        (types.attrsOf (types.submodule ({ name, ... }: {
          options = {
            key = of types.str name;
            path = of types.str "/run/secrets/${name}";
            sopsFile = of types.path "/etc/nixos/secrets/default.yaml";
          };
        })))
        { };
    };
  };
}
