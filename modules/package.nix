# tsstack from its own source, with nixpkgs' libraries.
{
  lib,
  python3,
  runCommand,
  makeWrapper,
  age,
  ethtool,
  iperf3,
  iproute2,
  kmod,
  nftables,
  nginx,
  sops,
  systemd,
  tailscale,
  util-linux,
  # A checkout, without what is made in it.
  src ? builtins.path {
    name = "tsstack-source";
    path = ../.;
    filter = path: _: !(builtins.elem (baseNameOf path) [ ".git" ".venv" "dist" "build" "__pycache__" ]);
  },
}:
let
  # The modules alone, copied away from the checkout, have nothing to build.
  read = path: if builtins.pathExists path then builtins.fromTOML (builtins.readFile path) else { };
  found = (read ../pyproject.toml).project or { };
  project =
    if (found.name or "") == "tsstack" then found
    else throw "tsstack: the folder `modules` lies without the rest of tsstack's checkout, so there is nothing to build the package from. Import the modules from a whole checkout, or set kernelcore.tsstack.package.";
  inherit (project) version;

  # `module:function` of each console script, as a line of Python.
  entry = target:
    let parts = lib.splitString ":" target;
    in "import ${builtins.head parts} as m; m.${builtins.elemAt parts 1}()";

  library = python3.pkgs.buildPythonPackage {
    pname = "tsstack";
    inherit version src;
    pyproject = true;
    build-system = [ python3.pkgs.hatchling ];
    dependencies = with python3.pkgs; [
      apprise
      click
      cryptography
      jinja2
      nftables
      prometheus-client
      psutil
      pydantic
      ruamel-yaml
      ruamel-yaml-clib
      textual
    ];
    # The same bindings, which nixpkgs builds from nftables itself.
    pythonRemoveDeps = [ "pip-nftables" ];
    pythonImportsCheck = [ "tsstack.cli.main" ];
    # Most tests need root, namespaces or the engines; scripts/test runs them.
    doCheck = false;
  };

  # tsstack starts parts of itself with its own interpreter (the dead man, the identity daemon, the proof), so that
  # interpreter must find the library. A wrapped script would not do.
  python = python3.withPackages (_: [ library ]);

  programs = [ age ethtool iperf3 iproute2 kmod nftables nginx sops systemd tailscale util-linux ];
in
runCommand "tsstack-${version}"
  {
    nativeBuildInputs = [ makeWrapper ];
    passthru = { inherit library python programs; };
    meta = {
      description = "One declarative file makes a host on a tailnet";
      license = lib.licenses.mit;
      mainProgram = "tsstack";
      platforms = lib.platforms.linux;
    };
  }
  ''
    mkdir -p "$out/bin" "$out/lib/systemd/system"
    ${builtins.concatStringsSep "" (map (name: ''
      makeWrapper ${python}/bin/python "$out/bin/${name}" \
        --add-flags "-P -c '${entry project.scripts.${name}}'" \
        --prefix PATH : ${lib.makeBinPath programs}
    '') (builtins.attrNames project.scripts))}
    ${python}/bin/python -P -m tsstack.cli.share "$out/share"
    for unit in ${src}/monitor/*.service ${src}/monitor/*.socket ${src}/monitor/*.timer ${src}/monitor/*.path; do
      [ -e "$unit" ] || continue
      substitute "$unit" "$out/lib/systemd/system/$(basename "$unit")" \
        --replace-quiet /usr/bin/tsstack "$out/bin/tsstack" \
        --replace-quiet /bin/kill ${util-linux}/bin/kill
    done
    if grep -rn /usr/ "$out/lib/systemd"; then echo "a unit names a program by a path that NixOS has not" >&2; exit 1; fi
    "$out/bin/tsstack" -c ${src}/examples/kernelcore.yaml check --file-only
  ''
