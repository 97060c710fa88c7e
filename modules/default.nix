# All of tsstack. Each module at a path of its own brings the same, so importing any one is enough, and all do no harm.
{
  imports = [ ./tsstack.nix ];
}
