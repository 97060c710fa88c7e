# What the machines of tailnet.nix set beside what nixos.nix declares; their real modules need all of nixpkgs.
{ lib, ... }:
let
  anything = default: lib.mkOption { type = lib.types.anything; inherit default; };
in
{
  options = {
    services.headscale = anything { };
  };
}
