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


def missing(jobs, wanted):
    """What our own maintenance has not done at all, as sentences: a storm that it sat out proves nothing about it."""
    return [f"our own jobs have not once {name}" for name in wanted if not jobs[name]]
