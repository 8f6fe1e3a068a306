"""Daemons of one group on one table, whose catalog takes 0.3 s for each answer: attempts of their commits, and how old rows are."""

import os
import statistics
import subprocess
import time

import component
import process
import proxy
from input import Topic

# Daemons, freshness in seconds, seconds that are measured, and whether a target is set.
FLEETS = ((4, 10, 240, True), (16, 60, 420, True), (16, 5, 120, False))
LATENCY = 0.3
ATTEMPTS = 3
# The oldest record of a commit may be as old at its end as the target and twice the commit, by its own timestamp.
COMMITS = 2

CONFIGURATION = """
instance = "{name}"
state_dir = "{folder}/{name}"
limits = {{ workers = 1, memory = "128MiB" }}

[catalog.lake]
type = "rest"
uri = "http://127.0.0.1:{catalog}"

[store."s3://{bucket}"]
endpoint = "{endpoint}"
access_key_id = "{key}"
secret_access_key = "{secret}"
region = "{region}"
allow_http = "true"

[source.rows]
type = "kafka"
brokers = ["{brokers}"]
group = "{topic}"
topics = ["{topic}"]

[pipeline.rows]
source = "rows"
table = "lake.{topic}.events"
commit = {{ freshness = "{freshness}s" }}
create = {{ columns = ["id long", "text string"] }}
"""


class Fleet:
    def __init__(self, place, values, size, freshness, seconds):
        self.folder = place.folder / f"fleet-{size}-{freshness}"
        self.folder.mkdir()
        topic = f"fleet_{os.getpid()}_{size}_{freshness}"
        rows = Topic(values["kafka_python"], values["brokers"], topic, 1, self.folder / "produce.log", size)
        rows.start()
        children = []
        try:
            for number in range(size):
                name = f"d{number:02}"
                settings = self.folder / f"{name}.toml"
                own = {**values, "name": name, "folder": self.folder, "topic": topic, "freshness": freshness}
                settings.write_text(CONFIGURATION.format(**own), encoding="utf-8")
                with open(self.folder / f"{name}.log", "wb") as log:
                    words = [place.frazil, "run", "-c", settings]
                    children.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
            # Members come one after the other; what is committed meanwhile is not what is asked for.
            time.sleep(30 + 2 * freshness)
            before = [len(self.told(number)) for number in range(size)]
            time.sleep(seconds)
            # When they are asked to stop all commit what is open, at once.
            self.commits = [one for number in range(size) for one in self.told(number)[before[number] :]]
            if ended := [child.returncode for child in children if child.poll() is not None]:
                raise process.Failure(f"daemons ended by themselves with {ended}; {self.told(0)}")
        finally:
            rows.enough.set()
            for child in children:
                child.terminate()
            for child in children:
                child.wait()
            rows.join()

    def told(self, number):
        """What a daemon's log says of its commits."""
        return process.commits(self.folder / f"d{number:02}.log")


def run(place, sizes):
    servers = [component.load(name, component.Run.from_environment()) for name in ("seaweedfs", "apache-rest", "kafka", "kafka-client")]
    known = {}
    try:
        for part in servers:
            part.start()
            known.update(part.environment())
        host, port = known["APACHE_REST_URI"].removeprefix("http://").split(":")
        proxy.LATENCY = (LATENCY, LATENCY)
        door = proxy.Door((host, int(port)), {"latency": 1.0}, "fleet", b"")
        values = {
            "bucket": known["S3_BUCKET"], "endpoint": known["S3_ENDPOINT"], "key": known["S3_ACCESS_KEY_ID"],
            "secret": known["S3_SECRET_ACCESS_KEY"], "region": known["S3_REGION"], "brokers": known["KAFKA_BROKERS"],
            "kafka_python": known["KAFKA_PYTHON"],
        }
        with proxy.Doors([door]):
            for size, freshness, seconds, wanted in FLEETS:
                yield lines(Fleet(place, {**values, "catalog": door.port}, size, freshness, seconds), size, freshness, wanted)
    finally:
        for part in reversed(servers):
            part.stop()


def lines(fleet, size, freshness, wanted):
    attempts = [one["attempts"] for one in fleet.commits]
    slowest = process.percentile([one["ms"] / 1000 for one in fleet.commits], 0.95)
    age = process.percentile(process.ages(fleet.commits), 0.95)
    most = process.percentile(attempts, 0.99)
    verdict = ""
    if wanted:
        good = most <= ATTEMPTS and age <= freshness + COMMITS * slowest
        verdict = f"; targets {ATTEMPTS} attempts, {freshness + COMMITS * slowest:.1f} s: {'hold' if good else 'MISSED'}"
    return [
        f"{size} daemons, one table, {freshness} s, catalog answers in {LATENCY} s: {len(attempts)} commits",
        f"    attempts: {statistics.mean(attempts):.2f} on average, {most} at p99, {max(attempts)} at most",
        f"    commit p95 {slowest:.1f} s; oldest record of a commit p95 {age:.1f} s{verdict}",
    ]
