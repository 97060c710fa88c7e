{
  description = "tsstack: one declarative file makes a host on a tailnet";

  # There is no lock file here. Your own flake's lock pins this input; docs/nixos.md says how.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs =
    { self, nixpkgs }:
    let
      systems = [ "x86_64-linux" "aarch64-linux" ];
      forEach = make: builtins.listToAttrs (
        map (system: {
          name = system;
          value = make (import nixpkgs { inherit system; overlays = [ self.overlays.default ]; });
        }) systems
      );
    in
    {
      overlays.default = final: _previous: { tsstack = final.callPackage ./modules/package.nix { src = self; }; };

      packages = forEach (pkgs: {
        default = pkgs.tsstack;
        inherit (pkgs) tsstack;
      });

      # The modules bring the package by themselves. No overlay is set here: where pkgs are given ready-made, as in
      # NixOS's own tests, that is refused.
      nixosModules.default = ./modules;
      nixosModules.tsstack = self.nixosModules.default;

      devShells = forEach (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ pkgs.tsstack.library ];
          packages = [
            (pkgs.python3.withPackages (python: [
              python.hypothesis
              python.mypy
              python.pytest
              python.pytest-xdist
              python.types-psutil
            ]))
          ]
          ++ [ pkgs.ruff ]
          ++ pkgs.tsstack.programs;
        };
      });

      checks = forEach (pkgs: {
        package = pkgs.tsstack;
        # Three whole machines: a control server, a host that these modules make, a client.
        tailnet = pkgs.testers.runNixOSTest (import ./tests/nix/tailnet.nix { module = self.nixosModules.default; });
      });
    };
}
