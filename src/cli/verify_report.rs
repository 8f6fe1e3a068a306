//! What `frazil verify` says.

use serde_json::{Value, json};

use crate::cli::output::{Align, Answer, bytes, columns, count, counted};
use crate::verify::judge::{LogProof, Verdict, files_of};
use crate::verify::{Copy, Evidence};

/// Ranges of a log that are listed as JSON, and in words.
const LISTED_MAX: usize = 1_000;
const SHOWN_MAX: usize = 10;

/// What was found.
pub struct Report {
    /// The tables that were looked at together.
    pub tables: Vec<String>,
    /// The table of rejects that was counted in.
    pub rejects: Option<String>,
    /// How it turned out.
    pub verdict: Verdict,
    /// Why it was not proven, apart from what single logs and files say.
    pub notes: Vec<String>,
    /// Log by log.
    pub proofs: Vec<LogProof>,
    /// Files of rows that are there more than once.
    pub copies: Vec<Copy>,
    /// What the tables say.
    pub rows: Evidence,
    /// Files of rejects that were not read.
    pub unread_rejects: u64,
    /// Bytes that were read, metadata included.
    pub bytes: u64,
}

/// The answer of `verify`.
pub fn said(report: &Report) -> Answer {
    Answer { json: entry(report), text: text(report) }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Proven => "proven",
        Verdict::Broken => "broken",
        Verdict::Open => "not-proven",
    }
}

fn entry(report: &Report) -> Value {
    let range = |(first, last): (u64, u64)| json!({"first": first, "last": last});
    let log = |proof: &LogProof| {
        let again = |(first, last): (u64, u64)| json!({"first": first, "last": last, "files": files_of(&report.copies, &proof.log, first, last)});
        json!({
            "log": proof.log, "rows": proof.rows,
            "first": proof.ends.map(|ends| ends.0), "last": proof.ends.map(|ends| ends.1),
            "missing": proof.missing(), "gaps": proof.gaps().take(LISTED_MAX).map(range).collect::<Vec<_>>(),
            "asked": proof.asked, "holes": proof.holes, "removed": proof.removed, "skipped": proof.skipped,
            "surplus": proof.surplus, "duplicates": proof.duplicates().take(LISTED_MAX).map(again).collect::<Vec<_>>(),
            "deleted": proof.deleted, "rejected": proof.rejected,
            "checkpoint": proof.checkpoint, "above-checkpoint": proof.above, "not-told": proof.open,
        })
    };
    let unsettled = |own: &crate::verify::Unsettled| json!({"file": own.file, "rows": own.rows, "why": own.why});
    let figures = report.rows.figures;
    json!({
        "tables": report.tables, "rejects": report.rejects, "verdict": word(report.verdict), "notes": report.notes,
        "logs": report.proofs.iter().map(log).collect::<Vec<_>>(),
        "rows-without-offset": report.rows.without,
        "unsettled": report.rows.unsettled.iter().map(unsettled).collect::<Vec<_>>(),
        "looked-at": {
            "data-files": figures.files, "outside": figures.outside, "by-bounds": figures.by_bounds,
            "read": figures.read, "bytes": report.bytes,
        },
    })
}

