# Zones: the file's `firewall` section.
{ config, lib, ... }:
let
  inherit (lib) mkOption mkIf mkDefault types literalExpression;
  own = import ../types.nix { inherit lib; };
  cfg = config.kernelcore.network.security.firewall-zones;

  zone = { name, ... }: {
    options = {
      enable = mkOption {
        type = types.bool;
        default = true;
        example = false;
        description = "Have this zone. Switched off, it is not written to the file.";
      };
      preset = mkOption {
        type = types.nullOr (types.enum [ "dmz" "internal" "admin" "isolated" ]);
        default = null;
        example = "internal";
        description = "The preset that it starts from. Not set: that of the zone's own name, if there is one.";
      };
      interfaces = mkOption {
        type = types.nullOr (types.listOf own.interfacePattern);
        default = if name == "dmz" && config.kernelcore.tsstack.uplink != null then [ config.kernelcore.tsstack.uplink ] else null;
        defaultText = literalExpression "for the zone `dmz`: [ config.kernelcore.tsstack.uplink ], if that is set";
        example = [ "tailscale0" "veth*" ];
        description = "Interfaces that belong to the zone.";
      };
      allowedIPs = mkOption {
        type = types.listOf own.network;
        default = [ ];
        example = [ "100.64.0.10" ];
        description = "Source addresses and networks that belong to the zone, by whatever interface they come.";
      };
      allowedTCPPorts = mkOption {
        type = types.nullOr (types.listOf own.ports);
        default = null;
        example = [ 80 443 "8000-8100" ];
        description = "Open TCP ports and ranges. Not set: those of the preset.";
      };
      allowedUDPPorts = mkOption {
        type = types.nullOr (types.listOf own.ports);
        default = null;
        example = [ 443 ];
        description = "Open UDP ports and ranges. Not set: those of the preset.";
      };
      allowedServices = mkOption {
        type = types.nullOr (types.listOf own.key);
        default = null;
        example = [ "ssh" "postgresql" ];
        description = "Open services by name: well-known ones and those of `services`. Not set: those of the preset.";
      };
      allowAllServices = mkOption {
        type = types.nullOr types.bool;
        default = null;
        example = true;
        description = "Open every port. Not set: as the preset says, which for `admin` is yes.";
      };
      allowPing = mkOption {
        type = types.nullOr types.bool;
        default = null;
        example = false;
        description = "Answer echo requests. Not set: as the preset says, else yes.";
      };
      enableLogging = mkOption {
        type = types.nullOr types.bool;
        default = null;
        example = true;
        description = "Log what is dropped. Not set: as the preset says, else as for all zones.";
      };
    };
  };

  passage = {
    options = {
      from = mkOption {
        type = own.key;
        example = "internal";
        description = "The zone that connects.";
      };
      to = mkOption {
        type = own.key;
        example = "dmz";
        description = "The zone that is connected to.";
      };
      allowedServices = mkOption {
        type = types.listOf own.key;
        default = [ ];
        example = [ "https" ];
        description = "Services that may pass.";
      };
      allowedTCPPorts = mkOption {
        type = types.listOf own.ports;
        default = [ ];
        example = [ 8000 ];
        description = "TCP ports that may pass.";
      };
      allowedUDPPorts = mkOption {
        type = types.listOf own.ports;
        default = [ ];
        example = [ 443 ];
        description = "UDP ports that may pass.";
      };
      allowAllServices = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Let everything pass.";
      };
      masquerade = mkOption {
        type = types.bool;
        default = false;
        example = true;
        description = "Hide the sources behind this host's address on the way out.";
      };
    };
  };
in
{
  options.kernelcore.network.security.firewall-zones = {
    enable = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Filter by zones. NixOS's own firewall is then switched off; a configuration that switches it on is refused, since
        a packet has to pass both.
      '';
    };
    defaultPolicy = mkOption {
      type = types.enum [ "drop" "reject" "accept" ];
      default = "drop";
      example = "reject";
      description = "What happens to a new connection that no zone opens. tailscaled's own needs are always accepted.";
    };
    enableLogging = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Log dropped packets, at a limited rate, with the zone's name as prefix.";
    };
    services = mkOption {
      type = types.attrsOf (types.listOf own.servicePorts);
      default = { };
      example = { myapp = [ "tcp/8000" "udp/8000-8010" ]; };
      description = ''
        Services of your own by name, beside the well-known ones. `ollama` (tcp/11434) and `llamacpp` (tcp/8080) are
        there already.
      '';
    };
    zones = mkOption {
      type = types.attrsOf (types.submodule zone);
      default = { };
      example = literalExpression ''{ internal = { interfaces = [ "tailscale0" ]; allowedServices = [ "ssh" ]; }; }'';
      description = ''
        The zones, by name. `dmz`, `internal`, `admin` and `isolated` start from the preset of their name. Without any,
        there is `internal` on tailscale0: SSH and what the proxy serves.
      '';
    };
    forward = mkOption {
      type = types.listOf (types.submodule passage);
      default = [ ];
      example = literalExpression ''[ { from = "internal"; to = "dmz"; allowedServices = [ "https" ]; } ]'';
      description = "What may pass between zones.";
    };
  };

  config = {
    kernelcore.network.security.firewall-zones.services = {
      ollama = mkDefault [ "tcp/11434" ];
      llamacpp = mkDefault [ "tcp/8080" ];
    };
    # Where tsstack is off nothing would stand in its place.
    # Above another module's mkDefault, below what a host says itself.
    networking.firewall = mkIf (cfg.enable && config.kernelcore.tsstack.enable) { enable = lib.mkOverride 900 false; };
  };
}
