"""A Kafka topic to a committed table on S3, against Kafka Connect with Apache Iceberg's sink: CPU, memory, size of the table."""

import json
import os
import statistics
import subprocess
import time
import urllib.error
import urllib.request

import component
import inputs
import process

PARTITIONS = 16
PATIENCE = 600

# The columns of the 1 KB class, as both tables are created.
COLUMNS = (
    ("event_id", "string"),
    ("seq", "long"),
    ("event_time", "timestamptz"),
    ("received_ms", "timestamptz"),
    ("tenant", "string"),
    ("user_id", "long"),
    ("event_type", "string"),
    ("country", "string"),
    ("amount", "double"),
    ("quantity", "int"),
    ("user_agent", "string"),
    ("url", "string"),
    ("description", "string"),
)

CONFIGURATION = """
instance = "bench"
state_dir = "{folder}/state"
limits = {{ workers = {threads}{limits} }}

[catalog.lake]
type = "rest"
uri = "{catalog}"

[store."s3://{bucket}"]
endpoint = "{endpoint}"
access_key_id = "{key}"
secret_access_key = "{secret}"
region = "{region}"
allow_http = "true"

[source.rows]
type = "kafka"
brokers = ["{brokers}"]
group = "{name}"
topics = ["{topic}"]

[pipeline.rows]
source = "rows"
commit = {{ freshness = "{freshness}s" }}
"""
TABLE = 'table = "lake.bench.{name}"\n'


