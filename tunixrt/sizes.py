"""How sizes are written: on pages, in the admin and in sentences."""

_UNITS = ("kB", "MB", "GB", "TB", "PB")


def size(count: float) -> str:
    """Return bytes as a person reads them, in units of 1000: ``36 bytes``, ``1.5 kB``, ``916.2
    MB``."""
    if round(count) < 1000:
        return f"{round(count)} byte{'' if round(count) == 1 else 's'}"
    count, place = count / 1000, 0
    while count >= 999.95 and place < len(_UNITS) - 1:
        count, place = count / 1000, place + 1
    return f"{count:,.1f} {_UNITS[place]}"
