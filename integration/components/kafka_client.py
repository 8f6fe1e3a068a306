"""Confluent's client for Python: a producer that is not ours."""

from component import Tool


class Component(Tool):
    name = "kafka-client"
    what = "Confluent's Kafka client for Python (2.11.1)"
    recipe = ("confluent-kafka==2.11.1",)

    def fill(self):
        self.pip(*self.recipe)

    def environment(self):
        return {"KAFKA_PYTHON": str(self.python())} if self.installed() else {}
