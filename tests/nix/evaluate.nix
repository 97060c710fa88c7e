# Evaluates the modules for each case and answers what they make of it.
# `cases` is a file: a list of { name; module; withSops ? true; isNewer ? false; missing ? [ ]; throwing ? [ ]; };
# `lib` is nixpkgs' or the stand-in. `missing` and `throwing` are packages: not there, or aliases that throw.
{ lib, cases, modules ? ../../modules }:
let
  derivation' = name: { type = "derivation"; inherit name; outPath = "/nix/store/00000000000000000000000000000000-${name}"; };
  nixpkgs = import ./standin/nixpkgs.nix { inherit lib; };
  packages = {
    tsstack = derivation' "tsstack" // { override = changed: derivation' "tsstack" // changed; };
    nginx = derivation' "nginx";
    nginxQuic = derivation' "nginx-quic";
    nginxMainline = derivation' "nginx-mainline";
    jq = derivation' "jq";
    runCommand = name: attrs: script: derivation' name // attrs // { inherit script; };
    inherit (nixpkgs) callPackage;
  };
  packagesOf = case:
    removeAttrs packages (case.missing or [ ])
    // builtins.listToAttrs (map (name: { inherit name; value = throw "${name} was renamed"; }) (case.throwing or [ ]));
  evaluated = case: (lib.evalModules {
    modules = [
      (import ./standin/nixos.nix { withSops = case.withSops or true; isNewer = case.isNewer or false; })
      (modules + "/default.nix")
      case.module
    ];
    specialArgs.pkgs = packagesOf case;
  }).config;
  answer = case:
    let
      config = evaluated case;
      package = builtins.head (config.environment.systemPackages ++ [ { } ]);
      whole = {
        text = config.kernelcore.tsstack.text;
        enabled = config.kernelcore.tsstack.enable;
        messages = map (each: each.message) config.assertions;
        refused = map (each: each.message) (builtins.filter (each: !each.assertion) config.assertions);
        inherit (config) warnings;
        services = builtins.mapAttrs (_: unit: removeAttrs unit [ "restartTriggers" ]) config.systemd.services;
        inherit (config.systemd) paths sockets timers;
        firewall = config.networking.firewall.enable;
        inherit (config.networking.firewall) checkReversePath;
        inherit (config.boot.kernel) sysctl;
        logrotate = config.services.logrotate.settings;
        tailscaled = config.services.tailscale.enable;
        fallback = config.environment.etc."tsstack/fallback.yaml".source.text or "";
        script = config.environment.etc."tsstack/tsstack.yaml".source.script or "";
        package = package.name or "";
        # As it was given to the package, or as the real one has it among its programs.
        nginx = package.nginx.name or (builtins.concatStringsSep " "
          (builtins.filter (name: builtins.match "nginx.*" name != null) (map (each: each.name) (package.programs or [ ]))));
        # By name: JSON would copy the file into the store.
        secrets = builtins.mapAttrs (_: secret: { inherit (secret) key path; sopsFile = baseNameOf secret.sopsFile; }) (config.sops.secrets or { });
      };
      tried = if case.direct or false then { success = true; value = whole; } else builtins.tryEval (builtins.deepSeq whole whole);
    in
    { inherit (case) name; thrown = !tried.success; } // (if tried.success then tried.value else { });
in
map answer (import cases)
