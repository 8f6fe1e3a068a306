"""An Apache Kafka broker that is its own controller, with a plain listener, one for TLS with names and passwords or (unsigned) tokens,
and one for TLS with certificates of both sides."""

import os
import shutil
import signal
import socket
import subprocess

from component import LOOPBACK, Failure, Server, end, text

FIXTURE = "kafka_fixture"
CLUSTER = "4L6g3nShT-eMCtK--X86sw"
USER, PASSWORD = "frazil", "frazil-secret"
# The name that Azure Event Hubs wants.
HUB_USER = "$ConnectionString"
# One that has no other way in.
ONLY_256_USER = "frazil-256"


# Brokers of the cluster that is to be; more than this one must be started as kafka-2 and kafka-3.
NODES = int(os.environ.get("FRAZIL_KAFKA_NODES", "1"))


class Broker(Server):
    """What all brokers share: the program, an end by SIGKILL, and a start with the log of before."""

    def java(self, *words):
        log = self.here / FIXTURE / "log4j2.properties"
        return ["java", "-Xms128m", "-Xmx512m", f"-Dlog4j2.configurationFile={log}", "-cp", f"{self.home}/lib/*", *words]

    def format(self, properties, *more):
        """Makes its folder, and says how it is started."""
        shutil.rmtree(self.folder() / "data", ignore_errors=True)
        path = self.folder() / "broker.properties"
        path.write_text(properties, encoding="utf-8")
        words = ("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(path), *more)
        done = subprocess.run(self.java(*words), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure(f"{self.name}: its folder cannot be made: {done.stderr or done.stdout}")
        return self.java("kafka.Kafka", str(path))

    def kill(self):
        end(self.pid(), signal.SIGKILL, 10)

    def again(self):
        """Runs once more where it ran, at the same ports."""
        with open(self.log_path(), "a", encoding="utf-8") as log:
            self.spawn(self.java("kafka.Kafka", str(self.folder() / "broker.properties")), self.state(), log)

    def common(self):
        return f"""
log.dirs={self.folder()}/data
num.partitions=4
offsets.topic.replication.factor={NODES}
offsets.topic.num.partitions=5
transaction.state.log.replication.factor={NODES}
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=5
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=2
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.segment.delete.delay.ms=1000
log.retention.check.interval.ms=500
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
super.users=User:ANONYMOUS
"""


class Component(Broker):
    name = "kafka"
    what = "an Apache Kafka broker (4.3.1), plain and by TLS"
    recipe = (text(FIXTURE, "pom.xml"),)
    brokers = "KAFKA_BROKERS"
    ports = ("plain", "tls", "mutual", "controller")

    def fill(self):
        self.jars(self.here / FIXTURE / "pom.xml", "lib")

    def words(self, ports):
        self.certificates()
        users = ((512, USER), (256, ONLY_256_USER))
        names = [f"SCRAM-SHA-{bits}=[name={user},password={PASSWORD}]" for bits, user in users]
        return self.format(self.properties(ports), *(word for name in names for word in ("--add-scram", name)))

    def certificates(self):
        """An authority of this run, the broker's certificate, and a client's."""
        folder = self.folder() / "tls"
        folder.mkdir(exist_ok=True)
        names = folder / "names"
        names.write_text(f"subjectAltName=DNS:localhost,IP:{LOOPBACK}\n", encoding="utf-8")
        for words in (
            "req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=frazil-tests -keyout ca.key -out ca.crt",
            "req -newkey rsa:2048 -nodes -subj /CN=broker -keyout broker.key -out broker.csr",
            "x509 -req -in broker.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile names -out broker.crt",
            "req -newkey rsa:2048 -nodes -subj /CN=frazil -keyout client.key -out client.csr",
            "x509 -req -in client.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out client.crt",
        ):
            done = subprocess.run(["openssl", *words.split()], cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Failure(f"{self.name}: openssl: {done.stderr}")
        parts = [(folder / part).read_text(encoding="utf-8") for part in ("broker.key", "broker.crt", "ca.crt")]
        (folder / "broker.pem").write_text("".join(parts), encoding="utf-8")

    def properties(self, ports):
        login = "org.apache.kafka.common.security"
        plain = f'{login}.plain.PlainLoginModule required user_{USER}="{PASSWORD}" user_{HUB_USER}="{PASSWORD}";'
        names = ("plain", "tls", "mutual")
        listeners = ",".join(f"{name.upper()}://{LOOPBACK}:{ports[name]}" for name in names)
        return f"""
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{LOOPBACK}:{ports["controller"]}
listeners={listeners},CONTROLLER://{LOOPBACK}:{ports["controller"]}
advertised.listeners={listeners}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT,TLS:SASL_SSL,MUTUAL:SSL
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAIN
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER
listener.name.tls.plain.sasl.jaas.config={plain}
listener.name.tls.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;
listener.name.tls.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;
listener.name.tls.oauthbearer.sasl.jaas.config={login}.oauthbearer.OAuthBearerLoginModule required;
listener.name.mutual.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={self.folder()}/tls/broker.pem
ssl.truststore.type=PEM
ssl.truststore.location={self.folder()}/tls/ca.crt
{self.common()}"""

    def ready(self, ports):
        for port in (ports["plain"], ports["tls"], ports["mutual"]):
            try:
                socket.create_connection((LOOPBACK, port), timeout=1).close()
            except OSError:
                return False
        return True

    def answers(self, ports):
        return {
            "KAFKA_BROKERS": f"{LOOPBACK}:{ports['plain']}",
            "KAFKA_TLS_BROKERS": f"{LOOPBACK}:{ports['tls']}",
            "KAFKA_MUTUAL_BROKERS": f"{LOOPBACK}:{ports['mutual']}",
            "KAFKA_CA": str(self.folder() / "tls" / "ca.crt"),
            "KAFKA_CERTIFICATE": str(self.folder() / "tls" / "client.crt"),
            "KAFKA_KEY": str(self.folder() / "tls" / "client.key"),
            "KAFKA_HUB_USER": HUB_USER,
            "KAFKA_USER": USER,
            "KAFKA_256_USER": ONLY_256_USER,
            "KAFKA_PASSWORD": PASSWORD,
        }
