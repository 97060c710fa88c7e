"""Manual pages and completions as files, for packages: `python -m tsstack.cli.share FOLDER`.

FOLDER is what a distribution calls /usr/share.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tsstack.cli.completion import completion_files
from tsstack.cli.manual import pages

_COMPLETIONS = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/site-functions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}


def share_files() -> dict[str, str]:
    """Every file with its text, by its path below the folder."""
    found = {f"man/man{name[-1]}/{name}": text for name, text in pages().items()}
    for shell, form in _COMPLETIONS.items():
        found |= {form.format(name): text for name, text in completion_files(shell).items()}
    return found


if __name__ == "__main__":
    for name, text in share_files().items():
        path = Path(sys.argv[1], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
