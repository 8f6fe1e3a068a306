"""Planning on a million files, and what expiry of a million files would do: seconds and memory. And a look at a hundred healthy
tables.
"""

import pathlib
import sqlite3
import subprocess
import sys

import process
import synthetic

FILES, PARTITIONS, PEAK = 1_000_000, 1_000, 1024
SNAPSHOTS, EACH = 10_000, 102
TABLES, SECONDS = 100, 5

CONFIGURATION = """
state_dir = "{folder}/state"
limits = {{ workers = {threads} }}

[catalog.local]
type = "embedded"
path = "{folder}/catalog.db"
warehouse = "{folder}/warehouse"

[policy."*"]
expire = {{ keep = "36500d" }}
"""


class Lake:
    """An embedded catalog, to which tables are added that are there."""

    def __init__(self, place):
        self.place = place
        self.folder = pathlib.Path(place.folder) / "plans"
        self.folder.mkdir()
        self.settings = self.folder / "frazil.toml"
        self.settings.write_text(CONFIGURATION.format(folder=self.folder, threads=place.threads), encoding="utf-8")
        self.frazil("table", "list")

    def frazil(self, *words):
        return process.measure([self.place.frazil, *words, "-c", self.settings], self.folder / "log")

    def said(self):
        return (self.folder / "log").read_text(encoding="utf-8")

    def add(self, name, metadata):
        with sqlite3.connect(self.folder / "catalog.db") as catalog:
            catalog.execute("INSERT OR IGNORE INTO namespaces VALUES ('[\"bench\"]', '[]', '{}')")
            row = ('["bench"]', name, metadata.partition("/metadata/")[0], metadata)
            catalog.execute("INSERT INTO tables (namespace, name, location, metadata_location) VALUES (?, ?, ?, ?)", row)


def verdict(cost):
    return f"{cost.wall:.1f} s, {cost.cpu:.1f} CPU-s, peak {cost.peak:.0f} MiB"


def run(place, _sizes):
    lake = Lake(place)
    print("bench: writes the tables", file=sys.stderr, flush=True)
    for at in range(TABLES):
        lake.add(f"healthy_{at}", synthetic.history(lake.folder / f"healthy-{at}", 50, 5))
    before = documents(lake.folder)
    cost = lake.frazil("maintain", "bench.healthy_*")
    if documents(lake.folder) != before or f"{TABLES} tables, {TABLES} with nothing due" not in lake.said():
        raise process.Failure(f"something was written or done:\n{lake.said()[-2000:]}")
    ends = "holds" if cost.wall <= SECONDS else "MISSED"
    yield [f"maintain over {TABLES} healthy tables: {verdict(cost)}, no write; target {SECONDS} s: {ends}"]
    lake.add("wide", synthetic.wide(lake.folder / "wide", FILES, PARTITIONS))
    for words in (["compact", "--dry-run"], ["maintain", "--dry-run"], ["health"]):
        cost = lake.frazil(*words, "bench.wide")
        ends = "holds" if cost.peak <= PEAK else "MISSED"
        yield [f"plan: {' '.join(words)} of {FILES} files in {PARTITIONS} partitions: {verdict(cost)}; target {PEAK} MiB: {ends}"]
    lake.add("long", synthetic.history(lake.folder / "long", SNAPSHOTS, EACH, objects=False))
    cost = lake.frazil("expire", "--dry-run", "--older-than", "1h", "bench.long")
    yield [f"expire --dry-run of {SNAPSHOTS} snapshots and {SNAPSHOTS * EACH} files: {verdict(cost)}"]


def documents(folder):
    """Everything in the tables' folders, with its time."""
    found = subprocess.run(
        ["find", folder, "-path", "*healthy-*", "-printf", "%p %T@\\n"], check=True, stdout=subprocess.PIPE
    )
    return sorted(found.stdout.splitlines())
