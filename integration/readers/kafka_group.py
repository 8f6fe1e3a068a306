"""What the brokers say of a consumer group, as a JSON object: `kafka_group.py BROKERS GROUP`. Members in the order of their names
or ids, each with the partitions that it has."""

import json
import sys
import time

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

# A broker that has just begun has not read its groups yet.
NOT_YET = (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR)
TRIES = 30


def described(admin, group):
    for _ in range(TRIES):
        try:
            return admin.describe_consumer_groups([group], request_timeout=30)[group].result(30)
        except KafkaException as error:
            if error.args[0].code() not in NOT_YET:
                raise
            time.sleep(1)
    raise SystemExit(f"{group}: the brokers have not read their groups in {TRIES} s")


def main():
    brokers, group = sys.argv[1:]
    admin = AdminClient({"bootstrap.servers": brokers})
    told = described(admin, group)
    members = [
        {
            "id": member.member_id,
            "name": member.group_instance_id,
            "partitions": sorted(f"{one.topic}/{one.partition}" for one in member.assignment.topic_partitions),
        }
        for member in told.members
    ]
    members.sort(key=lambda member: (member["name"] or "", member["id"]))
    print(json.dumps({"type": told.type.name, "state": told.state.name, "members": members}))


main()
