//! Real rows as a folder that grows: one file cut into many, plain, gzip and zstd in turn.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// The columns of nycflights13's flights, as they are created and as they are compared.
pub(crate) const FLIGHTS: &[(&str, &str)] = &[
    ("year", "int"),
    ("month", "int"),
    ("day", "int"),
    ("dep_time", "int"),
    ("sched_dep_time", "int"),
    ("dep_delay", "double"),
    ("arr_time", "int"),
    ("sched_arr_time", "int"),
    ("arr_delay", "double"),
    ("carrier", "string"),
    ("flight", "int"),
    ("tailnum", "string"),
    ("origin", "string"),
    ("dest", "string"),
    ("air_time", "double"),
    ("distance", "long"),
    ("hour", "int"),
    ("minute", "int"),
    ("time_hour", "timestamptz"),
];

/// The columns of its weather.
pub(crate) const WEATHER: &[(&str, &str)] = &[
    ("origin", "string"),
    ("year", "int"),
    ("month", "int"),
    ("day", "int"),
    ("hour", "int"),
    ("temp", "double"),
    ("dewp", "double"),
    ("humid", "double"),
    ("wind_dir", "long"),
    ("wind_speed", "double"),
    ("wind_gust", "double"),
    ("precip", "double"),
    ("pressure", "double"),
    ("visib", "double"),
    ("time_hour", "timestamptz"),
];

/// The columns of vega's flights, as inference must find them.
pub(crate) const VEGA: &[(&str, &str)] =
    &[("date", "string"), ("delay", "long"), ("distance", "long"), ("origin", "string"), ("destination", "string")];

/// `create.columns` of a configuration.
pub(crate) fn created(columns: &[(&str, &str)]) -> String {
    columns.iter().map(|(name, kind)| format!("{:?}", format!("{name} {kind}"))).collect::<Vec<_>>().join(", ")
}

/// A folder that a source follows, and the slices of a file that are to appear in it.
pub(crate) struct Growing {
    folder: PathBuf,
    waiting: Vec<PathBuf>,
}

impl Growing {
    /// Cuts `file` into `parts` beside `folder`; none has appeared yet.
    pub(crate) fn cut(file: &Path, folder: &Path, parts: usize) -> Self {
        let text = fs::read(file).expect("read the rows");
        let staging = folder.with_extension("waiting");
        fs::create_dir_all(folder).expect("make the folder");
        fs::create_dir_all(&staging).expect("make the folder beside it");
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let per_part = lines.len().div_ceil(parts);
        let waiting = lines.chunks(per_part).enumerate().map(|(number, rows)| write(&staging, number, rows)).collect();
        Self { folder: folder.to_owned(), waiting }
    }

    /// Lets the next share of the slices appear, in order; each whole at once.
    pub(crate) fn appear(&mut self, count: usize) {
        let count = count.min(self.waiting.len());
        for path in self.waiting.drain(..count) {
            let name = path.file_name().expect("a file has a name");
            fs::rename(&path, self.folder.join(name)).expect("let a file appear");
        }
    }

    /// How many are still to come.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

fn write(folder: &Path, number: usize, rows: &[&[u8]]) -> PathBuf {
    let name = format!("part-{number:05}.ndjson{}", ["", ".gz", ".zst"][number % 3]);
    let path = folder.join(name);
    let file = BufWriter::new(File::create(&path).expect("make a slice"));
    let body = rows.concat();
    let done = match number % 3 {
        1 => {
            let mut out = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
            out.write_all(&body).and_then(|()| out.finish().map(drop))
        }
        2 => zstd::stream::copy_encode(body.as_slice(), file, 1),
        _ => {
            let mut out = file;
            out.write_all(&body).and_then(|()| out.flush())
        }
    };
    done.expect("write a slice");
    path
}
