"""What an engine found against what must be there: each row once, with its own text, and nothing else."""

import collections

SHOWN = 8


def judge(found, wanted, doubtful=frozenset()):
    """Problems, as sentences. `found` are (id, text), `wanted` ids; `doubtful` ones are there once or not at all."""
    times = collections.Counter(id for id, _ in found)
    problems = []

    def tell(what, ids):
        if ids:
            shown = ", ".join(str(id) for id in sorted(ids)[:SHOWN])
            problems.append(f"{len(ids)} rows {what}: {shown}{' …' if len(ids) > SHOWN else ''}")

    tell("lost", wanted - times.keys())
    tell("twice or more", {id for id, number in times.items() if number > 1})
    tell("that nobody wrote", times.keys() - wanted - doubtful)
    tell("with another row's text", {id for id, text in found if text != f"row-{id}"})
    return problems


def missing(who, counts, wanted):
    """What somebody has not done at all, as sentences: a storm that they sat out proves nothing about it."""
    return [f"{who} not once {name}" for name in wanted if not counts[name]]


def counters(engines, all_engines=("DuckDB", "Spark", "Trino")):
    """Who has counted, and who has not, for the last line."""
    *some, last = engines
    left = [name for name in all_engines if name not in engines]
    told = f"{', '.join(some)} and {last} count" if some else f"{last} counts"
    return told + (f" ({', '.join(left)} left out)" if left else "")
