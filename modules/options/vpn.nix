# How this host joins the tailnet: the file's `tailscale` section.
{ config, lib, ... }:
let
  inherit (lib) mkOption types literalExpression;
  own = import ../types.nix { inherit lib; };
  cfg = config.kernelcore.network.vpn.tailscale;
in
{
  options.kernelcore.network.vpn.tailscale = {
    enable = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Join a tailnet. Switches on `services.tailscale`, whose other options are then left to tsstack.";
    };
    hostname = mkOption {
      type = own.hostname;
      default = config.networking.hostName;
      defaultText = literalExpression "config.networking.hostName";
      example = "kernelcore";
      description = "The host's name on the tailnet, one DNS label: `host.name` of the file.";
    };
    loginServer = mkOption {
      type = types.nullOr own.server;
      default = null;
      example = "https://hs.example.com";
      description = "The control server: a Headscale's address. Not set: Tailscale's own.";
    };
    authKeyFile = mkOption {
      type = types.nullOr own.file;
      default = null;
      example = literalExpression "config.sops.secrets.\"tailscale-authkey\".path";
      description = ''
        A file on the host that holds the key for the first enrolment and nothing else. It must not lie in the Nix
        store, which everybody can read. Not set: `kernelcore.secrets.tailscale` says where the key is.
      '';
    };
    useAuthKeyFile = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Enrol with `authKeyFile`. Off: the file names no key, and a new host is enrolled by hand.";
    };
    tags = mkOption {
      type = types.listOf own.tag;
      default = [ ];
      example = [ "tag:server" ];
      description = "Tags of this node. With Headscale they come with the key, and asking for them is refused there.";
    };
    acceptDNS = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Use the tailnet's DNS settings.";
    };
    enableMagicDNS = mkOption {
      type = types.bool;
      default = cfg.acceptDNS;
      defaultText = literalExpression "config.kernelcore.network.vpn.tailscale.acceptDNS";
      example = true;
      description = ''
        Resolve the tailnet's names. MagicDNS is switched on at the control server; a node takes all of its DNS or
        none, so this must be the same as `acceptDNS`.
      '';
    };
    acceptRoutes = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Use the subnet routes that other nodes offer.";
    };
    enableSubnetRouter = mkOption {
      type = types.bool;
      default = cfg.advertiseRoutes != [ ];
      defaultText = literalExpression "config.kernelcore.network.vpn.tailscale.advertiseRoutes != [ ]";
      example = true;
      description = "Offer `advertiseRoutes` to the tailnet. Switched off, they stay written and are not offered.";
    };
    advertiseRoutes = mkOption {
      type = types.listOf own.network;
      default = [ ];
      example = [ "192.168.15.0/24" "172.17.0.0/16" ];
      description = "Subnets behind this host that it routes to.";
    };
    snatSubnetRoutes = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Hide tailnet sources behind this host's own address on the way to the subnets.";
    };
    exitNode = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Offer this host as an exit node. It cannot use one at the same time.";
    };
    useExitNodes = mkOption {
      type = types.listOf own.label;
      default = [ ];
      example = [ "exit-a" "exit-b" ];
      description = "Exit nodes for this host's own traffic, in order of preference; the monitor moves along the list.";
    };
    exitNodeAllowLANAccess = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = ''
        Keep the local networks reachable while an exit node of `useExitNodes` is used. It says nothing about a host
        that only offers itself as one.
      '';
    };
    exitNodeFallback = mkOption {
      type = types.enum [ "block" "direct" ];
      default = "block";
      example = "direct";
      description = ''
        What happens when no exit node of `useExitNodes` works: no internet at all, or the bare uplink. The latter
        shows the host's own address to whomever it talks to.
      '';
    };
    ssh = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Run Tailscale SSH.";
    };
    shieldsUp = mkOption {
      type = types.bool;
      default = false;
      example = true;
      description = "Refuse all connections from the tailnet.";
    };
    netfilter = mkOption {
      type = types.enum [ "on" "nodivert" "off" ];
      default = "on";
      example = "nodivert";
      description = "How much of the packet filter tailscaled manages itself.";
    };
    operator = mkOption {
      type = types.nullOr own.user;
      default = null;
      example = "alice";
      description = "The local user who may operate tailscaled besides root.";
    };
  };

  # The daemon is NixOS's; what it is told is tsstack's.
  config.services.tailscale = lib.mkIf (cfg.enable && config.kernelcore.tsstack.enable) { enable = true; };
}
