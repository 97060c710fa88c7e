"""What every section of the file shares: frozen, closed to unknown keys, named as in the file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in the file. Unknown keys are faults; values cannot be changed after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid")
