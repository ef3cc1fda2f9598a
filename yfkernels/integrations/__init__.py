"""For other people's programs: what an optimizer did, as numbers for a logger."""

from yfkernels.integrations.log_dict import log_dict, unwrapped

__all__ = ["log_dict", "unwrapped"]