fn text(report: &Report) -> String {
    let right = |name: &'static str| (name, Align::Right);
    let head = [
        ("log", Align::Left),
        right("rows"),
        right("first"),
        right("last"),
        right("missing"),
        right("twice"),
        right("deleted"),
        right("rejected"),
        right("checkpoint"),
    ];
    let end = |end: Option<u64>| end.map_or("-".to_owned(), |end| end.to_string());
    let row = |proof: &LogProof| {
        vec![
            proof.log.clone(),
            count(proof.rows),
            end(proof.ends.map(|ends| ends.0)),
            end(proof.ends.map(|ends| ends.1)),
            count(proof.missing()),
            count(proof.surplus),
            count(proof.deleted),
            count(proof.rejected),
            proof.checkpoint.map_or("-".to_owned(), |offset| offset.to_string()),
        ]
    };
    let rows: Vec<Vec<String>> = report.proofs.iter().map(row).collect();
    let mut text = if rows.is_empty() { "no rows of any log\n".to_owned() } else { columns(&head, &rows) };
    report.proofs.iter().for_each(|proof| text.push_str(&details(proof, &report.copies)));
    if report.rows.without > 0 {
        let rows = counted(report.rows.without, "row");
        text.push_str(&format!("{rows} without a partition or an offset: whose they are is not known\n"));
    }
    for own in report.rows.unsettled.iter().take(SHOWN_MAX) {
        text.push_str(&format!("not read: {} of {}: {}\n", counted(own.rows, "row"), own.file, own.why));
    }
    text.push_str(&more(report.rows.unsettled.len(), "file not read", "files not read"));
    if report.unread_rejects > 0 {
        text.push_str(&format!("not read: {} of rejects\n", counted(report.unread_rejects, "file")));
    }
    report.notes.iter().for_each(|note| text.push_str(&format!("{note}\n")));
    text + &last_line(report)
}

/// What is wrong with one log.
fn details(proof: &LogProof, copies: &[Copy]) -> String {
    let range = |(first, last): (u64, u64)| if first == last { first.to_string() } else { format!("{first}..{last}") };
    let mut text = String::new();
    let gaps: Vec<(u64, u64)> = proof.gaps().take(LISTED_MAX + 1).collect();
    if !gaps.is_empty() {
        let shown: Vec<String> = gaps.iter().take(SHOWN_MAX).map(|gap| range(*gap)).collect();
        let rest = if gaps.len() > shown.len() { ", …" } else { "" };
        let what = match (proof.asked, proof.removed) {
            (false, _) => String::new(),
            (true, 0) => ", where the log has records".to_owned(),
            (true, removed) => format!(", of which the log has removed {}", count(removed)),
        };
        let missing = count(proof.missing());
        text.push_str(&format!("{}: missing {missing}: {}{rest}{what}\n", proof.log, shown.join(", ")));
    }
    if proof.holes > 0 {
        let holes = counted(proof.holes, "offset");
        text.push_str(&format!("{}: {holes} at which the log has no record\n", proof.log));
    }
    if proof.skipped > 0 {
        let skipped = counted(proof.skipped, "record");
        text.push_str(&format!("{}: {skipped} without a value, which the source passes over\n", proof.log));
    }
    let twice: Vec<(u64, u64)> = proof.duplicates().take(LISTED_MAX + 1).collect();
    for own in twice.iter().take(SHOWN_MAX) {
        let files = files_of(copies, &proof.log, own.0, own.1);
        let files = if files.is_empty() { "files that were not read".to_owned() } else { files.join(", ") };
        text.push_str(&format!("{}: more than once {}: in {files}\n", proof.log, range(*own)));
    }
    if twice.len() > SHOWN_MAX {
        text.push_str(&format!("{}: and more ranges that are there more than once: --json lists them\n", proof.log));
    }
    if proof.above > 0 {
        let rows = counted(proof.above, "row");
        text.push_str(&format!("{}: {rows} above the checkpoint: they will be read again\n", proof.log));
    }
    if let Some(why) = proof.open {
        text.push_str(&format!("{}: not told: {why}\n", proof.log));
    }
    text
}

fn more(all: usize, one: &str, many: &str) -> String {
    match all.saturating_sub(SHOWN_MAX) {
        0 => String::new(),
        1 => format!("and 1 more {one}\n"),
        rest => format!("and {rest} more {many}\n"),
    }
}

fn last_line(report: &Report) -> String {
    let figures = report.rows.figures;
    let said = match report.verdict {
        Verdict::Proven => "proven: each row is there once",
        Verdict::Broken => "not so: rows are missing, there more than once, or above the checkpoint",
        Verdict::Open => "not proven: not all could be told",
    };
    let files = counted(figures.files, "data file");
    let outside = if figures.outside > 0 { format!(", {} outside", count(figures.outside)) } else { String::new() };
    format!(
        "{said}; {files}: {} by bounds, {} read{outside}; {} read in all\n",
        count(figures.by_bounds),
        count(figures.read),
        bytes(report.bytes),
    )
}
