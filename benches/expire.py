"""Expiry of a long history, against Spark's procedure on the same table: seconds, CPU and memory. Afterwards both have left the
same objects.
"""

import json
import pathlib
import shutil
import statistics
import subprocess
import sys

import foreign
import process
import synthetic

SNAPSHOTS, EACH = 5_000, 41
WARMING = 200
RATIO, PEAK = 5, 500
# More than the ten minutes between two steps, in milliseconds.
DEADLINE_MS = 700_000
# The default rate is what one prefix of S3 takes; local files have no such limit, and Spark has no such manners.
FAST = "1000000"

CONFIGURATION = """
state_dir = "{folder}/state"
limits = {{ workers = {threads} }}

[catalog.lake]
type = "rest"
uri = "{uri}"
"""


class Copies:
    """One table's files at one place, put back as they were before each run."""

    def __init__(self, folder, snapshots, each):
        self.at, self.kept = folder / "table", folder / "kept"
        self.metadata = synthetic.history(self.at, snapshots, each)
        # Other names of the same files: what is deleted at one place is still at the other.
        subprocess.run(["cp", "-al", self.at, self.kept], check=True)
        self.dirty = False

    def fresh(self):
        if self.dirty:
            shutil.rmtree(self.at)
            subprocess.run(["cp", "-al", self.kept, self.at], check=True)
            subprocess.run(["sync"], check=True)
        self.dirty = True
        return self.metadata

    def left(self):
        """The objects that are there, metadata documents aside."""
        files = (file.relative_to(self.at) for file in self.at.rglob("*") if file.is_file())
        return {str(file) for file in files if file.suffix in (".parquet", ".avro")}


class Steps:
    """Our expiry: three runs of the program, ten minutes apart as the notes have it."""

    def __init__(self, place, uri):
        self.place = place
        self.folder = place.folder / "expiry"
        self.folder.mkdir()
        self.settings = self.folder / "frazil.toml"
        values = {"folder": self.folder, "threads": place.threads, "uri": uri}
        self.settings.write_text(CONFIGURATION.format(**values), encoding="utf-8")

    def run(self, table, rate):
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        words = [self.place.frazil, "expire", table, "--older-than", "1h", "--yes", "-c", self.settings]
        words += ["--delete-rate", rate] if rate else []
        costs = []
        for step in range(3):
            if step > 0:
                self.age()
            costs.append(process.measure(words, self.folder / f"step-{step}.log"))
        return costs

    def age(self):
        """What is noted, as if ten minutes more had passed."""
        for path in (self.folder / "state" / "expiry").glob("*expiry-*.json"):
            note = json.loads(path.read_text(encoding="utf-8"))
            note["noted"] = {key: at - DEADLINE_MS for key, at in note["noted"].items()}
            for batch in note["batches"]:
                for key in ("sent_ms", "gone_ms"):
                    batch[key] = batch[key] and batch[key] - DEADLINE_MS
            path.write_text(json.dumps(note), encoding="utf-8")


def spark(lake, table):
    arguments = f"table => '{table}', older_than => TIMESTAMP '2100-01-01 00:00:00', retain_last => 1"
    return lake.spark(sql=f"CALL lake.system.expire_snapshots({arguments})")


def run(place, sizes):
    folder = pathlib.Path(place.folder) / "histories"
    with foreign.lake(place) as lake:
        steps = Steps(place, lake.uri)
        print("bench: writes the tables", file=sys.stderr, flush=True)
        small = Copies(folder / "small", WARMING, EACH)
        lake.register("warm", small.fresh())
        spark(lake, "bench.warm")
        lake.register("warm_ours", small.fresh())
        steps.run("bench.warm_ours", FAST)
        table = Copies(folder / "large", SNAPSHOTS, EACH)
        ours, theirs, shown = [], [], []
        before = len(table.left())
        for pair in range(sizes.pairs):
            lake.register(f"ours_{pair}", table.fresh())
            ours.append(steps.run(f"bench.ours_{pair}", FAST))
            left = table.left()
            lake.register(f"spark_{pair}", table.fresh())
            theirs.append(spark(lake, f"bench.spark_{pair}"))
            other = table.left()
            if left != other:
                raise process.Failure(f"not the same objects are left: {sorted(left ^ other)[:5]}")
            own = " + ".join(f"{cost.wall:.1f}" for cost in ours[-1])
            shown.append(f"    {own} s beside {theirs[-1]['wall']:.1f} s")
    walls = [sum(cost.wall for cost in costs) for costs in ours]
    cpus = [sum(cost.cpu for cost in costs) for costs in ours]
    peak = max(cost.peak for costs in ours for cost in costs)
    ratios = [other["wall"] / own for own, other in zip(walls, theirs)]
    ratio = statistics.median(ratios)
    work = statistics.median(other["cpu"] / own for own, other in zip(cpus, theirs))
    verdict = "holds" if ratio >= RATIO else "MISSED"
    yield [
        f"expire: {SNAPSHOTS} snapshots, {before} objects, of which {len(left)} stay",
        *shown,
        f"    frazil  {statistics.median(walls):6.2f} s  {statistics.median(cpus):6.2f} CPU-s  peak {peak:.0f} MiB, "
        f"target {PEAK}: {'holds' if peak <= PEAK else 'MISSED'}",
        f"    Spark   {statistics.median(t['wall'] for t in theirs):6.2f} s  {statistics.median(t['cpu'] for t in theirs):6.2f} CPU-s",
        f"    {ratio:.1f} times as fast ({min(ratios):.1f} to {max(ratios):.1f}), target {RATIO}: {verdict}; {work:.1f} times less CPU ({len(ours)} pairs)",
    ]
