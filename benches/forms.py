"""What a topic costs in other forms: rows as Avro, a partitioned table, a steady stream, 500 partitions into 1,000 tables."""

import datetime
import os
import statistics
import subprocess
import time

import inputs
import process
import topic

AVRO_TARGET = 1.15
PARTITIONED_TARGET = 1.3
DAY_AND_BUCKET = [
    {"name": "day", "transform": "day", "source-id": 3, "field-id": 1000},
    {"name": "user", "transform": "bucket[16]", "source-id": 6, "field-id": 1001},
]
# The steady stream: seconds of freshness, seconds that are measured, rows that the producer draws from.
FRESHNESS, SECONDS, DRAWN = 10, 90, 20_000
COMMITS = 2
WIDE, MANY, MANY_ROWS, MANY_TARGET = 500, 1000, 500_000, 1536

AVRO = topic.TABLE + """
[pipeline.rows.decode]
format = "avro"
schema = {{ file = "{folder}/../events.avsc" }}
"""
TABLES = """
table = "lake.{name}.t{{grp}}"
anchor = "lake.{name}.epochs"
"""


def drained(servers, name, of, pipeline=topic.TABLE, spec=None):
    servers.create(name, spec)
    with topic.started(servers, name, of, pipeline) as child:
        return topic.Run(servers, name, child.pid)


def compared(servers, title, pairs, target, least):
    """Rows for each CPU-second in the other form, as a part of the plain one's."""
    ratios = [plain.cpu / other.cpu for plain, other in pairs]
    ratio = statistics.median(ratios)
    good = ratio >= target if least else 1 / ratio <= target
    plain, other = (statistics.median(pair[side].cpu for pair in pairs) for side in (0, 1))
    shown = ratio if least else 1 / ratio
    what = "rows for each CPU-second" if least else "CPU"
    return [
        f"{title}: {servers.rows} rows, {len(pairs)} pairs",
        f"    {servers.rows / other:.0f} rows/CPU-s beside {servers.rows / plain:.0f}; {what} {shown:.2f} x, "
        f"target {target}: {'holds' if good else 'MISSED'}",
    ]


def fastest(servers):
    """Rows a second while there are as many as are taken: from the first commit to the last."""
    name = f"fastest_{os.getpid()}"
    servers.create(name)
    with topic.started(servers, name, servers.topic, freshness=1) as child:
        topic.Run(servers, name, child.pid)
        told = process.commits(servers.folder / name / "log")
    if len(told) < 3:
        raise process.Failure(f"{len(told)} commits; see {servers.folder / name}/log")
    at = [datetime.datetime.fromisoformat(one["timestamp"]) for one in told]
    return int(sum(one["rows"] for one in told[1:]) / (at[-1] - at[0]).total_seconds())


def steady(servers, folder, rate):
    """A stream of half the highest rate: how old the oldest record of a commit is at its end, by its own timestamp."""
    drawn = folder / "drawn.ndjson"
    with open(inputs.events(folder, servers.rows), encoding="ascii") as rows, open(drawn, "w", encoding="ascii") as out:
        for _, line in zip(range(DRAWN), rows):
            out.write(line)
    name = f"steady_{os.getpid()}"
    servers.topic_of(name, topic.PARTITIONS)
    servers.create(name)
    words = ["--bootstrap-server", servers.kafka_brokers, "--topic", name, "--payload-file", str(drawn), "--throughput", str(rate)]
    words += ["--num-records", str(rate * (SECONDS + 3 * FRESHNESS)), "--command-property", "compression.type=zstd"]
    words += ["--command-property", "linger.ms=50"]
    with topic.started(servers, name, name, freshness=FRESHNESS):
        with process.running(servers.java("ProducerPerformance", *words), folder / "produce.log"):
            time.sleep(3 * FRESHNESS)
            before = len(process.commits(servers.folder / name / "log"))
            began = time.monotonic()
            time.sleep(SECONDS)
            took = time.monotonic() - began
            told = process.commits(servers.folder / name / "log")[before:]
    if not told:
        raise process.Failure(f"no commit in {SECONDS} s; see {servers.folder / name}/log")
    slowest = process.percentile([one["ms"] / 1000 for one in told], 0.95)
    age = process.percentile(process.ages(told), 0.95)
    most = FRESHNESS + COMMITS * slowest
    return [
        f"A steady stream: {sum(one['rows'] for one in told) / took:.0f} rows/s of {rate} that were asked for, {FRESHNESS} s",
        f"    {len(told)} commits, p95 {slowest:.2f} s; oldest record of a commit p95 {age:.1f} s, "
        f"target {most:.1f}: {'holds' if age <= most else 'MISSED'}",
    ]


def wide(servers, folder):
    """Every partition of the topic and every table at once."""
    name = f"wide_{os.getpid()}"
    servers.fill(name, WIDE, inputs.partitioned(folder, MANY_ROWS, MANY), "batch.size=16384")
    with topic.started(servers, name, name, TABLES, ", tables = 1100") as child:
        end = time.monotonic() + topic.PATIENCE
        while (rows := sum(one["rows"] for one in process.commits(servers.folder / name / "log"))) < MANY_ROWS:
            if time.monotonic() > end or child.poll() is not None:
                raise process.Failure(f"{name}: {rows} of {MANY_ROWS} rows")
            time.sleep(1)
        cpu, peak = topic.spent(child.pid), process.resident(child.pid)[1]
    verdict = "holds" if peak <= MANY_TARGET else "MISSED"
    return [
        f"{WIDE} partitions of a topic into {MANY} tables: {MANY_ROWS} rows, {cpu:.1f} CPU-s, peak {peak:.0f} MiB, "
        f"target {MANY_TARGET}: {verdict}"
    ]


def run(place, sizes):
    servers = topic.Servers(place, sizes, "kafka-client")
    try:
        same, avro = f"same-{sizes.rows}", f"avro-{sizes.rows}"
        servers.topic_of(same, topic.PARTITIONS)
        servers.topic_of(avro, topic.PARTITIONS)
        script = os.path.join(os.path.dirname(__file__), "avro_rows.py")
        with open(inputs.events(place.inputs, sizes.rows), "rb") as rows:
            words = [servers.kafka_python, script, servers.kafka_brokers, same, avro, servers.folder / "events.avsc"]
            subprocess.run(words, stdin=rows, check=True)
        pairs, split = [], []
        for number in range(sizes.pairs):
            name = f"{{}}_{os.getpid()}_{number}"
            plain = drained(servers, name.format("plain"), same)
            pairs.append((plain, drained(servers, name.format("avro"), avro, AVRO)))
            split.append((plain, drained(servers, name.format("split"), same, spec=DAY_AND_BUCKET)))
        yield compared(servers, "Rows as Avro beside JSON", pairs, AVRO_TARGET, True)
        yield compared(servers, "A table by day and bucket 16 beside one without partitions", split, PARTITIONED_TARGET, False)
        yield steady(servers, place.inputs, fastest(servers) // 2)
        yield wide(servers, place.inputs)
    finally:
        servers.stop()
