"""What programs do, by subject; to import this package registers all of it."""

from programs.actions import (
    groups,
    parameters,
    saving,
    state,
    stepping,
    surroundings,
    wrappers,
)

__all__ = ["groups", "parameters", "saving", "state", "stepping", "surroundings", "wrappers"]
