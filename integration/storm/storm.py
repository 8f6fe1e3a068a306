"""The course of a storm: daemons of one pipeline behind spoiling doors, kills, Spark beside them, and the count at the end."""

import collections
import json
import random
import subprocess
import sys
import time
import urllib.parse

from daemons import FILES, KAFKA, Daemon, Died
from foreign import Engine, Foreign
from input import ROWS as BATCH
from input import Input, Topic
from proxy import Doors, Door
from standstill import judge as judge_standstill
from standstill import longest
from verdict import counters, judge, missing


def busy(kind, body):
    """A whole answer 503."""
    head = f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/{kind}\r\ncontent-length: {len(body)}\r\nconnection: close"
    return f"{head}\r\n\r\n{body}".encode()


BUSY_CATALOG = busy("json", '{"error":{"message":"slow down","type":"ServiceUnavailableException","code":503}}')
BUSY_STORE = busy("xml", "<Error><Code>SlowDown</Code><Message>slow down</Message></Error>")
# Shares of requests; a commit is one request to the catalog and some ten to the store.
CATALOG = {"latency": 0.1, "reset": 0.02, "503": 0.02, "lost": 0.04, "half": 0.02, "liar": 0.02, "late": 0.03, "hang": 0.005}
STORE = {"latency": 0.05, "reset": 0.02, "503": 0.02, "lost": 0.02, "half": 0.01, "liar": 0.01, "late": 0.01, "hang": 0.002}
# What its log says of an epoch.
COMMITTED = '"message":"committed"'
# What it says of its maintenance when something was done: the job, and a word of it.
JOBS = {
    "rewritten files": ("compact", " became "),
    "gathered manifests": ("manifests", " became "),
    "removed snapshots": ("expire", "removed "),
    "deleted files of removed snapshots": ("expire", "deleted "),
}
# Seconds that daemons are left alone once the kills are over, so that a job comes to its end; and how long all of it may take.
ALONE, JOBS_MAX = 20, 300
# Seconds a daemon has for the rest of its input once the faults are over.
REST = 240
# One kill of so many is a broker's.
BROKER = 4
# Seconds within which some daemon must have committed rows again while it storms: a bound on life, not on speed. A member that was
# killed is missed after its session of 6 s, a broker after 9 s; then come a rebalance in two rounds and a start of some thirty
# requests, of which one in ten is made again: 20 s in all, and a daemon is killed each 7 s. The draws of `kill` alone, played
# through 3,000 times: a start of 20 s brings standstills of 64 s at most, one of 30 s 139 s, one of 40 s more than three minutes in
# one storm of forty. With files, where no session is waited for, a start of 10 s brings 58 s.
STANDSTILL = 180


def brings_rows(path, body):
    """Whether a commit is an epoch's in its anchor: our jobs, and parts that were decided before, say nothing of a standstill."""
    return path.endswith("/tables/events") and b'"operation":"append"' in body


