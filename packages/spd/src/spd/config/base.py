"""What all settings have in common."""

from pydantic import BaseModel, ConfigDict

__all__ = ["Frozen"]


class Frozen(BaseModel):
    """A group of settings that does not change after it was built."""

    model_config = ConfigDict(frozen=True, extra="forbid")
