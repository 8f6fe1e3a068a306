"""Further brokers of this run's cluster; its controller is the first one."""

import socket

import kafka
from component import LOOPBACK, Failure, load


class Component(kafka.Broker):
    name = "kafka-2"
    what = "a second broker beside kafka; FRAZIL_KAFKA_NODES says how many there will be"
    node, brokers = 2, "KAFKA_2_BROKERS"
    ports = ("plain",)

    def __init__(self, run):
        super().__init__(run)
        self.first = load("kafka", run)
        self.home, self.recipe = self.first.home, self.first.recipe

    def install(self):
        self.first.install()

    def words(self, ports):
        controller = self.first.state().get("ports", {}).get("controller")
        if not self.first.pid() or not controller:
            raise Failure(f"{self.name} needs kafka: start it first")
        return self.format(f"""
process.roles=broker
node.id={self.node}
controller.quorum.voters=1@{LOOPBACK}:{controller}
listeners=PLAIN://{LOOPBACK}:{ports["plain"]}
advertised.listeners=PLAIN://{LOOPBACK}:{ports["plain"]}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAIN:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAIN
{self.common()}""")

    def ready(self, ports):
        try:
            socket.create_connection((LOOPBACK, ports["plain"]), timeout=1).close()
        except OSError:
            return False
        return True

    def answers(self, ports):
        return {self.brokers: f"{LOOPBACK}:{ports['plain']}"}
