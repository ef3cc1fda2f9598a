"""The Triton backend (under construction)."""


def unusable(device_type: str) -> str | None:
    return "under construction"
