//! A child process whose lines can be waited for, without sleeping and without waiting for ever.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// A running child; killed when dropped.
pub(crate) struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    log: PathBuf,
}

/// Which of its outputs is listened to; the other goes to the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listen {
    Stdout,
    Stderr,
}

impl Process {
    /// Starts `command`; everything it says is appended to `log`.
    pub(crate) fn spawn(command: &mut Command, listen: Listen, log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("open the log");
        let rest = Stdio::from(file.try_clone().expect("share the log"));
        command.stdin(Stdio::piped());
        match listen {
            Listen::Stdout => command.stdout(Stdio::piped()).stderr(rest),
            Listen::Stderr => command.stderr(Stdio::piped()).stdout(rest),
        };
        let mut child = command.spawn().unwrap_or_else(|e| panic!("start {command:?}: {e}"));
        let output: Box<dyn Read + Send> = match listen {
            Listen::Stdout => Box::new(child.stdout.take().expect("piped")),
            Listen::Stderr => Box::new(child.stderr.take().expect("piped")),
        };
        let stdin = child.stdin.take();
        Self { child, stdin, lines: follow(output, file), log: log.to_owned() }
    }

    /// The next line, or `None` once the process has closed its output or nothing came within `limit`.
    pub(crate) fn line(&mut self, limit: Duration) -> Option<String> {
        self.lines.recv_timeout(limit).ok()
    }

    /// Lets it run for `time`; whether it is still running then.
    pub(crate) fn runs_for(&mut self, time: Duration) -> bool {
        let mut left = time;
        // Lines use up waiting in slices, so that a talkative process still gets about its time.
        while left > Duration::ZERO {
            let slice = left.min(Duration::from_millis(10));
            match self.lines.recv_timeout(slice) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => left -= slice,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }

    /// Waits until it ends by itself; the test ends where that takes longer than `limit` without a word.
    pub(crate) fn ends(mut self, limit: Duration) -> ExitStatus {
        loop {
            match self.lines.recv_timeout(limit) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return self.child.wait().expect("wait for the child"),
                Err(RecvTimeoutError::Timeout) => panic!("silent for {limit:?} and not at its end; {}", self.tail()),
            }
        }
    }

    /// Sends it a signal, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.expect("run kill").success(), "no process to send {name} to");
    }

    /// SIGKILL: no last word, no flush.
    pub(crate) fn kill9(mut self) {
        self.child.kill().expect("kill the child");
        self.child.wait().expect("wait for the child");
    }

    /// Writes one line to its standard input.
    pub(crate) fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("standard input is open");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).expect("write to the child");
    }

    /// The end of its log, for the message of a failing test.
    pub(crate) fn tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(30);
        format!("{} ends:\n{}", self.log.display(), lines[from..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[allow(clippy::disallowed_methods)] // reading a pipe with a time limit takes a thread; nothing here is simulated
fn follow(output: Box<dyn Read + Send>, mut log: File) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            let written = writeln!(log, "{line}");
            if written.is_err() || sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
