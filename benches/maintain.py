"""A generated stream as fast as it is taken, with maintenance beside it and without: rows committed in the same time, in pairs."""

import json
import shutil
import statistics
import subprocess
import time

import process

SECONDS = 70
WANTED = 0.8

# The default budget. Nothing is ever quiet here, so a few files are already many.
POLICY = """
[policy."*"]
every = "1s"
compact = { hot_files_max = 5 }
"""


class Stream:
    """The same stream, with jobs and without."""

    def __init__(self, place):
        self.place = place

    def run(self, policy):
        folder = self.place.folder / "stream"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        settings = folder / "frazil.toml"
        settings.write_text(process.SHOP.format(folder=folder, threads=self.place.threads, freshness=1) + policy, encoding="utf-8")
        words = [self.place.frazil, "run", "-c", settings]
        with process.running(words, folder / "log"):
            time.sleep(SECONDS)
        table = self.ask(settings, "show")
        operations = [snapshot["operation"] for snapshot in self.ask(settings, "history")["snapshots"]]
        summary = table["current-snapshot"]["summary"]
        return int(summary["total-records"]), int(summary["total-data-files"]), operations.count("replace")

    def ask(self, settings, verb):
        words = [self.place.frazil, "table", verb, "local.bench.shop", "--json", "-c", settings]
        return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE).stdout)


def run(place, sizes):
    stream = Stream(place)
    ratios, shown = [], []
    stream.run("")  # warming up
    for _ in range(sizes.pairs):
        alone, many, _ = stream.run("")
        beside, few, rewrites = stream.run(POLICY)
        ratios.append(beside / alone)
        shown.append(f"    {alone / SECONDS:9.0f} rows/s alone, {many} files;  {beside / SECONDS:9.0f} with maintenance, {few} files, {rewrites} rewrites")
        if rewrites == 0:
            raise process.Failure("nothing was rewritten: there is nothing to compare")
    ratio = statistics.median(ratios)
    holds = "holds" if ratio >= WANTED else "MISSED"
    yield [
        f"ingest beside maintenance: {SECONDS} s each, {place.threads} threads, {len(ratios)} pairs",
        *shown,
        f"    ratio of rows {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), target {WANTED} or more: {holds}",
    ]
