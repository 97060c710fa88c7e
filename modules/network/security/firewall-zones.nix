# Brings all of tsstack: its options refer to each other, and imports must not go round.
{
  imports = [ ../../tsstack.nix ];
}
