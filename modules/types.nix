# Values with units, as tsstack.yaml writes them. The loader judges them again, with a place and a hint.
{ lib }:
let
  inherit (lib) types;
  text = description: pattern: types.strMatching pattern // { inherit description; };
in
{
  duration = text "duration (500ms, 30s, 2m)" "[0-9]{1,9}([.][0-9]{1,6})?(ms|s|m|h|d)";
  size = types.either types.ints.unsigned (text "size (64k, 500M)" "[0-9]{1,15}[kKmMgG]?");
  rate = text "request rate (20r/s, 300r/m)" "[0-9]{1,7}r/[sm]";
  bandwidth = text "bandwidth (500kbit, 10mbit)" "[0-9]{1,12}(bit|kbit|mbit|gbit)";
  burst = text "burst (32kbit, 4kb)" "[0-9]{1,12}(bit|kbit|mbit|b|k|kb|m|mb)";
  ports = types.either types.port (text "range of ports (8000-8100)" "[0-9]{1,5}(-[0-9]{1,5})?");
}
