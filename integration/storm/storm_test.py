"""The doors must spoil what they say, the ledger must follow Spark, the verdict see what is wrong, also that nothing is committed
any more, and no time pass twice."""

import collections
import contextlib
import http.client
import http.server
import io
import pathlib
import random
import re
import tempfile
import threading
import types
import unittest
from unittest import mock

import proxy
import storm
from daemons import HASTE, Died, hastened, renoted
from foreign import FOREIGN, ROWS, Foreign
from proxy import Door, Doors
from standstill import Standstill, longest
from verdict import counters, judge, missing

BUSY = b"HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Upstream(http.server.BaseHTTPRequestHandler):
    """Remembers what it was sent and answers with it."""

    seen = []
    status = 200

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.seen.append(body)
        self.send_response(self.status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class DoorTest(unittest.TestCase):
    def setUp(self):
        Upstream.seen, Upstream.status = [], 200
        self.server = http.server.ThreadingHTTPServer((proxy.LOOPBACK, 0), Upstream)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        proxy.LATE, proxy.HANG, proxy.LATENCY = (0, 0), 0, (0, 0)

    def tearDown(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, fault, calm=False, rows=b"0123456789"):
        """What a client gets, and how often the server was asked."""
        brings = lambda path, body: (path, body) == ("/commit", rows)  # noqa: E731
        door = self.door = Door(self.server.server_address, {fault: 1.0}, 1, BUSY, lambda method, path: path == "/commit", brings)
        door.clock = lambda: 7
        if calm:
            door.calm.set()
        with Doors([door]) as doors:
            client = http.client.HTTPConnection(proxy.LOOPBACK, door.port, timeout=10)
            try:
                client.request("POST", "/commit", b"0123456789")
                answer = client.getresponse()
                told = (answer.status, answer.read())
            except (OSError, http.client.HTTPException) as error:
                told = type(error).__name__
            finally:
                client.close()
            doors.settle(10)
        return told, len(Upstream.seen), dict(door.statuses)

    def test_a_calm_door_changes_nothing(self):
        self.assertEqual(self.answer("lost", calm=True), ((200, b"0123456789"), 1, {200: 1}))

    def test_a_slow_answer_is_whole(self):
        self.assertEqual(self.answer("latency"), ((200, b"0123456789"), 1, {200: 1}))

    def test_what_is_refused_or_cut_never_reaches_the_server(self):
        self.assertEqual(self.answer("503"), ((503, b""), 0, {}))
        self.assertEqual(self.answer("reset"), ("ConnectionResetError", 0, {}))

    def test_what_is_lost_was_done(self):
        for fault in ("lost", "hang"):
            with self.subTest(fault):
                Upstream.seen = []
                self.assertEqual(self.answer(fault), ("ConnectionResetError", 1, {200: 1}))
        Upstream.seen = []
        self.assertEqual(self.answer("liar"), ((503, b""), 1, {200: 1}))

    def test_half_an_answer_is_no_answer(self):
        told, asked, _ = self.answer("half")
        self.assertIsInstance(told, str)
        self.assertEqual(asked, 1)

    def test_a_late_request_arrives_after_its_client_gave_up(self):
        told, asked, statuses = self.answer("late")
        self.assertIsInstance(told, str)
        self.assertEqual((asked, statuses), (1, {200: 1}))

    def test_a_commit_of_rows_has_landed_once_the_server_did_it_whoever_hears_of_it(self):
        for fault, landed in (("latency", [7]), ("lost", [7]), ("liar", [7]), ("late", [7]), ("503", []), ("reset", [])):
            with self.subTest(fault):
                self.answer(fault)
                self.assertEqual(self.door.landed, landed)
        self.answer("latency", rows=b"others")
        self.assertEqual(self.door.landed, [])
        Upstream.status = 409
        self.answer("latency")
        self.assertEqual((self.door.landed, self.door.statuses), ([], {409: 1}))

    def test_mild_weather_has_fewer_faults(self):
        def faults(mild):
            door = Door(("", 0), {"lost": 0.5}, 1, BUSY)
            if mild:
                door.mild.set()
            return sum(door.draw() == "lost" for _ in range(2000))

        self.assertAlmostEqual(faults(True), faults(False) / proxy.MILD, delta=60)

    def test_the_same_seed_draws_the_same_faults(self):
        doors = [Door(("", 0), {"lost": 0.3, "half": 0.3}, "7 store one", BUSY) for _ in range(2)]
        draws = [[door.draw() for _ in range(50)] for door in doors]
        self.assertEqual(draws[0], draws[1])
        self.assertEqual({"lost", "half", None}, set(draws[0]))


class VerdictTest(unittest.TestCase):
    def found(self, *ids):
        return [(id, f"row-{id}") for id in ids]

    def test_each_row_once_is_no_problem(self):
        self.assertEqual(judge(self.found(1, 2, FOREIGN), {1, 2, FOREIGN}), [])

    def test_what_is_wrong_is_named(self):
        self.assertEqual(judge(self.found(1, 1), {1, 2}), ["1 rows lost: 2", "1 rows twice or more: 1"])
        self.assertEqual(judge(self.found(1, 3), {1}), ["1 rows that nobody wrote: 3"])
        self.assertEqual(judge([(1, "row-2")], {1}), ["1 rows with another row's text: 1"])

    def test_a_doubtful_row_may_be_there_or_not_but_not_twice(self):
        self.assertEqual(judge(self.found(1), {1}, {9}), [])
        self.assertEqual(judge(self.found(1, 9), {1}, {9}), [])
        self.assertEqual(judge(self.found(1, 9, 9), {1}, {9}), ["1 rows twice or more: 9"])

    def test_a_job_that_did_nothing_is_named(self):
        self.assertEqual(missing("they have", {"slept": 1, "eaten": 2}, ("slept", "eaten")), [])
        self.assertEqual(missing("they have", {"slept": 1, "eaten": 0}, ("slept", "eaten")), ["they have not once eaten"])

    def test_the_last_line_says_who_has_counted_and_who_has_not(self):
        self.assertEqual(counters(["DuckDB", "Spark", "Trino"]), "DuckDB, Spark and Trino count")
        self.assertEqual(counters(["DuckDB", "Spark"]), "DuckDB and Spark count (Trino left out)")


class Victim:
    """A daemon, or a broker, that says when it was killed, and again when it was started."""

    def __init__(self, name, passes, commits):
        self.name, self.commits = name, commits
        self.catalog = types.SimpleNamespace(passing=types.SimpleNamespace(clear=lambda: None, wait=passes))
        self.frozen = contextlib.nullcontext

    def start(self):
        self.commits()

    def kill(self):
        pass

    again, age, lives, put_away = start, kill, kill, kill

    def said(self, *_):
        return 0


class StandstillTest(unittest.TestCase):
    def stormed(self, still, most=storm.STANDSTILL, dies=None, brokers=False):
        """Whether a storm of forty kills went well, and what it printed. On a clock of its own whoever is killed commits rows when
        he is back, but for the kills that are `still`; at the one that `dies` a daemon ends by itself."""
        now = [1000.0]

        def passes(seconds):
            now[0] += seconds
            if len(run.hits) == dies:
                raise Died("daemon one ended with 1 by itself")
            return False

        def commits():
            if len(run.hits) not in still:
                run.doors[0].landed.append(now[0])

        def weather(_):
            run.daemons = [Victim(name, passes, commits) for name in run.names]
            run.blow()
            run.counted = ["DuckDB", "Spark"]
            return []

        tools = collections.defaultdict(str, APACHE_REST_URI="http://127.0.0.1:1", S3_ENDPOINT="http://127.0.0.1:1")
        killed = [Victim("kafka", passes, commits)] if brokers else []
        with (
            tempfile.TemporaryDirectory() as name,
            mock.patch.object(storm, "Engine"),
            mock.patch.object(storm, "Doors", contextlib.nullcontext),
            mock.patch.object(storm.time, "sleep", passes),
            mock.patch.object(storm, "BROKER", 1),
            contextlib.redirect_stdout(io.StringIO()) as told,
        ):
            folder = pathlib.Path(name)
            run = storm.Storm(None, tools, folder, folder, 40, 1, killed, standstill=most)
            run.clock, run.wait, run.weather = (lambda: now[0]), passes, weather
            run.rows_to_come = lambda: types.SimpleNamespace(enough=threading.Event(), rows=set(), bad=set())
            return run.run(), told.getvalue().splitlines()

    def test_a_storm_that_stands_still_for_too_long_has_failed_and_says_when(self):
        for brokers in (False, True):
            with self.subTest(brokers=brokers):
                went_well, told = self.stormed(range(5, 40), most=60, brokers=brokers)
                self.assertFalse(went_well)
                problem = r"VIOLATION no daemon committed rows for \d+ s \(36 kills\), from [\d:]+ on, after kill 4: more than 60 s"
                self.assertEqual(sum(bool(re.search(problem, line)) for line in told), 1, told)
                self.assertRegex(told[-1], r"^storm: .* longest standstill \d+ s \(36 kills\), 1 VIOLATIONS in")

    def test_a_storm_in_which_rows_are_committed_again_and_again_has_passed_and_says_its_longest_standstill(self):
        went_well, told = self.stormed(range(5, 15))
        self.assertTrue(went_well, told)
        self.assertRegex(told[-1], r"^storm: .* longest standstill \d+ s \(11 kills\), every row once as DuckDB and Spark count")

    def test_a_storm_that_broke_off_says_how_long_it_had_stood_still(self):
        went_well, told = self.stormed(range(5, 40), dies=30)
        self.assertFalse(went_well)
        self.assertRegex(told[-1], r"^storm: .* longest standstill \d+ s \(26 kills\), \d VIOLATIONS in")

    def test_a_standstill_may_be_the_first_time_of_a_storm_or_its_last(self):
        kills = [11, 12, 40, 58]
        self.assertEqual(longest(10, 60, [5, 30, 45, 70], kills), Standstill(10, 20, 0, 2))
        self.assertEqual(longest(10, 60, [30, 12], kills), Standstill(30, 30, 2, 2))
        self.assertEqual(longest(10, 60, [], kills), Standstill(10, 50, 0, 4))

    def test_what_jobs_commit_and_parts_of_decided_epochs_are_no_sign_of_life(self):
        append, replace = (b'{"updates":[{"snapshot":{"summary":{"operation":"%s"}}}]}' % what for what in (b"append", b"replace"))
        table = "/v1/namespaces/storm/tables/events"
        brings = [storm.brings_rows(*one) for one in ((table, append), (table, replace), (f"{table}__rejects", append))]
        self.assertEqual(brings, [True, False, False])


class LedgerTest(unittest.TestCase):
    """Spark's own rows after what it answered."""

    def setUp(self):
        self.foreign = Foreign(self, {}, random.Random(1), rolls_back=True)

    def ask(self, _):
        return self.answer

    def does(self, kind, **answer):
        self.answer = answer
        self.foreign.act(kind)
        return [{id - FOREIGN for id in ids} for ids in (self.foreign.certain, self.foreign.doubtful)]

    def test_an_append_that_failed_is_doubtful_and_one_that_was_not_done_is_neither(self):
        first, second = set(range(ROWS)), set(range(ROWS, 2 * ROWS))
        self.assertEqual(self.does("append", rows=ROWS), [first, set()])
        self.assertEqual(self.does("append", error="no answer"), [first, second])
        self.assertEqual(self.does("forward", done=False), [first, second])

    def test_a_rollback_takes_all_that_it_does_not_keep(self):
        self.does("append")
        self.does("append", error="no answer")
        kept = [FOREIGN, FOREIGN + ROWS]
        # What it has seen there is no longer doubtful, and the rest of that append may still be there.
        doubtful = set(range(ROWS + 1, 2 * ROWS))
        self.assertEqual(self.does("rollback", kept=kept, done=True), [{0, ROWS}, doubtful])
        self.assertEqual(self.foreign.taken, ROWS - 1)

    def test_a_rollback_that_may_have_been_done_makes_doubtful_what_it_would_take(self):
        self.does("append")
        self.assertEqual(self.does("rollback", kept=[FOREIGN], error="unknown"), [{0}, set(range(1, ROWS))])
        self.assertEqual(self.does("rollback", done=False), [{0}, set(range(1, ROWS))])

    def test_it_rolls_back_where_it_is_told_to(self):
        self.assertIn("rollback", self.foreign.kinds)
        self.assertNotIn("rollback", Foreign(self, {}, random.Random(1)).kinds)


class HasteTest(unittest.TestCase):
    def age(self, at, now, passed):
        return now - hastened(at * 1000, now, passed) / 1000

    def test_each_second_counts_once_and_many_times(self):
        # Noted at 100; seen at 105, and again at 112.
        first = self.age(100, 105, 30)
        self.assertEqual(first, 5 * HASTE)
        self.assertEqual(self.age(105 - first, 112, 7), 12 * HASTE)

    def test_what_was_noted_just_now_is_no_older(self):
        self.assertEqual(self.age(100, 100, 30), 0)

    def test_every_moment_of_a_note_is_moved_and_nothing_else(self):
        note = {"version": 1, "noted": {"7": 9}, "batches": [{"snapshots": [5], "sent_ms": 8, "gone_ms": None}]}
        after = {"version": 1, "noted": {"7": 6}, "batches": [{"snapshots": [5], "sent_ms": 5, "gone_ms": None}]}
        self.assertEqual(renoted(note, lambda at: at - 3), after)


if __name__ == "__main__":
    unittest.main()
