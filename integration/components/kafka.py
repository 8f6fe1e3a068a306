"""An Apache Kafka broker that is its own controller, with a plain listener and one for TLS with names and passwords."""

import shutil
import socket
import subprocess

from component import LOOPBACK, Failure, Server, text

FIXTURE = "kafka_fixture"
CLUSTER = "4L6g3nShT-eMCtK--X86sw"
USER, PASSWORD = "frazil", "frazil-secret"


class Component(Server):
    name = "kafka"
    what = "an Apache Kafka broker (4.3.1), plain and by TLS"
    recipe = (text(FIXTURE, "pom.xml"),)
    ports = ("plain", "tls", "controller")

    def fill(self):
        self.jars(self.here / FIXTURE / "pom.xml", "lib")

    def java(self, *words):
        log = self.here / FIXTURE / "log4j2.properties"
        return ["java", "-Xms128m", "-Xmx512m", f"-Dlog4j2.configurationFile={log}", "-cp", f"{self.home}/lib/*", *words]

    def words(self, ports):
        shutil.rmtree(self.folder() / "data", ignore_errors=True)
        self.certificates()
        properties = self.folder() / "broker.properties"
        properties.write_text(self.properties(ports), encoding="utf-8")
        scram = f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"
        words = ("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(properties), "--add-scram", scram)
        done = subprocess.run(self.java(*words), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure(f"{self.name}: its folder cannot be made: {done.stderr or done.stdout}")
        return self.java("kafka.Kafka", str(properties))

    def certificates(self):
        """An authority of this run, and the broker's certificate."""
        folder = self.folder() / "tls"
        folder.mkdir(exist_ok=True)
        names = folder / "names"
        names.write_text(f"subjectAltName=DNS:localhost,IP:{LOOPBACK}\n", encoding="utf-8")
        for words in (
            "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=frazil-tests -keyout ca.key -out ca.crt",
            "req -newkey rsa:2048 -nodes -subj /CN=broker -keyout broker.key -out broker.csr",
            "x509 -req -in broker.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names -out broker.crt",
        ):
            done = subprocess.run(["openssl", *words.split()], cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Failure(f"{self.name}: openssl: {done.stderr}")
        parts = [(folder / part).read_text(encoding="utf-8") for part in ("broker.key", "broker.crt", "ca.crt")]
        (folder / "broker.pem").write_text("".join(parts), encoding="utf-8")

    def properties(self, ports):
        login = "org.apache.kafka.common.security"
        plain = f'listener.name.tls.plain.sasl.jaas.config={login}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        return f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{LOOPBACK}:{ports["controller"]}
listeners=PLAIN://{LOOPBACK}:{ports["plain"]},TLS://{LOOPBACK}:{ports["tls"]},CONTROLLER://{LOOPBACK}:{ports["controller"]}
advertised.listeners=PLAIN://{LOOPBACK}:{ports["plain"]},TLS://{LOOPBACK}:{ports["tls"]}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,TLS:SASL_SSL
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAIN
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
{plain}
listener.name.tls.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location={self.folder()}/tls/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={self.folder()}/tls/ca.crt
log.dirs={self.folder()}/data
num.partitions=4
offsets.topic.replication.factor=1
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=5
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=2
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.segment.delete.delay.ms=1000
log.retention.check.interval.ms=500
"""

    def ready(self, ports):
        for port in (ports["plain"], ports["tls"]):
            try:
                socket.create_connection((LOOPBACK, port), timeout=1).close()
            except OSError:
                return False
        return True

    def answers(self, ports):
        return {
            "KAFKA_BROKERS": f"{LOOPBACK}:{ports['plain']}",
            "KAFKA_TLS_BROKERS": f"{LOOPBACK}:{ports['tls']}",
            "KAFKA_CA": str(self.folder() / "tls" / "ca.crt"),
            "KAFKA_USER": USER,
            "KAFKA_PASSWORD": PASSWORD,
        }
