# Where the key for the first enrolment is: with sops-nix a file that it decrypts, else a sops file for tsstack.
{ config, lib, options, ... }:
let
  inherit (lib) mkDefault mkOption types literalExpression;
  own = import ../types.nix { inherit lib; };
  cfg = config.kernelcore.secrets.tailscale;
  hasSopsNix = options ? sops;
  # The layout in which these modules are copied to /etc/nixos/modules.
  beside = ../../secrets/tailscale.yaml;
  secretName = key: "tailscale-" + builtins.replaceStrings [ "_" "." ] [ "-" "-" ] key;
in
{
  options.kernelcore.secrets.tailscale = {
    enable = mkOption {
      type = types.bool;
      default = config.kernelcore.network.vpn.tailscale.enable;
      defaultText = literalExpression "config.kernelcore.network.vpn.tailscale.enable";
      example = false;
      description = "Take the key for the first enrolment from a sops-encrypted file, unless `authKeyFile` names one. Set it to false beside an `authKeyFile` of another tool, or sops-nix decrypts this key all the same.";
    };
    backend = mkOption {
      type = types.enum [ "sops-nix" "tsstack" ];
      default =
        if hasSopsNix && (cfg.sopsFile != null || options.sops.defaultSopsFile.isDefined)
        then "sops-nix"
        else "tsstack";
      defaultText = literalExpression "\"sops-nix\" where that is imported and knows a file, else \"tsstack\"";
      example = "tsstack";
      description = ''
        Who decrypts: sops-nix, when NixOS is activated, to a file below /run/secrets; or tsstack, when the host has to
        join, in memory.
      '';
    };
    sopsFile = mkOption {
      type = types.nullOr types.path;
      default = if builtins.pathExists beside then beside else null;
      defaultText = literalExpression "../../secrets/tailscale.yaml, as seen from the module, if it is there";
      example = literalExpression "./secrets/tailscale.yaml";
      description = "The encrypted file for sops-nix. Not set: `sops.defaultSopsFile`.";
    };
    file = mkOption {
      type = own.relativeFile;
      default = "/etc/nixos/secrets/tailscale.yaml";
      example = "/etc/tsstack/secrets.yaml";
      description = "The encrypted file on the host, for the backend `tsstack`.";
    };
    ageKeyFile = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "/var/lib/sops-nix/key.txt";
      description = "The age identity that opens `file`, for the backend `tsstack`. Not set: /etc/tsstack/age.key.";
    };
    key = mkOption {
      type = own.secretKey;
      default = "authkey";
      example = "preauthkey";
      description = "The key of the encrypted file that holds the key for the first enrolment.";
    };
    extraKeys = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "api_token" ];
      description = "More keys of the file that sops-nix decrypts: `api_token` becomes /run/secrets/tailscale-api-token.";
    };
  };

  # Definitions of options that no imported module declares are errors, so they are made only beside sops-nix.
  config = lib.optionalAttrs hasSopsNix {
    sops.secrets = lib.mkIf (cfg.enable && cfg.backend == "sops-nix" && config.kernelcore.tsstack.enable) (
      builtins.listToAttrs (
        map (each: {
          name = each.name;
          # What the host says of the same secret comes first.
          value = { key = mkDefault each.key; }
            // lib.optionalAttrs (cfg.sopsFile != null) { sopsFile = mkDefault cfg.sopsFile; };
        }) (
          (if config.kernelcore.network.vpn.tailscale.useAuthKeyFile
            then [ { name = "tailscale-authkey"; key = cfg.key; } ]
            else [ ])
          ++ map (key: { name = secretName key; inherit key; }) cfg.extraKeys
        )
      )
    );
  };
}
