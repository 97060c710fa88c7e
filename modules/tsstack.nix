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
  written = name: text: pkgs.runCommand name
    {
      inherit text;
      passAsFile = [ "text" ];
      nativeBuildInputs = [ pkgs.jq package ];
    }
    ''
      jq . "$textPath" > ${name}
      ${lib.optionalString cfg.checkAtBuild "tsstack -c ${name} check --file-only"}
      cp ${name} "$out"
    '';
  file = written "tsstack.yaml" cfg.text;
  fallback = written "fallback.yaml" (builtins.toJSON (import ./fallback.nix { inherit lib config; }));
  hasZones = network.security.firewall-zones.enable;

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
      # The name may be an alias that throws.
      default =
        let given = builtins.tryEval (pkgs.tsstack or null);
        in if given.success && given.value != null then given.value else pkgs.callPackage ./package.nix { };
      defaultText = literalExpression "pkgs.tsstack where there is one, else the checkout's own, built with pkgs";
      example = literalExpression "inputs.tsstack.packages.x86_64-linux.default";
      description = "tsstack itself.";
    };
    uplink = mkOption {
      type = types.nullOr own.interface;
      default = null;
      example = "eth0";
      description = "The interface towards the internet, and of the zone `dmz`. Not set: that of the default route.";
    };
    settings = mkOption {
      type = types.attrsOf types.anything;
      default = { };
      example = { host.tailnet = "your-tailnet.ts.net"; };
      description = "Keys of tsstack.yaml, as they stand there, on top of what the options write. A section that needs more of NixOS than the file is refused while its own `enable` is off.";
    };
    switchOnActivation = mkOption {
      type = types.bool;
      default = true;
      example = false;
      description = "Run `tsstack switch` when NixOS is activated with another file. Off: it is yours to run.";
    };
    confirm = mkOption {
      type = types.nullOr own.confirmation;
      default = null;
      example = "60s";
      description = "Undo a switch unless `tsstack confirm` comes from a new session within this time, at a boot too: the first one of a machine that nobody attends is undone.";
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

    # They are tsstack's alone, since the guard, the order of the keys and the way back are. NixOS has defaults of its own
    # for some (forwarding off) and would write them whenever any parameter changes: null is "leave it". Above defaults,
    # below what a host says itself, which contradictions.nix compares.
    boot.kernel.sysctl = builtins.mapAttrs (_: _: lib.mkOverride 900 null) (
      network.tuning.sysctl
      // lib.optionalAttrs contradictions.forwards {
        "net.ipv4.ip_forward" = true;
        "net.ipv4.conf.all.forwarding" = true;
      }
      // lib.optionalAttrs contradictions.routes {
        "net.ipv6.conf.all.forwarding" = true;
      }
    );

    # NixOS's firewall filters by the reverse path in netfilter, which no kernel parameter of tsstack's loosens: what
    # an exit node sends arrives at the uplink, and the way back to it is the tailnet.
    networking.firewall.checkReversePath = mkIf (contradictions.isClient && !hasZones) (lib.mkDefault "loose");

    environment.etc."tsstack/tsstack.yaml".source = file;
    environment.etc."tsstack/fallback.yaml" = mkIf hasZones { source = fallback; };
    environment.systemPackages = [ package ];

    # What services.nginx rotates there takes these files too, and tells its own nginx alone: so they come first and once.
    services.logrotate.settings = mkIf network.proxy.nginx-tailscale.enable {
      tsstack = builtins.mapAttrs (_: lib.mkDefault) {
        files = "/var/log/nginx/tsstack*.log";
        priority = 900;
        ignoreduplicates = true;
        frequency = "weekly";
        rotate = 26;
        compress = true;
        delaycompress = true;
        sharedscripts = true;
        postrotate = "[ ! -f /run/tsstack/nginx.pid ] || kill -USR1 $(cat /run/tsstack/nginx.pid)";
      };
    };

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
      # Before the first network of the first boot; later boots have what was kept (tsstack-early).
      tsstack-fallback-first = mkIf hasZones {
        inherit environment;
        description = "tsstack: the first firewall, before the network is up";
        wantedBy = [ "sysinit.target" ];
        wants = [ "network-pre.target" ];
        after = [ "local-fs.target" "systemd-modules-load.service" "tsstack-early.service" ];
        before = [ "network-pre.target" "shutdown.target" ];
        conflicts = [ "shutdown.target" ];
        unitConfig = {
          DefaultDependencies = false;
          ConditionPathExists = "!/var/lib/tsstack/fallback";
        };
        serviceConfig = {
          Type = "oneshot";
          UMask = "0077";
          ExecStart = "${package}/bin/tsstack fallback set /etc/tsstack/fallback.yaml";
        };
      };
      # What NixOS's firewall would let in, wherever no generation of tsstack's has a firewall.
      tsstack-fallback = mkIf hasZones {
        inherit environment;
        description = "tsstack: the firewall while no generation has one";
        wantedBy = [ "multi-user.target" ];
        # At a boot tsstack-early has brought it back already, long before.
        after = [ "sysinit.target" "tsstack-boot.service" ];
        before = [ "tsstack-switch.service" ];
        # Not stopped at a shutdown, which would end with the network still up and no firewall.
        unitConfig.DefaultDependencies = false;
        reloadIfChanged = true;
        restartTriggers = [ fallback ];
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          UMask = "0077";
          ExecStart = "${package}/bin/tsstack fallback set /etc/tsstack/fallback.yaml";
          ExecReload = "${package}/bin/tsstack fallback set /etc/tsstack/fallback.yaml";
          ExecStop = "${package}/bin/tsstack fallback remove";
        };
      };
      # A system that was left by a reboot has not stopped the unit above, and its fallback would stand for ever.
      tsstack-fallback-gone = mkIf (!hasZones) {
        inherit environment;
        description = "tsstack: no firewall of a configuration with zones is left";
        wantedBy = [ "multi-user.target" ];
        after = [ "tsstack-boot.service" ];
        before = [ "tsstack-switch.service" ];
        unitConfig.ConditionPathIsSymbolicLink = "/var/lib/tsstack/fallback";
        serviceConfig = {
          Type = "oneshot";
          UMask = "0077";
          ExecStart = "${package}/bin/tsstack fallback remove --made-of /etc/tsstack/fallback.yaml";
        };
      };
      tsstack-switch = mkIf cfg.switchOnActivation {
        inherit environment;
        description = "tsstack: make the host as the file says";
        wantedBy = [ "multi-user.target" ];
        wants = [ "network-online.target" ];
        after = [ "network-online.target" "tailscaled.service" "tsstack-boot.service" "sops-install-secrets.service" "systemd-sysctl.service" ];
        # What NixOS writes over a profile when any parameter changes.
        restartTriggers = [ file (config.environment.etc."sysctl.d/60-nixos.conf".source or "") ];
        stopIfChanged = false;
        serviceConfig = {
          Type = "oneshot";
          RemainAfterExit = true;
          UMask = "0077";
          ExecStart = builtins.concatStringsSep " " (
            [ "${package}/bin/tsstack" "switch" "--unattended" ]
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
