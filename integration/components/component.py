"""What every component shares: a cache of installed packages, a run's state, ports, processes, readiness."""

import contextlib
import fcntl
import hashlib
import importlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

# In the order in which they must start.
NAMES = ["seaweedfs", "apache-rest", "kafka", "kafka-2", "kafka-3", "kafka-client", "connect", "apicurio", "postgres", "debezium"]
NAMES += ["duckdb", "pyiceberg", "spark", "flink", "trino", "tpchgen"]

LOOPBACK = "127.0.0.1"


class Failure(Exception):
    """Something that the person at the keyboard must know, as one sentence."""


class Run:
    """The folder of one run and the cache of packages that all runs share."""

    def __init__(self, cache, folder):
        self.cache = pathlib.Path(cache)
        self.folder = pathlib.Path(folder)
        self.cache.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(parents=True, exist_ok=True)

    @classmethod
    def from_environment(cls):
        home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
        cache = os.environ.get("FRAZIL_COMPONENTS") or os.path.join(home, "frazil", "components")
        return cls(cache, os.environ.get("FRAZIL_RUN") or os.path.join(cache, "run"))


def load(name, run):
    """The component of this name, bound to a run."""
    module = importlib.import_module(name.replace("-", "_"))
    return module.Component(run)


class Tool:
    """An installed environment that nothing has to be started for."""

    name = what = ""
    # What is installed; a change of it installs anew. Also: requirements for pip, where there are any.
    recipe = ()

    def __init__(self, run):
        self.run = run
        self.home = run.cache / self.name
        self.here = pathlib.Path(__file__).resolve().parent

    def start(self):
        self.install()

    def stop(self):
        """Nothing runs."""

    def describe(self):
        return "installed" if self.installed() else "not installed"

    def environment(self):
        return {}

    def log_path(self):
        return self.home / "install.log"

    def stamp(self):
        """Changes with what is installed and with the interpreter that virtual environments hang on."""
        text = json.dumps([self.recipe, sys.version_info[:2]])
        return hashlib.sha256(text.encode()).hexdigest()

    def installed(self):
        stamp = self.home / "stamp"
        return stamp.is_file() and stamp.read_text(encoding="utf-8") == self.stamp()

    def install(self):
        """Fills the cache; two runs that need the same take turns."""
        with open(self.run.cache / f"{self.name}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.installed():
                return
            say(f"{self.name}: installing")
            began = time.monotonic()
            shutil.rmtree(self.home, ignore_errors=True)
            self.home.mkdir(parents=True)
            self.fill()
            (self.home / "stamp").write_text(self.stamp(), encoding="utf-8")
            say(f"{self.name}: installed in {time.monotonic() - began:.0f} s")

    def fill(self):
        raise NotImplementedError

    def pip(self, *requirements):
        """A virtual environment of its own, so that no component's pins meet another's."""
        self.command(sys.executable, "-m", "venv", str(self.home / "venv"))
        self.command(str(self.python()), "-m", "pip", "install", "--quiet", "--no-input", *requirements)

    def python(self):
        return self.home / "venv" / "bin" / "python"

    def maven(self, *arguments):
        if not shutil.which("mvn"):
            raise Failure(f"{self.name} needs Maven and a JDK 17 or newer (Debian: maven, openjdk-17-jdk-headless)")
        self.command("mvn", "--quiet", "--batch-mode", *arguments)

    def jars(self, pom, folder):
        """Copies what a pom names, with all that it needs, into a folder of this environment."""
        goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
        self.maven("-f", str(pom), goal, "-DincludeScope=runtime", f"-DoutputDirectory={self.home / folder}")

    def classes(self, source, javac="javac"):
        """Compiles one file against the jars in `lib`."""
        if not shutil.which(javac):
            raise Failure(f"{self.name} needs a JDK 17 or newer (Debian: openjdk-17-jdk-headless)")
        self.command(javac, "-nowarn", "-cp", f"{self.home}/lib/*", "-d", "classes", str(source))

    def command(self, *words, attempts=3):
        """Runs to the end. Registries fail now and then, so it is tried again before it counts."""
        log = self.log_path()
        for attempt in range(attempts):
            with open(log, "a", encoding="utf-8") as out:
                out.write(f"$ {' '.join(words)}\n")
                out.flush()
                code = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.home).returncode
            if code == 0:
                return
            if attempt + 1 < attempts:
                time.sleep(5 * (attempt + 1))
        raise Failure(f"{self.name}: `{' '.join(words[:4])} …` ended with {code}; the end of {log}:\n{tail(log)}")


