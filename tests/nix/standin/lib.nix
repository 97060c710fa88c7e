# As much of nixpkgs' library as the modules use, so that they can be evaluated wherever there is Nix and nothing else.
# Wherever NIXPKGS_LIB points to the real one, the same tests run with that too and must give the same.
let
  inherit (builtins) all any attrNames concatLists concatMap concatStringsSep elem elemAt filter foldl' functionArgs
    genList head isAttrs isBool isFloat isFunction isInt isList isPath isString length listToAttrs mapAttrs match
    removeAttrs stringLength substring tail toString typeOf;

  tagged = tag: value: isAttrs value && (value._type or "") == tag;
  place = concatStringsSep ".";

  lib = rec {
    mkIf = condition: content: { _type = "if"; inherit condition content; };
    mkMerge = contents: { _type = "merge"; inherit contents; };
    mkOverride = priority: content: { _type = "override"; inherit priority content; };
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    mkOption = attrs: attrs // { _type = "option"; };
    literalExpression = text: { _type = "literalExpression"; inherit text; };

    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    optionalAttrs = condition: values: if condition then values else { };
    optionalString = condition: text: if condition then text else "";
    filterAttrs = keep: set: removeAttrs set (filter (name: !keep name set.${name}) (attrNames set));
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasSuffix = suffix: text:
      let from = stringLength text - stringLength suffix; in from >= 0 && substring from (-1) text == suffix;
    removeSuffix = suffix: text:
      if hasSuffix suffix text then substring 0 (stringLength text - stringLength suffix) text else text;
    removePrefix = prefix: text:
      if hasPrefix prefix text then substring (stringLength prefix) (stringLength text) text else text;
    unique = foldl' (seen: each: if elem each seen then seen else seen ++ [ each ]) [ ];
    toInt = text: builtins.fromJSON text;
    recursiveUpdate = left: right:
      left // mapAttrs
        (name: value: if isAttrs value && isAttrs (left.${name} or null) then recursiveUpdate left.${name} value else value)
        right;

    types = rec {
      # A plain value: all definitions must agree.
      plain = name: description: check: {
        inherit name description check;
        merge = at: values:
          if all (value: value == head values) values then head values
          else throw "The option `${place at}' has conflicting definition values";
      };
      bool = plain "bool" "boolean" isBool;
      int = plain "int" "signed integer" isInt;
      float = plain "float" "floating point number" isFloat;
      str = plain "str" "string" isString;
      package = plain "package" "package" (value: isAttrs value && (value.type or "") == "derivation");
      path = plain "path" "absolute path" (value: isPath value || (isString value && hasPrefix "/" value));
      strMatching = pattern: plain "strMatching" "string matching the pattern ${pattern}"
        (value: isString value && match pattern value != null);
      enum = values: plain "enum" "one of ${concatStringsSep ", " (map builtins.toJSON values)}" (value: elem value values);
      ints = {
        between = low: high: plain "intBetween" "integer between ${toString low} and ${toString high}"
          (value: isInt value && value >= low && value <= high);
        unsigned = plain "unsignedInt" "integer, 0 or more" (value: isInt value && value >= 0);
        positive = plain "positiveInt" "integer, 1 or more" (value: isInt value && value > 0);
      };
      port = ints.between 0 65535 // { description = "port"; };
      addCheck = type: check: type // { check = value: type.check value && check value; };
      lines = str // { name = "lines"; merge = _: concatStringsSep "\n"; };
      # Anything: sets are merged key by key.
      anything = {
        name = "anything";
        description = "anything";
        check = _: true;
        merge = at: values:
          if all isAttrs values && !(any (value: (value.type or "") == "derivation") values)
          then (attrsOf anything).merge at values
          else if length values == 1 || all (value: value == head values) values then head values
          else if all isList values then concatLists values
          else throw "The option `${place at}' has conflicting definition values";
      };
      nullOr = inner: {
        name = "nullOr";
        description = "null or ${inner.description}";
        check = value: value == null || inner.check value;
        merge = at: values: if all (value: value == null) values then null else inner.merge at values;
        below = inner.below or (_: { });
      };
      either = left: right: {
        name = "either";
        description = "${left.description} or ${right.description}";
        check = value: left.check value || right.check value;
        merge = at: values: if all left.check values then left.merge at values else right.merge at values;
      };
      listOf = inner: {
        name = "listOf";
        description = "list of ${inner.description}";
        check = isList;
        merge = at: values:
          let all' = concatLists values; in
          genList (index: mergeValues (at ++ [ "[${toString index}]" ]) inner [ (elemAt all' index) ]) (length all');
        below = at: (inner.below or (_: { })) (at ++ [ "*" ]);
      };
      attrsOf = inner: {
        name = "attrsOf";
        description = "attribute set of ${inner.description}";
        check = isAttrs;
        merge = at: values:
          let given = name: concatMap (value: optional (value ? ${name}) value.${name}) values; in
          # A name of which no condition holds is not there.
          listToAttrs (map
            (name: { inherit name; value = mergeValues (at ++ [ name ]) inner (given name); })
            (filter (name: counting (given name) != [ ]) (unique (concatMap attrNames values))));
        below = at: (inner.below or (_: { })) (at ++ [ "<name>" ]);
      };
      submodule = module: {
        name = "submodule";
        description = "(submodule)";
        check = isAttrs;
        merge = at: values:
          let name = elemAt at (length at - 1); in
          (evaluate { modules = [ module ] ++ map (config: { inherit config; }) values; arguments = { inherit name; }; prefix = at; }).config;
        below = at: (evaluate { modules = [ module ]; arguments.name = "<name>"; prefix = at; }).options;
      };
    };

    # What is left of definitions once conditions and priorities have been looked at: the values that count.
    discharge = definition:
      if tagged "if" definition then (if definition.condition then discharge definition.content else [ ])
      else if tagged "merge" definition then concatMap discharge definition.contents
      else if tagged "override" definition then map (each: each // { inherit (definition) priority; }) (discharge definition.content)
      else [ { priority = 100; value = definition; } ];
    counting = definitions:
      let
        found = concatMap discharge definitions;
        best = foldl' (low: each: if each.priority < low then each.priority else low) 9999 found;
      in
      map (each: each.value) (filter (each: each.priority == best) found);
    mergeValues = at: type: definitions:
      let values = counting definitions; in
      if values == [ ] then throw "The option `${place at}' is used but not defined"
      else if !(all type.check values)
      then throw "A definition for option `${place at}' is not of type `${type.description}'"
      else type.merge at values;

    # Conditions are carried down to each name, so that which names there are does not depend on them.
    pushDown = definition:
      if tagged "if" definition
      then map (mapAttrs (_: mkIf definition.condition)) (pushDown definition.content)
      else if tagged "merge" definition then concatMap pushDown definition.contents
      else if tagged "override" definition then map (mapAttrs (_: mkOverride definition.priority)) (pushDown definition.content)
      else [ definition ];

    evaluate = { modules, arguments ? { }, prefix ? [ ] }:
      let
        call = module:
          if isPath module then call (import module) // { _key = toString module; }
          else if isFunction module then module (arguments // { inherit lib config; options = tree; })
          else module;
        collect = seen: todo:
          if todo == [ ] then seen
          else
            let
              module = call (head todo);
              known = module ? _key && any (each: (each._key or null) == module._key) seen;
            in
            if known then collect seen (tail todo)
            else collect (seen ++ [ module ]) (tail todo ++ (module.imports or [ ]));
        parts = collect [ ] modules;
        declared = module: module.options or { };
        configured = module:
          if module ? config || module ? options then module.config or { }
          else removeAttrs module [ "imports" "_key" ];

        joinOptions = at: left: right:
          left // mapAttrs
            (name: value:
              if !(left ? ${name}) then value
              else if tagged "option" value || tagged "option" left.${name}
              then throw "The option `${place (at ++ [ name ])}' is declared twice"
              else joinOptions (at ++ [ name ]) left.${name} value)
            right;
        declarations = foldl' (joinOptions prefix) { } (map declared parts);

        option = at: declaration: definitions:
          let
            found = concatMap discharge definitions;
            withDefault = definitions ++ (if declaration ? default then [ (mkOverride 1500 declaration.default) ] else [ ]);
          in
          if (declaration.readOnly or false) && found != [ ]
          then throw "The option `${place at}' is read-only"
          else {
            _type = "option";
            inherit declaration;
            isDefined = found != [ ];
            value = mergeValues at declaration.type withDefault;
          };

        # The tree's shape rests on the declarations alone; modules may ask for it while they are read.
        walk = at: node: definitions:
          mapAttrs
            (name: below:
              let
                path = at ++ [ name ];
                own = concatMap (each: optional (each ? ${name}) each.${name}) (concatMap pushDown definitions);
              in
              if tagged "option" below then option path below own else walk path below own)
            node;
        unknown = at: node: definitions:
          let pushed = concatMap pushDown definitions; in
          map (name: place (at ++ [ name ])) (filter (name: !(node ? ${name})) (concatMap attrNames pushed))
          ++ concatMap
            (name:
              if tagged "option" node.${name} then [ ]
              else unknown (at ++ [ name ]) node.${name} (concatMap (each: optional (each ? ${name}) each.${name}) pushed))
            (attrNames node);
        strangers = unknown prefix declarations (map configured parts);
        tree = walk prefix declarations (map configured parts);
        valuesOf = mapAttrs (_: node: if tagged "option" node then node.value else valuesOf node);
        config = valuesOf tree;
      in
      {
        options = tree;
        config = if strangers == [ ] then config else throw "The option `${head strangers}' does not exist";
      };

    evalModules = { modules, specialArgs ? { } }: evaluate { inherit modules; arguments = specialArgs; };
  };
in
lib
