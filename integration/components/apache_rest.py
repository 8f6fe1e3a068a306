"""Apache Iceberg's own REST catalog fixture over SQLite; on this run's S3 where that runs, else on local files."""

from component import LOOPBACK, Server, answers_http, load, text

FIXTURE = "apache_rest_fixture"


class Component(Server):
    name = "apache-rest"
    what = "the REST catalog of Apache Iceberg's own tests (1.11.0), on this run's S3 if that was started before"
    recipe = (text(FIXTURE, "pom.xml"), text(FIXTURE, "LoopbackRest.java"))
    ports = ("catalog",)

    def fill(self):
        self.jars(self.here / FIXTURE / "pom.xml", "lib")
        self.classes(self.here / FIXTURE / "LoopbackRest.java")

    def warehouse(self):
        s3 = load("seaweedfs", self.run).environment()
        if not s3:
            return [f"warehouse=file://{self.folder() / 'warehouse'}"]
        return [
            f"warehouse=s3://{s3['S3_BUCKET']}/apache-rest",
            "io-impl=org.apache.iceberg.aws.s3.S3FileIO",
            f"s3.endpoint={s3['S3_ENDPOINT']}",
            "s3.path-style-access=true",
            f"s3.access-key-id={s3['S3_ACCESS_KEY_ID']}",
            f"s3.secret-access-key={s3['S3_SECRET_ACCESS_KEY']}",
            f"client.region={s3['S3_REGION']}",
        ]

    def words(self, ports):
        for old in self.folder().glob("catalog.db*"):
            old.unlink()
        return [
            *("java", "-Xmx1g", f"-Djava.io.tmpdir={self.folder()}", "-cp", f"{self.home}/lib/*:{self.home}/classes"),
            *("org.apache.iceberg.rest.LoopbackRest", f"port={ports['catalog']}"),
            *("catalog-impl=org.apache.iceberg.jdbc.JdbcCatalog", "jdbc.schema-version=V1"),
            f"uri=jdbc:sqlite:{self.folder() / 'catalog.db'}",
            *self.warehouse(),
        ]

    def ready(self, ports):
        return answers_http(f"http://{LOOPBACK}:{ports['catalog']}/v1/config", below=300)

    def answers(self, ports):
        warehouse = self.warehouse()[0].removeprefix("warehouse=")
        return {"APACHE_REST_URI": f"http://{LOOPBACK}:{ports['catalog']}", "APACHE_REST_LOCATION": warehouse}
