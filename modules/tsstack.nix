# What all modules share: the file, the package, the units. The rest is tsstack's, as on any other host.
{ config, lib, options, pkgs, ... }:
let
  inherit (lib) mkOption mkIf types literalExpression optional;
  own = import ./types.nix { inherit lib; };
  cfg = config.kernelcore.tsstack;
  network = config.kernelcore.network;
  secrets = config.kernelcore.secrets.tailscale;
  contradictions = import ./contradictions.nix { inherit lib config options; };

  # With the nginx that the proxy's options name.
  package =
    if cfg.package ? override then cfg.package.override { nginx = network.proxy.nginx-tailscale.package; } else cfg.package;

  # One key a line, so that a finding's place says something.
  file = pkgs.runCommand "tsstack.yaml"
    {
      text = cfg.text;
      passAsFile = [ "text" ];
      nativeBuildInputs = [ pkgs.jq package ];
    }
    ''
      jq . "$textPath" > tsstack.yaml
      ${lib.optionalString cfg.checkAtBuild "tsstack -c tsstack.yaml check --file-only"}
      cp tsstack.yaml "$out"
    '';

  environment = lib.optionalAttrs (secrets.ageKeyFile != null) { SOPS_AGE_KEY_FILE = secrets.ageKeyFile; };
  watched = network.monitoring.tailscale.enable;
in
{
  imports = [
    ./options/vpn.nix
    ./options/proxy.nix
    ./options/services.nix
    ./options/zones.nix
    ./options/monitor.nix
    ./options/tuning.nix
    ./options/secrets.nix
  ];

  options.kernelcore.tsstack = {
    enable = mkOption {
      type = types.bool;
      default =
        network.vpn.tailscale.enable
        || network.proxy.nginx-tailscale.enable
        || network.security.firewall-zones.enable
        || watched
        || network.dns.split != { }
        || network.bandwidth != { }
        || network.tuning.profile != "none"
        || network.tuning.sysctl != { }
        || network.tuning.udpGro != null
        || cfg.settings != { };
      defaultText = literalExpression "whether any other option asks for something";
      example = true;
      description = "Write /etc/tsstack/tsstack.yaml and run tsstack's units.";
    };
    package = mkOption {
      type = types.package;
      default = pkgs.tsstack or (throw "tsstack: pkgs.tsstack is missing; add the overlay of tsstack's flake, or set kernelcore.tsstack.package.");
      defaultText = literalExpression "pkgs.tsstack, from the overlay";
      example = literalExpression "inputs.tsstack.packages.x86_64-linux.default";
      description = "tsstack itself.";
    };
    uplink = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "eth0";
      description = "The interface towards the internet, and of the zone `dmz`. Not set: that of the default route.";
    };
    settings = mkOption {
      type = types.attrsOf types.anything;
      default = { };
      example = { monitor.targets = [ { icmp = "1.1.1.1"; } ]; };
      description = "Keys of tsstack.yaml, as they stand there, on top of what the options write.";
    };
    switchOnActivation = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Run `tsstack switch` when NixOS is activated with another file. Off: it is yours to run.";
    };
    confirm = mkOption {
      type = types.nullOr own.duration;
      default = null;
      example = "60s";
      description = "Undo a switch unless `tsstack confirm` comes from a new session within this time.";
    };
    prove = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Prove the rules with packets before a switch.";
    };
    checkAtBuild = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Let `tsstack check` judge the file when the system is built. A refused file is then never activated.";
    };
    file = mkOption {
      type = types.attrsOf types.anything;
      readOnly = true;
      default = import ./file.nix { inherit lib config; };
      defaultText = literalExpression "what the options say";
      example = { host.name = "kernelcore"; };
      description = "The file as a value; for reading.";
    };
    text = mkOption {
      type = types.str;
      readOnly = true;
      default = builtins.toJSON cfg.file;
      defaultText = literalExpression "builtins.toJSON config.kernelcore.tsstack.file";
      example = "{\"host\":{\"name\":\"kernelcore\"}}";
      description = "The file as JSON, which is YAML too; for reading.";
    };
  };

  config = mkIf cfg.enable {
    inherit (contradictions) assertions warnings;

    environment.etc."tsstack/tsstack.yaml".source = file;
    environment.systemPackages = [ package ];

    # The units come with the package. NixOS leaves out their [Install] sections, so each is wanted here.
    systemd.packages = [ package ];
    systemd.services = {
      tsstack-early = {
        inherit environment;
        wantedBy = [ "sysinit.target" ];
        # It is for boots alone: a new version of the unit must not bring the boot generation up under a live host.
        restartIfChanged = false;
      };
      tsstack-boot = {
        inherit environment;
        wantedBy = [ "multi-user.target" ];
        restartIfChanged = false;
      };
      tsstack-switch = mkIf cfg.switchOnActivation {
        inherit environment;
        description = "tsstack: make the host as the file says";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" "tailscaled.service" "tsstack-boot.service" "sops-install-secrets.service" ];
        restartTriggers = [ file ];
        stopIfChanged = false;
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          UMask = "0077";
          ExecStart = builtins.concatStringsSep " " (
            [ "${package}/bin/tsstack" "switch" ]
            ++ optional (!cfg.prove) "--no-prove"
            ++ optional (cfg.confirm != null) "--confirm ${cfg.confirm}"
          );
        };
      };
      tsstack-dns = {
        inherit environment;
        wantedBy = [ "sys-subsystem-net-devices-tailscale0.device" ];
      };
      tsstack-monitor = mkIf watched {
        inherit environment;
        wantedBy = [ "multi-user.target" ];
        after = [ "tsstack-switch.service" ];
        reloadTriggers = [ file ];
      };
    };
    systemd.timers = {
      tsstack-renew = mkIf network.proxy.nginx-tailscale.enable { wantedBy = [ "timers.target" ]; };
      tsstack-dns.wantedBy = [ "timers.target" ];
    };
    systemd.paths.tsstack-dns.wantedBy = [ "paths.target" ];
    systemd.sockets.tsstack-flows = mkIf watched { wantedBy = [ "sockets.target" ]; };
  };
}
