# The alphabets of tsstack.yaml (tsstack/model/names.py and units.py), so that a wrong value is refused with the name of its
# option. The loader judges again, and more closely: what cannot be said cheaply here is left to `tsstack check`.
{ lib }:
let
  inherit (builtins) all attrNames elemAt fromJSON head isString match stringLength toJSON;
  inherit (lib) types;

  # Descriptions stand in errors and on the page of options.
  checked = description: type: check: types.addCheck type check // { inherit description; };
  text = description: pattern: types.strMatching pattern // { inherit description; };
  fits = pattern: value: isString value && match pattern value != null;

  label' = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
  domain' = "${label'}([.]${label'})*";
  isDomain = value: fits domain' value && stringLength value <= 253;
  octet' = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
  ipv4' = "${octet'}([.]${octet'}){3}";
  # How often :: may stand is ipaddress's to say.
  ipv6' = "([0-9a-fA-F]{0,4}:){2,7}([0-9a-fA-F]{0,4}|${ipv4'})";
  port' = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
  server' = "https?://(${domain'}|\\[[0-9a-fA-F:]+])(:[0-9]{1,5})?";
  interface' = "[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}";
  interfacePattern' = "${interface'}|[A-Za-z0-9_][A-Za-z0-9_.@-]{0,13}[*]";
  key' = "[a-z][a-z0-9_-]{0,30}";
  tag' = "tag:[a-z][a-z0-9-]{0,62}";
  path' = "[A-Za-z0-9._/+@-]+";
  isPath = value: fits path' (toString value) && stringLength (toString value) <= 1024;

  duration' = "0*([0-9]+([.][0-9]+)?)(ms|s|m|h|d)";
  duration = text "duration (500ms, 30s, 2m)" "[0-9]{1,9}([.][0-9]{1,6})?(ms|s|m|h|d)";
  seconds = value:
    let parts = match duration' value; in
    fromJSON (head parts) * { ms = 0.001; s = 1.0; m = 60.0; h = 3600.0; d = 86400.0; }.${elemAt parts 2};
  numberOf = digits: fromJSON (head (match "0*([0-9]+)" digits));
  # "8000-8100" as { from; to; }, null where it is none.
  range = value:
    let
      ends = if isString value then match "([0-9]{1,5})(-([0-9]{1,5}))?" value else null;
      from = numberOf (elemAt ends 0);
      to = if elemAt ends 2 == null then from else numberOf (elemAt ends 2);
    in
    if ends == null || from < 1 || to < from || to > 65535 then null else { inherit from to; };
  port = types.ints.between 1 65535 // { description = "port (1 to 65535)"; };
  byName = description: good: type:
    checked "attribute set of ${type.description} by ${description}" (types.attrsOf type) (set: all good (attrNames set));
