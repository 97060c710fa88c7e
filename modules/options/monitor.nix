# The monitor: the file's `monitor` section, and its unit.
{ lib, ... }:
let
  inherit (lib) mkOption types;
  own = import ../types.nix { inherit lib; };

  target = {
    options = {
      icmp = mkOption {
        type = types.nullOr own.addressOrDomain;
        default = null;
        example = "1.1.1.1";
        description = "An address or name to ping.";
      };
      tcp = mkOption {
        type = types.nullOr own.endpoint;
        default = null;
        example = "192.168.15.9:22";
        description = "`host:port` to connect to.";
      };
      https = mkOption {
        type = types.nullOr own.url;
        default = null;
        example = "https://example.org/health";
        description = "A page that must answer 2xx or 3xx.";
      };
      dns = mkOption {
        type = types.nullOr own.domain;
        default = null;
        example = "example.org";
        description = "A name that must resolve.";
      };
    };
  };
in
{
  options.kernelcore.network.monitoring.tailscale = {
    enable = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Watch the links, and fail over.";
    };
    checkInterval = mkOption {
      type = types.either (types.ints.between 1 86400) (own.durationBetween 1 86400);
      default = 30;
      example = 60;
      description = "Pace of targets, peers and reports: seconds, or a duration with its unit.";
    };
    probeInterval = mkOption {
      type = own.durationBetween 0.05 60;
      default = "500ms";
      example = "1s";
      description = "Pace on the path in use and on the next candidate.";
    };
    maxLatency = mkOption {
      type = types.either (types.ints.between 1 60000) (own.durationUpTo 60);
      default = 200;
      example = 300;
      description = "Above this round-trip time a path counts as bad: milliseconds, or a duration with its unit.";
    };
    maxPacketLoss = mkOption {
      type = own.percent;
      default = 5;
      example = 2.5;
      description = "Above this loss a path counts as bad, in percent.";
    };
    failureThreshold = mkOption {
      type = types.ints.between 1 1000;
      default = 3;
      example = 5;
      description = "So many failed probes in a row make a path bad at once.";
    };
    restoreAfter = mkOption {
      type = own.durationBetween 0 604800;
      default = "2m";
      example = "5m";
      description = "So long must a preferred path be healthy before it is used again.";
    };
    enableAutoFailover = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = ''
        Act on a bad path: move along `kernelcore.network.vpn.tailscale.useExitNodes`. Off: only report it. The host goes
        to its bare uplink only where `exitNodeFallback` says so.
      '';
    };
    targets = mkOption {
      type = types.listOf (types.submodule target);
      default = [ ];
      example = [ { icmp = "1.1.1.1"; } { https = "https://example.org/health"; } ];
      description = "Things beyond the path whose answers show that it works; one kind each.";
    };
    alerts = mkOption {
      type = types.listOf own.alert;
      default = [ ];
      example = [ "ntfys://ntfy.example.org/ops" ];
      description = ''
        Addresses that alerts are sent to. They are written to the file, which lies in the Nix store: for an address that
        holds a token take a command of `alertCommands`.
      '';
    };
    alertCommands = mkOption {
      type = types.listOf (own.someOf own.argument);
      default = [ ];
      example = [ [ "/run/current-system/sw/bin/page" "--team" "network" ] ];
      description = "Programs, each with its arguments, that get each alert as JSON on their standard input.";
    };
    metrics = mkOption {
      type = types.nullOr own.listener;
      default = null;
      example = "127.0.0.1:9464";
      description = "`address:port` of the Prometheus endpoint. Not set: none.";
    };
  };
}
