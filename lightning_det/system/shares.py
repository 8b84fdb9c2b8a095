"""Checks arguments that are shares: IoUs and parts of areas."""


def check_shares(**values: float) -> None:
    """Refuses thresholds that nothing, or everything, would pass.

    Args:
        **values: by the name of the argument.

    Raises:
        ValueError: a value is not 0 to 1.
    """
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be 0 to 1, got {value}")