def call(method, uri, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(uri, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read()
    return json.loads(text) if text else None


class Servers:
    """The broker, the store and the catalog with one component more, and the topic of events filled."""

    def __init__(self, place, sizes, more):
        run = component.Run.from_environment()
        self.parts = [component.load(name, run) for name in ("seaweedfs", "apache-rest", "kafka", more)]
        self.folder, self.threads, self.frazil = place.folder, place.threads, place.frazil
        for part in self.parts:
            part.start()
            vars(self).update({key.lower(): value for key, value in part.environment().items()})
        self.topic, self.rows = f"events-{sizes.rows}", sizes.rows
        source = inputs.events(place.inputs, sizes.rows)
        self.bytes = source.stat().st_size
        self.fill(self.topic, PARTITIONS, source, "batch.size=262144")
        try:
            call("POST", f"{self.apache_rest_uri}/v1/namespaces", {"namespace": ["bench"], "properties": {}})
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise

    def java(self, tool, *words):
        """The words that start one of Kafka's own tools."""
        return ["java", "-Xmx512m", "-cp", f"{self.parts[2].home}/lib/*", f"org.apache.kafka.tools.{tool}", *words]

    def topic_of(self, topic, partitions):
        make = ["--create", "--topic", topic, "--partitions", str(partitions), "--config", "retention.ms=-1"]
        words = self.java("TopicCommand", "--bootstrap-server", self.kafka_brokers, *make)
        subprocess.run(words, check=True, capture_output=True)

    def fill(self, topic, partitions, source, *settings):
        """A new topic of the file's lines."""
        self.topic_of(topic, partitions)
        send = self.java("ConsoleProducer", "--bootstrap-server", self.kafka_brokers, "--topic", topic)
        for setting in ("compression.type=zstd", "linger.ms=50", *settings):
            send += ["--command-property", setting]
        with open(source, "rb") as rows:
            subprocess.run(send, stdin=rows, check=True, capture_output=True)

    def stop(self):
        for part in reversed(self.parts):
            part.stop()

    def create(self, name, spec=None):
        fields = [
            {"id": number, "name": column, "type": kind, "required": False}
            for number, (column, kind) in enumerate(COLUMNS, 1)
        ]
        table = {"name": name, "schema": {"type": "struct", "schema-id": 0, "fields": fields}}
        if spec:
            table["partition-spec"] = {"spec-id": 0, "fields": spec}
        table["properties"] = {"write.parquet.compression-codec": "zstd", "format-version": "2"}
        call("POST", f"{self.apache_rest_uri}/v1/namespaces/bench/tables", table)

    def summary(self, name):
        """Rows and bytes of the table now."""
        metadata = call("GET", f"{self.apache_rest_uri}/v1/namespaces/bench/tables/{name}")["metadata"]
        current = [s for s in metadata.get("snapshots", []) if s["snapshot-id"] == metadata.get("current-snapshot-id")]
        found = current[0]["summary"] if current else {}
        return int(found.get("total-records", 0)), int(found.get("total-files-size", 0))


class Run:
    """What one program spent until every row was in the table."""

    def __init__(self, servers, name, pid, before=0.0):
        end = time.monotonic() + PATIENCE
        began = time.monotonic()
        while True:
            # What is spent when the rows are seen is a little more than what they took: the same for both.
            cpu = spent(pid)
            rows, self.bytes = servers.summary(name)
            if rows >= servers.rows:
                break
            if time.monotonic() > end:
                raise process.Failure(f"{name}: {rows} of {servers.rows} rows after {PATIENCE} s")
            time.sleep(0.2)
        if rows != servers.rows:
            raise process.Failure(f"{name}: {rows} rows in the table, {servers.rows} in the topic")
        self.wall = time.monotonic() - began
        self.cpu = cpu - before
        self.peak = process.resident(pid)[1]


def spent(pid):
    """CPU-seconds of a process, user and system."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as line:
        fields = line.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def started(servers, name, topic, pipeline=TABLE, limits="", freshness=30):
    """A daemon that reads the topic: what runs it, until the block ends."""
    folder = servers.folder / name
    folder.mkdir()
    settings = folder / "frazil.toml"
    values = {
        "folder": folder, "threads": servers.threads, "catalog": servers.apache_rest_uri, "bucket": servers.s3_bucket,
        "endpoint": servers.s3_endpoint, "key": servers.s3_access_key_id, "secret": servers.s3_secret_access_key,
        "region": servers.s3_region, "brokers": servers.kafka_brokers, "name": name, "topic": topic, "limits": limits,
        "freshness": freshness,
    }
    settings.write_text((CONFIGURATION + pipeline).format(**values), encoding="utf-8")
    return process.running([servers.frazil, "run", "-c", settings], folder / "log")


def ours(servers, number):
    name = f"frazil_{os.getpid()}_{number}"
    servers.create(name)
    with started(servers, name, servers.topic) as child:
        return Run(servers, name, child.pid)


def theirs(servers, number):
    name = f"connect_{os.getpid()}_{number}"
    servers.create(name)
    servers.topic_of(f"control-{name}", 1)
    settings = {
        "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector",
        "tasks.max": str(servers.threads),
        "topics": servers.topic,
        "iceberg.tables": f"bench.{name}",
        "iceberg.control.topic": f"control-{name}",
        "iceberg.control.commit.interval-ms": "30000",
        "key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "consumer.override.auto.offset.reset": "earliest",
        "iceberg.kafka.auto.offset.reset": "earliest",
        "iceberg.catalog.type": "rest",
        "iceberg.catalog.uri": servers.apache_rest_uri,
        "iceberg.catalog.io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        "iceberg.catalog.s3.endpoint": servers.s3_endpoint,
        "iceberg.catalog.s3.path-style-access": "true",
        "iceberg.catalog.s3.access-key-id": servers.s3_access_key_id,
        "iceberg.catalog.s3.secret-access-key": servers.s3_secret_access_key,
        "iceberg.catalog.client.region": servers.s3_region,
    }
    worker = servers.parts[-1].pid()
    before = spent(worker)
    connector = f"{servers.connect_uri}/connectors/{name}"
    call("PUT", f"{connector}/config", settings)
    try:
        return Run(servers, name, worker, before)
    finally:
        call("DELETE", connector)


def run(place, sizes):
    servers = Servers(place, sizes, "connect")
    try:
        pairs = []
        for number in range(sizes.pairs + 1):
            pair = (ours(servers, number), theirs(servers, number))
            if number > 0:  # the first one warms the worker up
                pairs.append(pair)
        yield lines(servers, pairs)
    finally:
        servers.stop()


def lines(servers, pairs):
    median = lambda side, of: statistics.median(getattr(pair[side], of) for pair in pairs)  # noqa: E731
    ratios = [pair[1].cpu / pair[0].cpu for pair in pairs]
    megabytes = servers.bytes / 1e6

    def program(title, side):
        cpu = median(side, "cpu")
        return (
            f"    {title:<8}{cpu:6.2f} CPU-s  {servers.rows / cpu:7.0f} rows/CPU-s  {megabytes / cpu:4.0f} MB/CPU-s"
            f"  peak {median(side, 'peak'):.0f} MiB  table {median(side, 'bytes') / 1e6:.1f} MB  {median(side, 'wall'):.0f} s"
        )

    size, peak = median(0, "bytes") / median(1, "bytes"), median(0, "peak") / median(1, "peak")
    ratio = statistics.median(ratios)
    good = ratio >= 2 and size <= 1.02 and peak <= 0.2
    return [
        f"Kafka to a table: {servers.rows} rows, {megabytes:.0f} MB of JSON, {PARTITIONS} partitions, {len(pairs)} pairs",
        program("frazil", 0),
        program("Connect", 1),
        f"    rows per CPU-second {ratio:.2f} x ({min(ratios):.2f} to {max(ratios):.2f}), table {size:.3f} x, peak {peak:.2f} x; "
        f"targets 2 x, 1.02 x, 0.2 x: {'hold' if good else 'MISSED'}",
    ]
