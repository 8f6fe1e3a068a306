"""Apicurio Registry, which speaks Confluent's API for schemas; it keeps them in memory.

It needs a Java of version 21 or newer, which is looked for as Trino's is. Without one it is left out, in words, and REGISTRY_URI is
`none`.
"""

import tarfile

from component import LOOPBACK, Server, answers_http, say
from trino import JDK, jdk

VERSION = "3.3.3"
ARTIFACT = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
# Confluent's API is below this path.
API = "/apis/ccompat/v7"


class Component(Server):
    name = "apicurio"
    what = f"Apicurio Registry {VERSION}; needs a JDK {JDK}"
    recipe = (ARTIFACT,)
    ports = ("api", "management")
    ready_within = 240

    def start(self):
        if jdk():
            super().start()
        else:
            say(f"apicurio: left out, it needs a JDK {JDK}: name one with JDK25_HOME")

    def environment(self):
        return super().environment() if jdk() else {"REGISTRY_URI": "none"}

    def fill(self):
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
        self.maven(goal, f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={self.home}")
        archive = self.home / f"apicurio-registry-app-{VERSION}-all.tar.gz"
        with tarfile.open(archive) as parts:
            parts.extractall(self.home / "app", filter="data")
        archive.unlink()

    def words(self, ports):
        # Java's first compiler alone: half the time until it is ready, and it is not asked much.
        return [
            *(jdk() / "bin" / "java", "-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
            *(f"-Dquarkus.http.host={LOOPBACK}", f"-Dquarkus.http.port={ports['api']}"),
            *(f"-Dquarkus.management.host={LOOPBACK}", f"-Dquarkus.management.port={ports['management']}"),
            *("-jar", self.home / "app" / "quarkus-run.jar"),
        ]

    def ready(self, ports):
        return answers_http(f"http://{LOOPBACK}:{ports['api']}{API}/subjects", below=300)

    def answers(self, ports):
        return {"REGISTRY_URI": f"http://{LOOPBACK}:{ports['api']}{API}", "REGISTRY_PID": self.state()["pid"]}
