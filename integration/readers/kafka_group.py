"""What the brokers say of a consumer group, as a JSON object: `kafka_group.py BROKERS GROUP`. Members in the order of their names
or ids, each with the partitions that it has."""

import json
import sys

from confluent_kafka.admin import AdminClient


def main():
    brokers, group = sys.argv[1:]
    admin = AdminClient({"bootstrap.servers": brokers})
    told = admin.describe_consumer_groups([group], request_timeout=30)[group].result(30)
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
