//! What `frazil import` says.

use serde_json::{Value, json};

use crate::cli::output::{self, Align, Answer, columns};
use crate::migrate::control::Stop;
use crate::migrate::note::{Fate, Note};
use crate::migrate::translate::Translation;

/// What became of each property, and where reading begins; `stop` is nothing where nobody was asked.
pub fn said(translated: &Translation, stop: Option<&Stop>) -> Answer {
    Answer { json: entry(translated, stop), text: text(translated, stop) }
}

fn parts(note: &Note) -> (&'static str, &str) {
    match &note.fate {
        Fate::Taken(setting) => ("taken as", setting),
        Fate::Idle(why) => ("not needed", why),
        Fate::Missing { hint, lossy: true } => ("NO COUNTERPART, rows differ", hint),
        Fate::Missing { hint, lossy: false } => ("no counterpart", hint),
    }
}

fn text(translated: &Translation, stop: Option<&Stop>) -> String {
    let head = [("property", Align::Left), ("what becomes of it", Align::Left), ("", Align::Left)];
    let row = |note: &Note| {
        let (what, how) = parts(note);
        vec![note.property.clone(), what.to_owned(), how.to_owned()]
    };
    let mut text = columns(&head, &translated.notes.iter().map(row).collect::<Vec<_>>());
    for (variable, property) in &translated.secrets {
        text.push_str(&format!("set {variable} to the secret that {property} has\n"));
    }
    match stop {
        None => {
            text.push_str("where the connector stopped was not asked: the pipeline begins at its topics' beginning\n")
        }
        Some(stop) => {
            for (log, offset) in &stop.offsets {
                text.push_str(&format!("{log} is read from offset {offset}\n"));
            }
            if stop.pending > 0 {
                let answers = output::counted(stop.pending as u64, "answer");
                text.push_str(&format!("files of {answers} of its workers are in no table: their rows are read again, the files are left over\n"));
            }
            if stop.offsets.is_empty() {
                text.push_str(
                    "the connector's group has committed nothing: the pipeline begins at its topics' beginning\n",
                );
            }
        }
    }
    text
}

fn entry(translated: &Translation, stop: Option<&Stop>) -> Value {
    let note = |note: &Note| {
        let (what, how) = match &note.fate {
            Fate::Taken(setting) => ("taken", setting.as_str()),
            Fate::Idle(why) => ("not-needed", *why),
            Fate::Missing { hint, .. } => ("no-counterpart", hint.as_str()),
        };
        json!({"property": note.property, "fate": what, "how": how, "rows-differ": note.is_loss()})
    };
    let secret = |(variable, property): &(String, String)| json!({"variable": variable, "property": property});
    json!({
        "properties": translated.notes.iter().map(note).collect::<Vec<_>>(),
        "secrets": translated.secrets.iter().map(secret).collect::<Vec<_>>(),
        "offsets": stop.map(|stop| &stop.offsets), "pending": stop.map(|stop| stop.pending),
        "configuration": translated.toml,
    })
}
