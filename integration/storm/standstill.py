"""How long nothing was committed while it stormed: who loses no row because none is committed has not stood the storm."""

import typing


class Standstill(typing.NamedTuple):
    """From one commit of rows, or the first moment of the storm, to the next, or its last."""

    began: float
    seconds: float
    # Kills before it and in it.
    before: int
    kills: int

    def __str__(self):
        return f"{self.seconds:.0f} s ({self.kills} kills)"


def longest(began, ended, commits, kills):
    """The longest one of a storm, of the moments of its commits and kills; what was before and after it is not looked at."""
    moments = [began, *sorted(at for at in commits if began < at < ended), ended]

    def between(start, end):
        within = sum(start < at <= end for at in kills)
        return Standstill(start, end - start, sum(began <= at <= start for at in kills), within)

    return max((between(*pair) for pair in zip(moments, moments[1:])), key=lambda one: one.seconds)


def judge(standstill, most, when):
    """Problems, as sentences; `most` is how many seconds it may last, `when` the time of day at which it began."""
    if standstill is None or standstill.seconds <= most:
        return []
    return [f"no daemon committed rows for {standstill}, from {when} on, after kill {standstill.before}: more than {most:.0f} s"]
