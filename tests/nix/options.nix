# Every option of the modules: name, type, default, example, description.
{ lib, modules ? ../../modules }:
let
  evaluation = lib.evalModules {
    modules = [ (import ./standin/nixos.nix { }) (modules + "/default.nix") ];
    specialArgs.pkgs = { };
  };
  isOption = node: builtins.isAttrs node && (node._type or "") == "option";
  declared = node: node.declaration or node;
  shown = value: if builtins.isAttrs value && (value._type or "") == "literalExpression" then { expression = value.text; } else { inherit value; };
  below = at: type:
    if type ? below then type.below at
    else if type ? getSubOptions then removeAttrs (type.getSubOptions at) [ "_module" "_freeformOptions" ]
    else { };
  list = at: node:
    if isOption node then
      let option = declared node; in
      [
        ({
          name = builtins.concatStringsSep "." at;
          type = option.type.description;
          description = option.description or null;
        }
        // (if option ? defaultText then { default = shown option.defaultText; } else if option ? default then { default = shown option.default; } else { })
        // (if option ? example then { example = shown option.example; } else { }))
      ]
      ++ builtins.concatMap
        (name: list (at ++ (steps option.type) ++ [ name ]) (below (at ++ (steps option.type)) option.type).${name})
        (builtins.attrNames (below (at ++ (steps option.type)) option.type))
    else builtins.concatLists (builtins.attrValues (builtins.mapAttrs (name: list (at ++ [ name ])) node));
  # attrsOf and listOf, seen through nullOr and their like.
  steps = type:
    if type.name == "attrsOf" then [ "<name>" ] else if type.name == "listOf" then [ "*" ] else [ ];
in
list [ "kernelcore" ] evaluation.options.kernelcore
