# Kernel parameters, split DNS and bandwidth: the file's `kernel`, `dns` and `bandwidth` sections.
{ lib, ... }:
let
  inherit (lib) mkOption types literalExpression;
  own = import ../types.nix { inherit lib; };

  limit = {
    options = {
      egress = mkOption {
        type = types.nullOr own.bandwidth;
        default = null;
        example = "10mbit";
        description = "The most that leaves by this interface.";
      };
      ingress = mkOption {
        type = types.nullOr own.bandwidth;
        default = null;
        example = "100mbit";
        description = "The most that is accepted from this interface.";
      };
      burst = mkOption {
        type = types.nullOr own.burst;
        default = null;
        example = "32kbit";
        description = "How much may pass at once. Not set: 10 ms at the rate, 4 kB at least.";
      };
      latency = mkOption {
        type = own.durationUpTo 10;
        default = "400ms";
        example = "100ms";
        description = "How long a packet may wait in the queue before it is dropped.";
      };
    };
  };
in
{
  options.kernelcore.network = {
    tuning = {
      profile = mkOption {
        type = types.enum [ "none" "throughput" "router" "low-latency" ];
        default = "none";
        example = "throughput";
        description = "A tuned set of kernel parameters, which only raises sizes; `sysctl` wins over it.";
      };
      sysctl = mkOption {
        type = own.bySysctl own.sysctl;
        default = { };
        example = { "net.netfilter.nf_conntrack_max" = 524288; };
        description = "Kernel parameters that change and go back with a generation of tsstack. true and false are 1 and 0. `boot.kernel.sysctl` must not say otherwise.";
      };
      udpGro = mkOption {
        type = types.nullOr types.bool;
        default = null;
        example = true;
        description = "UDP GRO forwarding on the uplink. Not set: on when this host routes for the tailnet.";
      };
    };
    dns.split = mkOption {
      type = own.byDomain (own.someOf own.address);
      default = { };
      example = { "your-tailnet.ts.net" = [ "100.100.100.100" ]; };
      description = "A domain (and all below it) and the DNS servers that answer for it.";
    };
    bandwidth = mkOption {
      type = types.attrsOf (types.submodule limit);
      default = { };
      example = literalExpression ''{ tailscale0 = { egress = "10mbit"; burst = "32kbit"; }; }'';
      description = "Bandwidth limits, by interface.";
    };
  };
}
