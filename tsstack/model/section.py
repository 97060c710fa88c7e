"""What every section of the file shares: frozen, closed to unknown keys, named as in the file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in the file. Unknown keys are faults; values cannot be changed after loading."""

    # Built when a file is first read, all sections at once, and not one by one at import.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