class Server(Tool):
    """A process on loopback, ended by its id."""

    # The ports it needs, by name; each start chooses free ones.
    ports = ()
    ready_within = 120
    # Whether an orderly end is worth waiting for.
    stop_signal = signal.SIGTERM
    stop_within = 5

    def start(self):
        self.install()
        if self.pid():
            return
        for attempt in range(3):
            try:
                self.launch()
                return
            except Failure:
                self.stop()
                if attempt == 2 or not port_taken(self.log_path()):
                    raise

    def launch(self):
        """One try, with fresh ports."""
        self.folder().mkdir(parents=True, exist_ok=True)
        ports = dict(zip(self.ports, free_ports(len(self.ports))))
        state = {"ports": ports}
        say(f"{self.name}: starting")
        began = time.monotonic()
        with open(self.log_path(), "w", encoding="utf-8") as log:
            process = self.spawn(self.words(ports), state, log)
        self.wait(process, lambda: self.ready(ports))
        state["environment"] = self.answers(ports)
        self.write(state)
        say(f"{self.name}: ready after {time.monotonic() - began:.1f} s, process {process.pid}")

    def spawn(self, words, state, log):
        """The process, noted in the state."""
        process = subprocess.Popen(
            [str(word) for word in words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=self.folder(),
            env={**os.environ, **self.variables(state["ports"])},
            start_new_session=True,
        )
        state["pid"] = process.pid
        state["born"] = birth(process.pid)
        self.write(state)
        return process

    def wait(self, process, ready):
        deadline = time.monotonic() + self.ready_within
        while not ready():
            if process.poll() is not None:
                raise Failure(f"{self.name} ended with {process.returncode}; its log ends:\n{tail(self.log_path())}")
            if time.monotonic() > deadline:
                raise Failure(f"{self.name} not ready in {self.ready_within} s; its log ends:\n{tail(self.log_path())}")
            time.sleep(0.2)

    def words(self, ports):
        raise NotImplementedError

    def variables(self, ports):
        return {}

    def ready(self, ports):
        raise NotImplementedError

    def answers(self, ports):
        """What tests need to know, once it is ready; may finish the set-up."""
        raise NotImplementedError

    def stop(self):
        pid = self.pid()
        if pid:
            end(pid, self.stop_signal, self.stop_within)
            say(f"{self.name}: ended process {pid}")
        with contextlib.suppress(FileNotFoundError):
            (self.folder() / "state.json").unlink()

    def describe(self):
        pid = self.pid()
        if not pid:
            return "stopped" if self.installed() else "not installed"
        return f"running, process {pid}, ports {self.state()['ports']}"

    def environment(self):
        return self.state().get("environment", {}) if self.pid() else {}

    def folder(self):
        return self.run.folder / self.name

    def log_path(self):
        folder = self.folder()
        return folder / "log" if folder.is_dir() else super().log_path()

    def state(self):
        try:
            return json.loads((self.folder() / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}

    def write(self, state):
        part = self.folder() / "state.json.part"
        part.write_text(json.dumps(state), encoding="utf-8")
        part.rename(self.folder() / "state.json")

    def pid(self):
        """The process of this run, if it is still the one that was started: ids are used again."""
        state = self.state()
        pid = state.get("pid")
        return pid if pid and birth(pid) == state.get("born") else None


def text(*path):
    """A file of this folder."""
    return pathlib.Path(__file__).resolve().parent.joinpath(*path).read_text(encoding="utf-8")


def say(text):
    """Progress goes to standard error: standard output is for KEY=VALUE lines."""
    print(text, file=sys.stderr, flush=True)


def tail(path, lines=15):
    try:
        return "\n".join(pathlib.Path(path).read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return "(no log)"


def port_taken(log):
    text = tail(log, 400).lower()
    return "address already in use" in text or "failed to bind" in text


def free_ports(count):
    """Ports that were free together a moment ago; a start that loses one to somebody else chooses again."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]


def birth(pid):
    """When this process started, as `ps` writes it; None where there is none, or only what is left of one."""
    answer = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    words = answer.stdout.split()
    return " ".join(words[1:]) if words and not words[0].startswith("Z") else None


def end(pid, first, within):
    """Ends the whole process group of `pid`: orderly if it will, then by force."""
    for number, seconds in ((first, within), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if birth(pid) is None:
                return
            time.sleep(0.05)
    raise Failure(f"process {pid} does not end")


def answers_http(url, below=500):
    """Whether something speaks HTTP there and is not failing."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status < below
    except urllib.error.HTTPError as refusal:
        return refusal.code < below
    except OSError:
        return False