class Storm:
    """One run; `tools` is what scripts/components says, `folder` is empty. With brokers the rows come from a topic, and there are
    three daemons of one group."""

    # What moments are taken from.
    clock = staticmethod(time.monotonic)

    def __init__(self, frazil, tools, folder, readers, kills, seed, brokers=(), trino=None, standstill=STANDSTILL):
        self.tools = tools
        # What starts it and says where it is, or `none`.
        self.trino = trino or (lambda: "none")
        self.counted = []
        self.folder = folder
        self.readers = readers
        self.kills = kills
        self.chance = random.Random(seed)
        self.seed = seed
        self.frazil = frazil
        self.namespace = f"storm_{seed}_{int(time.time())}"
        self.done = collections.Counter()
        self.brokers = brokers
        # How long nothing may be committed, when the storm began and ended, and when it killed somebody.
        self.standstill_max = standstill
        self.began, self.ended = None, None
        self.hits = []
        self.names = ("one", "two", "three") if brokers else ("one", "two")
        self.doors = [self.door(kind, name) for name in self.names for kind in ("catalog", "store")]

    def door(self, kind, name):
        uri = urllib.parse.urlsplit(self.tools["APACHE_REST_URI" if kind == "catalog" else "S3_ENDPOINT"])
        seed = f"{self.seed} {kind} {name}"
        if kind == "store":
            return Door((uri.hostname, uri.port), STORE, seed, BUSY_STORE)
        commit = f"/namespaces/{self.namespace}/tables/"
        return Door((uri.hostname, uri.port), CATALOG, seed, BUSY_CATALOG, lambda m, p: m == "POST" and commit in p, brings_rows)

    def place(self, table):
        s3 = {key.lower()[3:]: self.tools[key] for key in ("S3_ENDPOINT", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY", "S3_REGION")}
        return {"table": f"{self.namespace}.{table}", "catalog": {"uri": self.tools["APACHE_REST_URI"]}, "s3": s3}

    def run(self):
        """Whether every row is there once, as every engine says; prints what happened."""
        began = time.monotonic()
        print(f"seed {self.seed}: {self.kills} kills to come, format version {2 + self.seed % 2}", flush=True)
        self.input = self.rows_to_come()
        variables = {"SPARK_JARS": self.tools["SPARK_JARS"]}
        self.spark = Engine(self.tools["SPARK_PYTHON"], self.readers / "spark_read.py", self.folder / "spark.log", variables)
        # A table beside an anchor that is rolled back alone is filled by offsets: of files nobody can tell what it has.
        chance = random.Random(f"{self.seed} foreign")
        self.foreign = Foreign(self.spark, self.place("events"), chance, rolls_back=bool(self.brokers))
        self.daemons = []
        try:
            with Doors(self.doors) as doors:
                problems = self.weather(doors)
        except Died as death:
            problems = [str(death)]
        finally:
            self.input.enough.set()
            self.foreign.enough.set()
            for daemon in self.daemons:
                daemon.put_away()
            self.spark.end()
        standstill = self.standstill()
        problems += judge_standstill(standstill, self.standstill_max, self.time_of_day(standstill))
        self.report(time.monotonic() - began, problems, standstill)
        return not problems

    def rows_to_come(self):
        if not self.brokers:
            (self.folder / "input").mkdir()
            return Input(self.folder / "input", self.folder)
        python, addresses = self.tools["KAFKA_PYTHON"], ",".join(self.addresses())
        return Topic(python, addresses, self.namespace, len(self.brokers), self.folder / "produce.log")

    def addresses(self):
        return [broker.answers(broker.state()["ports"])[broker.brokers] for broker in self.brokers]

    def source(self):
        if not self.brokers:
            return FILES.format(input=self.folder / "input")
        return KAFKA.format(brokers=json.dumps(self.addresses()), topic=self.namespace)

    def weather(self, doors):
        settings = {
            "source": self.source(),
            "namespace": self.namespace,
            "format_version": 2 + self.seed % 2,
            "bucket": self.tools["S3_BUCKET"],
            "key": self.tools["S3_ACCESS_KEY_ID"],
            "secret": self.tools["S3_SECRET_ACCESS_KEY"],
            "region": self.tools["S3_REGION"],
        }
        for number, name in enumerate(self.names):
            catalog, store = self.doors[2 * number : 2 * number + 2]
            self.daemons.append(Daemon(self.frazil, name, self.folder, catalog, store, settings))
        self.input.start()
        for daemon in self.daemons:
            daemon.start()
        # Spark needs a table, and some seconds to begin with it; and a storm in which no commit of rows was known for one would say
        # nothing of a standstill.
        self.until("the first commit", lambda: any(door.landed for door in self.doors))
        self.foreign.start()
        self.until("Spark's first commit", lambda: self.foreign.done.total())
        self.blow()
        self.foreign.enough.set()
        self.maintained(doors)
        while self.foreign.is_alive():
            self.foreign.join(1)
            for daemon in self.daemons:
                daemon.lives()
        problems = self.rest(doors) + missing("our own jobs have", self.jobs(), JOBS)
        if self.brokers:
            told = {"rolled back": self.foreign.done["rollback"], "made a daemon read rows again": self.again()}
            problems += missing("Spark has", told, told)
        return problems

    def blow(self):
        """The storm itself: kill after kill."""
        self.began = self.clock()
        try:
            for number in range(self.kills):
                self.kill(number)
        finally:
            self.ended = self.clock()

    def standstill(self):
        """How long nothing was committed at most while it stormed; nothing is known of a storm that did not begin."""
        if self.ended is None:
            return None
        return longest(self.began, self.ended, [at for door in self.doors for at in door.landed], self.hits)

    def time_of_day(self, standstill):
        """When it began, as the logs of daemons have it."""
        return standstill and time.strftime("%H:%M:%S", time.gmtime(time.time() - self.clock() + standstill.began))

    def maintained(self, doors):
        """Until each job has done its work once, in milder weather. For expiry both daemons must have been away for a time, with
        nothing of theirs on the way any more; the first time one is killed in a job as well."""
        deadline = time.monotonic() + JOBS_MAX
        for door in self.doors:
            door.mild.set()
        while (open := missing("", self.jobs(), JOBS)) and time.monotonic() < deadline:
            for daemon in self.daemons:
                daemon.lives()
                daemon.kill()
            doors.settle(30)
            for daemon in self.daemons:
                daemon.oversleep()
                daemon.start()
            self.done["slept"] += 1
            if not self.done["in a job"]:
                self.kill_in_a_job()
            alone = time.monotonic() + ALONE
            while time.monotonic() < alone and missing("", self.jobs(), JOBS) == open:
                self.wait(0.5)

    def kill_in_a_job(self):
        """Kills whichever daemon is the first to have files of maintenance under way."""
        before = [daemon.staged() for daemon in self.daemons]
        deadline = time.monotonic() + ALONE
        while time.monotonic() < deadline:
            for daemon, size in zip(self.daemons, before):
                if daemon.staged() > size:
                    self.restart(daemon, 0)
                    self.done["in a job"] += 1
                    return
                daemon.lives()
            time.sleep(0.01)

    def until(self, what, happened):
        deadline = time.monotonic() + 120
        while not happened():
            if time.monotonic() > deadline:
                raise Died(f"{what} did not come within two minutes:\n{self.daemons[0].tail()}")
            self.wait(0.1)

    def kill(self, number):
        """One kill; every second one while a commit of the victim is on its way, some while the other is a zombie."""
        victim, other = self.chance.sample(self.daemons, 2)
        moment, away, freeze = self.chance.uniform(0.5, 6), self.chance.uniform(0, 1.5), self.chance.random() < 0.2
        self.wait(moment)
        if self.brokers and number % BROKER == BROKER - 1:
            return self.kill_a_broker(away)
        if number % 2:
            victim.catalog.passing.clear()
            self.done["in a commit"] += victim.catalog.passing.wait(5)
            time.sleep(self.chance.uniform(0, 0.1))
        victim.lives()
        self.hits.append(self.clock())
        if freeze:
            with other.frozen():
                self.done["frozen"] += 1
                self.restart(victim, away)
                # Of a group: some longer than the others wait for it.
                time.sleep(self.chance.uniform(0.5, 9 if self.brokers else 4))
        else:
            self.restart(victim, away)
        return self.killed()

    def kill_a_broker(self, away):
        broker = self.chance.choice(self.brokers)
        self.hits.append(self.clock())
        broker.kill()
        self.wait(away)
        broker.again()
        self.done["of a broker"] += 1
        return self.killed()

    def killed(self):
        self.done["kills"] += 1
        if self.done["kills"] % 10 == 0:
            print(f"  {self.done['kills']} kills, {self.statuses()[200]} commits, {len(self.input.rows)} rows", flush=True)

    @staticmethod
    def restart(victim, away):
        victim.kill()
        time.sleep(away)
        victim.age()
        victim.start()

    def wait(self, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for daemon in self.daemons:
                daemon.lives()
            if self.brokers and not self.input.lives():
                raise Died(f"the producers ended by themselves; see {self.input.log}")
            time.sleep(0.05)

    def rest(self, doors):
        """The faults stop, both daemons read what is left and end, and what was sent late arrives."""
        for door in self.doors:
            door.calm.set()
        if self.brokers:
            # The table's position may be of before a rollback that no daemon has seen: no row of after it is below.
            seen = len(self.input.rows)
            self.until("a row after Spark's last deed", lambda: len(self.input.rows) > seen + BATCH)
        self.input.enough.set()
        self.input.join()
        if self.brokers:
            self.drained()
        for daemon in self.daemons:
            if not self.brokers:
                daemon.kill()
                daemon.start("source.events.until_end=true")
        for daemon in self.daemons:
            daemon.ends(REST)
        doors.settle(30)
        self.tools["TRINO_URI"] = self.trino()
        self.counted = ["DuckDB", "Spark"] + (["Trino"] if self.tools["TRINO_URI"] != "none" else [])
        return [f"{engine}: {problem}" for engine in self.counted for problem in self.count(engine)]

    def drained(self):
        """All of the topic is in the table, and the daemons are asked to end."""
        deadline = time.monotonic() + REST
        while not self.input.reached(self.daemons[0].positions(f"lake.{self.namespace}.events")):
            if time.monotonic() > deadline:
                raise Died(f"the topic's last rows did not come within {REST} s:\n{self.daemons[0].tail()}")
            self.wait(1)
        for daemon in self.daemons:
            daemon.process.terminate()

    def count(self, engine):
        foreign, wanted = self.foreign, self.input.rows | self.foreign.certain
        events, problems = self.rows(engine, "events", ["id", "text"])
        problems += judge(events, wanted, foreign.doubtful) if not problems else []
        rejects, trouble = self.rows(engine, "events__rejects", ["raw"])
        bad = [int(json.loads(raw)["id"].removeprefix("bad-")) for (raw,) in rejects]
        trouble += judge([(id, f"row-{id}") for id in bad], self.input.bad) if not trouble else []
        problems += [f"rejects: {one}" for one in trouble]
        print(f"  {engine} found {len(events)} rows, {len(rejects)} rejects", flush=True)
        return problems

    def rows(self, engine, table, names):
        path = self.folder / f"{table}.{engine}.ndjson"
        request = {**self.place(table), "select": names, "into": str(path)}
        if engine == "Spark":
            answer = self.spark.ask(request)
        else:
            python = self.tools["DUCKDB_PYTHON"] if engine == "DuckDB" else sys.executable
            name = engine.lower()
            variables = {"TRINO_URI": self.tools["TRINO_URI"]}
            reader = Engine(python, self.readers / f"{name}_read.py", self.folder / f"{name}.log", variables)
            answer = reader.ask(request)
            reader.end()
        if "error" in answer:
            return [], [f"cannot read {table}: {answer['error']}"]
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file], []

    def jobs(self):
        """How often our own maintenance has done something, and how often it failed."""
        counts = collections.Counter()
        for daemon in self.daemons:
            for what, (job, word) in JOBS.items():
                counts[what] += daemon.said('"level":"INFO"', f'"job":"{job}"', word)
            counts["failed"] += daemon.said("maintenance failed")
        return counts

    def again(self):
        """How often a daemon has seen a rollback, and read on from before it."""
        return sum(daemon.said("rows are read again") for daemon in self.daemons)

    def statuses(self):
        return sum((door.statuses for door in self.doors), collections.Counter())

    def report(self, seconds, problems, standstill):
        def told(counts):
            return ", ".join(f"{counts[name]} {name}" for name in sorted(counts)) or "none"

        statuses, foreign = self.statuses(), self.foreign
        done = self.done
        of_brokers = f", {done['of a broker']} of a broker" if self.brokers else ""
        print(f"  kills: {done['kills']}, of which {done['in a commit']} in a commit{of_brokers}; frozen: {done['frozen']}")
        print(f"  after them: {done['in a job']} in a job; both away for {done['slept']} times ten minutes")
        for kind, doors in (("catalog", self.doors[0::2]), ("store", self.doors[1::2])):
            faults = sum((door.faults for door in doors), collections.Counter())
            print(f"  faults of the {kind}: {told(faults)}; of {sum(door.requests for door in doors)} requests")
        epochs = sum(len(door.landed) for door in self.doors)
        print(f"  commits: {statuses[200]} done, {epochs} of them of rows, {statuses[409]} conflicts; by status: {dict(statuses)}")
        for daemon in self.daemons:
            fenced, again = daemon.said("another instance has moved"), daemon.said("begins again at its checkpoint")
            print(f"  daemon {daemon.name}: told {daemon.said(COMMITTED)} epochs, fenced {fenced} times, began again {again} times")
        print(f"  our jobs: {told(self.jobs())}")
        print(f"  Spark: {told(foreign.done)}; not done: {told(foreign.failed)}")
        for error in foreign.errors[:5]:
            print(f"    {error}")
        print(f"  rows: {len(self.input.rows)} of the input, {len(self.input.bad)} bad, {len(foreign.certain)} of Spark's")
        if foreign.done["rollback"]:
            print(f"  Spark's rollbacks took {foreign.taken} of its own rows; daemons read {self.again()} times again")
        for problem in problems:
            print(f"  VIOLATION {problem}")
        verdict = f"{len(problems)} VIOLATIONS" if problems else f"every row once as {counters(self.counted)}"
        stood = f"longest standstill {standstill or 'unknown'}"
        told = f"seed {self.seed}, {done['kills']} kills, {statuses[200]} commits, {stood}, {verdict} in {seconds:.0f} s"
        print(f"storm: {told}", flush=True)
