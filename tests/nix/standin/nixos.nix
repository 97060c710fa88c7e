# The options of NixOS (and of sops-nix) that the modules read or set, as NixOS 25.11 declares them.
{ withSops ? true, isNewer ? false }:
{ lib, ... }:
let
  inherit (lib) mkOption types;
  of = type: default: mkOption { inherit type default; };
  flag = of types.bool;
in
{
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
      firewall = {
        enable = flag true;
        allowedTCPPorts = of (types.listOf types.port) [ ];
        trustedInterfaces = of (types.listOf types.str) [ ];
        interfaces = of (types.attrsOf types.anything) { };
      };
    };
    boot.kernel.sysctl = of (types.attrsOf types.anything) { };
    services = {
      tailscale = {
        enable = flag false;
        authKeyFile = of (types.nullOr types.path) null;
        extraUpFlags = of (types.listOf types.str) [ ];
        extraSetFlags = of (types.listOf types.str) [ ];
        useRoutingFeatures = of (types.enum [ "none" "client" "server" "both" ]) "none";
        interfaceName = of types.str "tailscale0";
      };
      openssh = {
        enable = flag false;
        ports = of (types.listOf types.port) [ 22 ];
      };
      nginx = {
        enable = flag false;
        appendConfig = of types.lines "";
        defaultListenAddresses = of (types.listOf types.str) [ "0.0.0.0" "[::0]" ];
        defaultHTTPListenPort = of types.port 80;
        defaultSSLListenPort = of types.port 443;
        virtualHosts = of (types.attrsOf types.anything) { };
      };
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
