# As much of nixpkgs' packages as package.nix and flake.nix touch: names instead of programs.
{ system ? "x86_64-linux", overlays ? [ ], lib ? import ./lib.nix }:
let
  stub = name: { type = "derivation"; inherit name; outPath = "/nix/store/${name}"; };
  stubs = names: builtins.listToAttrs (map (name: { inherit name; value = stub name; }) names);
  ours = lib // {
    splitString = sign: text: builtins.filter builtins.isString (builtins.split sign text);
    makeBinPath = programs: builtins.concatStringsSep ":" (map (each: "${each}/bin") programs);
    licenses.mit = "mit";
    platforms.linux = [ ];
  };
  python3 = {
    pkgs = stubs [
      "apprise" "click" "cryptography" "hatchling" "hypothesis" "jinja2" "mypy" "nftables" "prometheus-client" "psutil"
      "pydantic" "pytest" "pytest-xdist" "ruamel-yaml" "ruamel-yaml-clib" "textual" "types-psutil"
    ] // {
      buildPythonPackage = attrs: stub "library" // { inherit attrs; };
    };
    withPackages = choose: stub "python" // { chosen = choose python3.pkgs; };
  };
  runCommand = name: attrs: script: stub name // attrs // (attrs.passthru or { }) // { inherit script; };
  base = stubs [
    "age" "ethtool" "iperf3" "iproute2" "jq" "kmod" "makeWrapper" "nftables" "nginx" "ruff" "sops" "systemd"
    "tailscale" "util-linux"
  ] // {
    inherit system python3 runCommand;
    lib = ours;
    mkShell = attrs: stub "shell" // attrs;
    testers.runNixOSTest = test: stub test.name // { inherit test; };
    callPackage = path: given:
      let
        function = import path;
        make = changed:
          function (builtins.intersectAttrs (builtins.functionArgs function) base // given // changed)
          // { override = make; };
      in
      make { };
  };
  final = builtins.foldl' (made: overlay: made // overlay final made) base overlays;
in
final
