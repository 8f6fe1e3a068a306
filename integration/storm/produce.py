"""Rows into a topic until standard input ends: by one producer that is idempotent and by one with transactions, of which some are
aborted. A line of JSON on standard output for what is surely there: ids, bad ids, and the last offset of each partition."""

import json
import select
import sys

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

# Rows that nobody may see have ids from here on.
ABORTED = 3_000_000_000
WAIT = 30


def row(id, bad):
    return {"id": f"bad-{id}"} if bad else {"id": id, "text": f"row-{id}"}


class Topic:
    def __init__(self, brokers, name, partitions, replicas):
        self.name, self.partitions, self.brokers = name, partitions, brokers
        settings = {"min.insync.replicas": str(max(1, replicas - 1))}
        wanted = NewTopic(name, num_partitions=partitions, replication_factor=replicas, config=settings)
        admin = AdminClient({"bootstrap.servers": brokers})
        admin.create_topics([wanted])[name].result(WAIT)
        self.plain = self.producer({})
        self.transactional = None
        self.ends, self.failed = {}, None

    def producer(self, more):
        settings = {"bootstrap.servers": self.brokers, "enable.idempotence": True, "compression.type": "zstd", "linger.ms": 5}
        return Producer({**settings, "message.timeout.ms": 0, **more})

    def delivered(self, error, message):
        if error is not None:
            self.failed = error
        else:
            self.ends[message.partition()] = max(message.offset(), self.ends.get(message.partition(), -1))

    def send(self, producer, rows):
        self.failed = None
        for id, value in rows:
            producer.produce(self.name, value, partition=id % self.partitions, callback=self.delivered)
            producer.poll(0)
        while producer.flush(WAIT):
            pass

    def plainly(self, rows):
        """They are there, however long the brokers are away."""
        self.send(self.plain, rows)
        if self.failed is not None:
            raise KafkaException(self.failed)

    def transact(self, rows, commit):
        """The same in one transaction; what is aborted is never there. Tried until its end is known."""
        before = dict(self.ends)
        while True:
            try:
                if self.transactional is None:
                    self.transactional = self.producer({"transactional.id": f"tx-{self.name}", "transaction.timeout.ms": 60_000})
                    self.persist(self.transactional.init_transactions)
                self.transactional.begin_transaction()
                self.send(self.transactional, rows)
                if self.failed is None and commit:
                    return self.persist(self.transactional.commit_transaction)
            except KafkaException as error:
                # The broker gave the transaction up while it was away: it was not committed.
                if not error.args[0].txn_requires_abort():
                    raise
            self.persist(self.transactional.abort_transaction)
            self.ends = dict(before)
            if not commit:
                return None

    @staticmethod
    def persist(step):
        """Does it until the broker answers: an answer that did not come is asked for again."""
        while True:
            try:
                return step(WAIT)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise


def main():
    brokers, name, partitions, replicas, size, bad_each, pause = sys.argv[1:]
    topic = Topic(brokers, name, int(partitions), int(replicas))
    size, bad_each, number = int(size), int(bad_each), 0
    while True:
        ids = range(number * size, (number + 1) * size)
        bad = {id for id in ids if id % bad_each == bad_each - 1}
        rows = [(id, json.dumps(row(id, id in bad))) for id in ids]
        if number % 3 == 2:
            if number % 2:
                topic.transact([(id, json.dumps(row(id + ABORTED, False))) for id in ids], False)
            topic.transact(rows, True)
        else:
            topic.plainly(rows)
        print(json.dumps({"rows": sorted(set(ids) - bad), "bad": sorted(bad), "ends": topic.ends}), flush=True)
        number += 1
        if select.select([sys.stdin], [], [], float(pause))[0]:
            return


main()