in
{
  inherit duration range port;
  # As the command line takes it.
  confirmation = text "duration of whole seconds, minutes or hours (60s, 5m)" "0*[1-9][0-9]{0,3}(s|m|h)";
  durationUpTo = most: checked "duration (500ms, 30s, 2m) above 0 and up to ${toString most}s" duration
    (value: seconds value > 0 && seconds value <= most);
  durationBetween = least: most: checked "duration (500ms, 30s, 2m), ${toJSON least}s to ${toString most}s" duration
    (value: seconds value >= least && seconds value <= most);
  size = types.either types.ints.unsigned (text "size (64k, 500M)" "[0-9]{1,15}[kKmMgG]?");
  rate = checked "request rate (20r/s, 300r/m)" types.str (value: fits "[0-9]{1,7}r/[sm]" value && !fits "0+r.*" value);
  bandwidth = checked "bandwidth (500kbit, 10mbit)" types.str
    (value: fits "[0-9]{1,12}(bit|kbit|mbit|gbit)" value && !fits "0+[a-z]+" value);
  # At least a byte.
  burst = checked "burst (32kbit, 4kb)" types.str
    (value: fits "[0-9]{1,12}(bit|kbit|mbit|b|k|kb|m|mb)" value && !fits "(0+[a-z]+|0*[1-7]bit)" value);
  ports = types.either port (checked "range of ports (8000-8100)" types.str (value: range value != null));
  percent = checked "percentage (0 to 100, up to three decimals)" (types.either types.int types.float)
    (value: value >= 0 && value <= 100 && fits "[0-9]{1,3}([.][0-9]{1,3})?" (toJSON value));

  label = text "DNS label (kernelcore)" label';
  hostname = text "DNS label (kernelcore)" "(${label'})?";
  domain = checked "domain name (example.ts.net)" types.str isDomain;
  address = text "address (192.0.2.1, fd00::1)" "${ipv4'}|${ipv6'}";
  network = text "network (192.168.15.0/24, fd00::/64)"
    "${ipv4'}(/([0-9]|[12][0-9]|3[0-2]|${ipv4'}))?|${ipv6'}(/([0-9]|[1-9][0-9]|1[01][0-9]|12[0-8]))?";
  addressOrDomain = checked "address or domain name" types.str (value: isDomain value || fits "${ipv4'}|${ipv6'}" value);
  endpoint = text "host:port (192.168.15.9:22)" "[][A-Za-z0-9.:-]+:${port'}";
  listener = text "address:port (127.0.0.1:9464)" "(${ipv4'}|\\[[0-9a-fA-F:]+]|localhost):${port'}";
  loopback = text "loopback address with its port (127.0.0.1:9180)" "127([.]${octet'}){3}:${port'}";
  server = text "address of a control server (https://hs.example.com)" "${server'}/?";
  url = text "address of a page (https://example.org/health)" "${server'}(/[A-Za-z0-9._~/%?&=+-]*)?";
  alert = text "address of an alert (ntfy://topic)" "[a-z][a-z0-9+.-]{1,30}://[^[:space:][:cntrl:]]+";
  argument = text "text without control characters" "[^[:cntrl:]]+";
  upstream = types.either port (text "upstream (8000, 192.168.15.9:8000, http://127.0.0.1:8080, unix:/run/app.sock)"
    "((https?://)?((${domain'}|\\[[0-9a-fA-F:]{2,45}]):)?0*${port'}/?|unix:/[A-Za-z0-9._/+@-]{1,100})( backup)?");

  interface = text "interface name (eth0)" interface';
  interfacePattern = text "interface name, or the start of one with a star (eth0, veth*)"
    interfacePattern';
  key = text "name of lower-case letters, digits, - and _ (internal)" key';
  servicePorts = checked "ports of a protocol (tcp/8000, udp/8000-8010)" types.str
    (value: fits "(tcp|udp)/.*" value && range (builtins.substring 4 (-1) value) != null);
  user = text "name of a local user (alice)" "[a-z_][a-z0-9_-]{0,31}";
  tag = text "tag (tag:server)" tag';
  principal = text "login or tag (alice@example.com, tag:client)" "${tag'}|[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{0,190}";
  location = text "path of a page (/wiki)" "/[A-Za-z0-9._~/-]{0,200}";
  secretKey = text "key of the secrets file (authkey)" "[A-Za-z0-9_.-]{1,128}";
  file = checked "absolute path of letters, digits and . _ / + @ -" types.path isPath;
  relativeFile = checked "path of letters, digits and . _ / + @ -" types.str isPath;
  sysctl = types.either types.bool (types.either types.int
    (text "value of a kernel parameter" "[ \t]*[A-Za-z0-9._:+-][A-Za-z0-9._:+ \t-]{0,199}"));

  # Names have alphabets too. For sets of submodules contradictions.nix asks: nixpkgs forgets the check of such a type.
  isKey = fits key';
  isInterface = fits interface';
  isInterfacePattern = fits interfacePattern';
  # iptables ends a wildcard with a plus.
  asPattern = name: if lib.hasSuffix "+" name then "${lib.removeSuffix "+" name}*" else name;
  byDomain = byName "domain name" isDomain;
  bySysctl = byName "kernel parameter (net.core.rmem_max)" (fits "[a-z][a-z0-9_]*([./][A-Za-z0-9_@-]+){1,7}");
  someOf = type: checked "list of at least one ${type.description}" (types.listOf type) (value: value != [ ]);
}
