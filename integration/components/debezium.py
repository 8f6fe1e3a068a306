"""A Kafka Connect worker with Debezium's source of PostgreSQL's changes and a converter to Avro, on this run's broker."""

import connect
from component import text

FIXTURE = "debezium_fixture"


class Component(connect.Component):
    name = "debezium"
    what = "Kafka Connect (4.3.1) with Debezium's PostgreSQL source (3.6.1.Final), on this run's kafka"
    recipe = (text(FIXTURE, "pom.xml"), text(FIXTURE, "avro/pom.xml"))
    heap = ("-Xms64m", "-Xmx384m")

    def fill(self):
        self.jars(self.here / FIXTURE / "pom.xml", "plugins/debezium")
        self.jars(self.here / FIXTURE / "avro" / "pom.xml", "plugins/apicurio")

    def answers(self, ports):
        return {"DEBEZIUM_URI": super().answers(ports)["CONNECT_URI"]}
