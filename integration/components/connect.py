"""A Kafka Connect worker with Apache Iceberg's sink, on this run's broker."""

from component import LOOPBACK, Failure, Server, answers_http, load, text

FIXTURE = "connect_fixture"


class Component(Server):
    name = "connect"
    what = "Kafka Connect (4.3.1) with Apache Iceberg's sink (1.12.0), on this run's kafka"
    recipe = (text(FIXTURE, "pom.xml"),)
    ports = ("rest",)
    ready_within = 240
    heap = ("-Xms1g", "-Xmx2g")

    def fill(self):
        self.jars(self.here / FIXTURE / "pom.xml", "plugins/iceberg")

    def words(self, ports):
        kafka = load("kafka", self.run)
        brokers = kafka.environment().get("KAFKA_BROKERS")
        if not brokers:
            raise Failure(f"{self.name} needs kafka: start it first")
        properties = self.folder() / "worker.properties"
        properties.write_text(self.properties(brokers, ports), encoding="utf-8")
        log = kafka.here / "kafka_fixture" / "log4j2.properties"
        return [
            *("java", *self.heap, f"-Dlog4j2.configurationFile={log}", "-cp", f"{kafka.home}/lib/*"),
            *("org.apache.kafka.connect.cli.ConnectDistributed", str(properties)),
        ]

    def properties(self, brokers, ports):
        return f"""
bootstrap.servers={brokers}
group.id=connect-{ports["rest"]}
listeners=http://{LOOPBACK}:{ports["rest"]}
rest.advertised.host.name={LOOPBACK}
key.converter=org.apache.kafka.connect.storage.StringConverter
value.converter=org.apache.kafka.connect.json.JsonConverter
value.converter.schemas.enable=false
config.storage.topic=connect-configs-{ports["rest"]}
offset.storage.topic=connect-offsets-{ports["rest"]}
status.storage.topic=connect-status-{ports["rest"]}
config.storage.replication.factor=1
offset.storage.replication.factor=1
offset.storage.partitions=5
status.storage.replication.factor=1
connector.client.config.override.policy=All
plugin.discovery=hybrid_warn
plugin.path={self.home}/plugins
"""

    def ready(self, ports):
        return answers_http(f"http://{LOOPBACK}:{ports['rest']}/connectors", below=300)

    def answers(self, ports):
        return {"CONNECT_URI": f"http://{LOOPBACK}:{ports['rest']}"}
