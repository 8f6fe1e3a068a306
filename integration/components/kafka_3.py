"""A third broker."""

import kafka_2


class Component(kafka_2.Component):
    name = "kafka-3"
    what = "a third broker beside kafka"
    node, brokers = 3, "KAFKA_3_BROKERS"
