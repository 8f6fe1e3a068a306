"""How much two cores do that one does not: generated rows into a table on disk, as fast as they go."""

import datetime
import statistics
import time

import process

SECONDS = 26
TARGET = 1.7


def rate(place, cores, number):
    """Rows a second between the first commit and the last."""
    folder = place.folder / f"cores-{len(cores)}-{number}"
    folder.mkdir()
    settings = folder / "frazil.toml"
    settings.write_text(process.SHOP.format(folder=folder, threads=len(cores), freshness=5), encoding="utf-8")
    words = ["taskset", "--cpu-list", ",".join(map(str, cores)), place.frazil, "run", "-c", settings]
    with process.running(words, folder / "log"):
        time.sleep(SECONDS)
        told = process.commits(folder / "log")
    if len(told) < 3:
        raise process.Failure(f"{len(told)} commits in {SECONDS} s; see {folder}/log")
    first, *others = told
    at = [datetime.datetime.fromisoformat(one["timestamp"]) for one in (first, others[-1])]
    return sum(one["rows"] for one in others) / (at[1] - at[0]).total_seconds()


def run(place, sizes):
    pairs = [(rate(place, (0,), number), rate(place, (0, 1), number)) for number in range(sizes.pairs)]
    ratios = [two / one for one, two in pairs]
    ratio = statistics.median(ratios)
    yield [
        f"Rows a second, generated, one core {statistics.median(one for one, _ in pairs):.0f}, "
        f"two {statistics.median(two for _, two in pairs):.0f}, {len(pairs)} pairs",
        f"    {ratio:.2f} x ({min(ratios):.2f} to {max(ratios):.2f}), target {TARGET}: {'holds' if ratio >= TARGET else 'MISSED'}",
    ]
