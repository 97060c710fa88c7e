# The whole stack by one switch: VPN, proxy and ready-made services.
{ config, lib, ... }:
let
  inherit (lib) mkOption mkIf mkDefault types;
  own = import ../types.nix { inherit lib; };
  cfg = config.kernelcore.network.proxy.tailscale-services;

  readyMade = {
    ollama = {
      upstreamPort = 11434;
      buffering = false;
    };
    llamacpp = {
      upstreamPort = 8080;
      subdomain = "llama";
      buffering = false;
    };
    db = {
      upstreamPort = 5432;
      protocol = "tcp";
    };
  };
  served = config.kernelcore.network.proxy.nginx-tailscale.services;
  chosen = lib.filterAttrs (name: _: builtins.elem name cfg.services) readyMade;
in
{
  options.kernelcore.network.proxy.tailscale-services = {
    enable = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Join the tailnet and serve the ready-made services of `services` to it.";
    };
    tailnetDomain = mkOption {
      type = types.nullOr own.domain;
      default = null;
      example = "your-tailnet.ts.net";
      description = "The MagicDNS suffix, as `tailscale status` ends its names (Headscale: its `base_domain`).";
    };
    services = mkOption {
      type = types.listOf (types.enum [ "ollama" "llamacpp" "db" ]);
      default = [ "ollama" "llamacpp" "db" ];
      example = [ "ollama" ];
      description = ''
        Ready-made services: `ollama` (port 11434), `llamacpp` (port 8080, as `llama`), `db` (PostgreSQL, port 5432, as
        TCP). Each can be changed under `kernelcore.network.proxy.nginx-tailscale.services`.
      '';
    };
  };

  config = mkIf cfg.enable {
    kernelcore.network.vpn.tailscale.enable = mkDefault true;
    kernelcore.network.proxy.nginx-tailscale = {
      enable = mkDefault true;
      services = builtins.mapAttrs
        (name: each: builtins.mapAttrs (_: mkDefault) each // {
          # An `upstream` takes its place.
          upstreamPort = mkIf (served.${name}.upstream == [ ]) (mkDefault each.upstreamPort);
        })
        chosen;
    };
  };
}
