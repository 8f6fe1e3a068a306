"""Trino with its Iceberg connector, put together from the jars of Maven Central: one node, which reads this run's REST catalog.

It needs a JDK 25: $JDK25_HOME, or one that stands where Linux keeps them. Without one it is left out, in words, and TRINO_URI is
`none`.
"""

import json
import os
import pathlib
import re
import urllib.error
import urllib.request

from component import LOOPBACK, Server, load, say, text

FIXTURE = "trino_fixture"
VERSION = "483"
JDK = 25
SERVICE = "META-INF/services/io.trino.spi.Plugin"
# Beside the heap it needs about as much again.
HEAP = "1g"

NODE = """\
coordinator=true
node-scheduler.include-coordinator=true
http-server.http.port={port}
discovery.uri=http://{host}:{port}
query.max-memory=400MB
query.max-memory-per-node=400MB
memory.heap-headroom-per-node=200MB
catalog.config-dir={folder}/catalogs
"""

CATALOG = """\
connector.name=iceberg
iceberg.catalog.type=rest
iceberg.rest-catalog.uri={APACHE_REST_URI}
fs.native-s3.enabled=true
s3.endpoint={S3_ENDPOINT}
s3.path-style-access=true
s3.region={S3_REGION}
s3.aws-access-key={S3_ACCESS_KEY_ID}
s3.aws-secret-key={S3_SECRET_ACCESS_KEY}
"""


def jdk():
    """The home of a JDK that Trino runs on, or None."""
    homes = [os.environ.get("JDK25_HOME"), os.environ.get("JAVA_HOME"), *sorted(pathlib.Path("/usr/lib/jvm").glob("*"))]
    for home in map(pathlib.Path, filter(None, homes)):
        try:
            version = re.search(r'^JAVA_VERSION="(\d+)', (home / "release").read_text(encoding="utf-8"), re.MULTILINE)
        except OSError:
            continue
        # An image that runs only may lack the module for vectors too, which Trino needs.
        if version and int(version.group(1)) >= JDK and (home / "bin" / "javac").exists():
            return home
    return None


class Component(Server):
    name = "trino"
    what = f"Trino {VERSION} over this run's REST catalog and S3, which must run before; needs a JDK {JDK}"
    recipe = (text(FIXTURE, "main/pom.xml"), text(FIXTURE, "iceberg/pom.xml"), text(FIXTURE, "TrinoStart.java"))
    ports = ("http",)
    ready_within = 300
    stop_within = 2

    def start(self):
        if jdk():
            super().start()
        else:
            say(f"trino: left out, it needs a JDK {JDK}: name one with JDK25_HOME")

    def environment(self):
        return super().environment() if jdk() else {"TRINO_URI": "none"}

    def fill(self):
        for part, folder in (("main", "lib"), ("iceberg", "plugins/iceberg")):
            self.jars(self.here / FIXTURE / part / "pom.xml", folder)
        tools = jdk() / "bin"
        self.classes(self.here / FIXTURE / "TrinoStart.java", f"{tools}/javac")
        # Which plugin a folder has is said in the plugin's archive, which is in no Maven repository either.
        service = self.home / "service" / SERVICE
        service.parent.mkdir(parents=True)
        service.write_text("io.trino.plugin.iceberg.IcebergPlugin\n", encoding="utf-8")
        self.command(f"{tools}/jar", "cf", "plugins/iceberg/service.jar", "-C", "service", "META-INF")

    def words(self, ports):
        folder = self.folder()
        servers = {**load("seaweedfs", self.run).environment(), **load("apache-rest", self.run).environment()}
        (folder / "catalogs").mkdir(exist_ok=True)
        (folder / "data").mkdir(exist_ok=True)
        (folder / "catalogs" / "lake.properties").write_text(CATALOG.format(**servers), encoding="utf-8")
        (folder / "config").write_text(NODE.format(port=ports["http"], host=LOOPBACK, folder=folder), encoding="utf-8")
        (folder / "levels").write_text("io.trino=WARN\n", encoding="utf-8")
        node = {"environment": "integration", "id": "one", "data-dir": folder / "data", "bind-ip": LOOPBACK, "internal-address": LOOPBACK}
        return [
            *(jdk() / "bin" / "java", f"-Xmx{HEAP}", "-XX:+ExitOnOutOfMemoryError", "-XX:ReservedCodeCacheSize=256M"),
            *("-Djdk.attach.allowAttachSelf=true", "-Dfile.encoding=UTF-8", "-Duser.timezone=UTC"),
            *("--enable-native-access=ALL-UNNAMED", "--add-modules=jdk.incubator.vector"),
            *(f"-Dtrino.version={VERSION}", f"-Dconfig={folder / 'config'}", f"-Dlog.levels-file={folder / 'levels'}"),
            *(f"-Dnode.{key}={value}" for key, value in node.items()),
            *(f"-Dplugin.dir={self.home / 'plugins'}", "-cp", f"{self.home}/lib/*:{self.home}/classes", "TrinoStart"),
        ]

    def ready(self, ports):
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{ports['http']}/v1/info", timeout=2) as answer:
                return json.load(answer)["starting"] is False
        except (urllib.error.URLError, OSError, ValueError, KeyError):
            return False

    def answers(self, ports):
        return {"TRINO_URI": f"http://{LOOPBACK}:{ports['http']}"}
