"""Daemons of one pipeline: started, killed, frozen, and run to the end of their input."""

import contextlib
import json
import os
import signal
import subprocess
import time

CONFIG = """
instance = "{name}"
state_dir = "{folder}/state"

[catalog.lake]
type = "rest"
uri = "http://127.0.0.1:{catalog}"
connect_timeout = "2s"
request_timeout = "5s"

[store."s3://{bucket}"]
endpoint = "http://127.0.0.1:{store}"
access_key_id = "{key}"
secret_access_key = "{secret}"
region = "{region}"
allow_http = "true"
timeout = "5s"

[source.events]
{source}

[pipeline.storm]
source = "events"
table = "lake.{namespace}.events"
commit = {{ freshness = "400ms" }}
on_rollback = "rewind"

[pipeline.storm.create]
columns = ["id long not null", "text string"]
partition = ["bucket(3, id)"]
format_version = {format_version}

[pipeline.storm.create.properties]
# Spark's own patience: it competes with two writers.
"commit.retry.num-retries" = "40"
"commit.retry.max-wait-ms" = "1000"
# What a pipeline asks for the way from the head back to its own last snapshot, which Spark has expired.
"write.metadata.previous-versions-max" = "400"
# Our own expiry: snapshots that Spark has left.
"history.expire.max-snapshot-age-ms" = "5000"

[policy."lake.{namespace}.*"]
every = "1s"
compact = {{ quiet = "1h", hot_files_max = 4 }}
manifests = {{ count_min = 6 }}

[maintenance]
cpu = "50%"
# A daemon that was killed holds its claim for so long.
claim = "10s"
"""

FILES = """
type = "files"
path = "{input}"
poll = "200ms"
"""

KAFKA = """
type = "kafka"
brokers = {brokers}
group = "{topic}"
topics = ["{topic}"]
properties = {{ "session.timeout.ms" = "6000", "heartbeat.interval.ms" = "500" }}
"""

# So many seconds pass for the steps of expiry in one, while their daemon is down: ten minutes are fifteen seconds then, which is
# longer than any request is late.
HASTE = 40
# A little more than that deadline, in milliseconds.
DEADLINE = 700_000


class Died(Exception):
    """A daemon ended by itself."""


class Daemon:
    """One of them, behind doors of its own."""

    def __init__(self, frazil, name, folder, catalog, store, settings):
        self.frazil = frazil
        self.name = name
        self.catalog = catalog
        self.store = store
        self.folder = folder / name
        self.folder.mkdir()
        self.log = self.folder / "log"
        config = CONFIG.format(name=name, folder=self.folder, catalog=catalog.port, store=store.port, **settings)
        (self.folder / "frazil.toml").write_text(config, encoding="utf-8")
        self.process = None
        # When its notes were last made older.
        self.aged = time.time()

    def start(self, *settings):
        words = [str(self.frazil), "run", "-c", str(self.folder / "frazil.toml")]
        for setting in settings:
            words += ["--set", setting]
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"---- starts {time.strftime('%H:%M:%S', time.gmtime())}\n")
            log.flush()
            self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder)

    def lives(self):
        """Fails where it ended without being told to."""
        if self.process is not None and self.process.poll() is not None:
            raise Died(f"daemon {self.name} ended with {self.process.returncode} by itself:\n{self.tail()}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process = None

    def age(self):
        """Time has passed faster for what it has noted about expiry; it must be down."""
        now = time.time()
        self.renote(lambda at: hastened(at, now, now - self.aged))

    def oversleep(self):
        """The deadline of each step of expiry has passed; it must be down, and nothing of its on the way any more."""
        self.renote(lambda at: at - DEADLINE)

    def renote(self, earlier):
        for path in sorted((self.folder / "state").glob("jobs-expiry-*.json")):
            note = renoted(json.loads(path.read_text(encoding="utf-8")), earlier)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(note), encoding="utf-8")
            os.replace(part, path)
        self.aged = time.time()

    def staged(self):
        """Bytes that it has noted about files of maintenance that are under way: they grow with each."""
        ledger = self.folder / "state" / "jobs-staged.ledger"
        return ledger.stat().st_size if ledger.exists() else 0

    @contextlib.contextmanager
    def frozen(self):
        """Stopped in the middle of whatever it does: a zombie that wakes late."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def positions(self, table):
        """How far the pipeline is in a table, by partition."""
        words = [str(self.frazil), "table", "checkpoint", table, "--json", "-c", str(self.folder / "frazil.toml")]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Died(f"`{' '.join(words[1:4])}` ended with {done.returncode}: {done.stderr}")
        records = json.loads(done.stdout)["checkpoints"]
        return {key: value for one in records for key, value in one["record"]["map"]["positions"].items()}

    def ends(self, within):
        """Waits for its own end, which must be a good one."""
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired as error:
            raise Died(f"daemon {self.name} is not at the end of its input after {within} s:\n{self.tail()}") from error
        if code != 0:
            raise Died(f"daemon {self.name} ended with {code}:\n{self.tail()}")
        self.process = None

    def put_away(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()

    def tail(self, lines=15):
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def said(self, *words):
        """How many lines of its log have all of these."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return sum(all(word in line for word in words) for line in lines)


def hastened(at, now, passed):
    """A moment, in milliseconds, if the last `passed` seconds were `HASTE` times as many; what is younger has seen less of them."""
    seen = min(passed, max(0, now - at / 1000))
    return at - int(seen * 1000 * (HASTE - 1))


def renoted(note, earlier):
    """A note of expiry with all of its moments earlier."""

    def moved(batch):
        return {**batch, **{key: earlier(batch[key]) for key in ("sent_ms", "gone_ms") if batch[key] is not None}}

    noted = {id: earlier(at) for id, at in note["noted"].items()}
    return {**note, "noted": noted, "batches": [moved(batch) for batch in note["batches"]]}
