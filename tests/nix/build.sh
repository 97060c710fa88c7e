# As much of nixpkgs' stdenv as the package's build script calls, by its manual (section "setup hooks").
set -euo pipefail

# makeWrapper PROGRAM OUT [--add-flags WORDS] [--prefix VARIABLE SEPARATOR VALUE]
makeWrapper() {
  local program=$1 made=$2 flags= lines=
  shift 2
  while [ $# -gt 0 ]; do
    case $1 in
      --add-flags) flags+=" $2" && shift 2 ;;
      --prefix) lines+="export $2=$4$3\$$2"$'\n' && shift 4 ;;
      *) echo "makeWrapper: $1?" >&2 && return 1 ;;
    esac
  done
  printf '#!/bin/bash -e\n%sexec "%s" %s "$@"\n' "$lines" "$program" "$flags" >"$made"
  chmod +x "$made"
}

# substitute IN OUT [--replace-quiet OLD NEW]...
substitute() {
  local text made=$2
  text=$(cat "$1")
  shift 2
  while [ $# -gt 0 ]; do
    [ "$1" = --replace-quiet ] || return 1
    text=${text//"$2"/"$3"}
    shift 3
  done
  printf '%s\n' "$text" >"$made"
}
