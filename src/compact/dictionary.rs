//! Dictionaries of many column chunks as one. Values are known by their bytes, so that what is told apart in one file is in all.

use std::collections::HashMap;

use crate::compact::pages::{Unfit, unfit};

/// Values in the plain encoding, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Values {
    bytes: Vec<u8>,
    /// Where each begins, and where the last ends.
    starts: Vec<u32>,
}

impl Values {
    /// `count` values of so many bytes each, or each with its length before it.
    pub(crate) fn read(bytes: Vec<u8>, count: usize, width: Option<usize>) -> Result<Self, Unfit> {
        let ends = ends(&bytes, count, width).ok_or_else(|| Unfit("a dictionary's values are cut off".to_owned()))?;
        Ok(Self { bytes, starts: ends })
    }

    pub(crate) fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// One of them, with its length where it has one.
    pub(crate) fn get(&self, at: usize) -> &[u8] {
        match (self.starts.get(at), self.starts.get(at + 1)) {
            (Some(start), Some(end)) => &self.bytes[*start as usize..*end as usize],
            _ => &[],
        }
    }
}

/// Where each of `count` values begins and the last ends, which must be at the end of `bytes`.
fn ends(bytes: &[u8], count: usize, width: Option<usize>) -> Option<Vec<u32>> {
    if count > bytes.len() || u32::try_from(bytes.len()).is_err() {
        return if count == 0 && bytes.is_empty() { Some(vec![0]) } else { None };
    }
    let (mut starts, mut at) = (Vec::with_capacity(count + 1), 0_usize);
    for _ in 0..count {
        starts.push(at as u32);
        at = next(bytes, at, width)?;
    }
    starts.push(at as u32);
    (at == bytes.len()).then_some(starts)
}

fn next(bytes: &[u8], at: usize, width: Option<usize>) -> Option<usize> {
    let length = match width {
        Some(width) => width,
        None => u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?) as usize + 4,
    };
    at.checked_add(length).filter(|end| *end <= bytes.len())
}

/// That `bytes` are `count` values in the plain encoding.
pub(crate) fn check(bytes: &[u8], count: usize, width: Option<usize>) -> Result<(), Unfit> {
    let mut at = Some(0);
    match width {
        Some(width) => at = count.checked_mul(width),
        None => (0..count).for_each(|_| at = at.and_then(|at| next(bytes, at, None))),
    }
    if at == Some(bytes.len()) { Ok(()) } else { unfit("a page's values are fewer or more than it says") }
}

/// Many dictionaries as one.
#[derive(Debug)]
pub(crate) struct Merged {
    pub(crate) bytes: Vec<u8>,
    pub(crate) count: usize,
    /// For each dictionary where its values are in this one; nothing where they are at the same places.
    pub(crate) maps: Vec<Option<Vec<u32>>>,
}

impl Merged {
    /// The values of all, each once, in the order in which they come; `None` when they take more than `bytes_max`.
    pub(crate) fn of(dictionaries: &[&Values], bytes_max: usize) -> Option<Self> {
        let mut seen: HashMap<&[u8], u32> = HashMap::new();
        let mut merged = Self { bytes: Vec::new(), count: 0, maps: Vec::new() };
        let mut known: Option<(&Values, usize)> = None;
        for values in dictionaries {
            if let Some((_, at)) = known.filter(|(held, _)| held.bytes == values.bytes) {
                merged.maps.push(merged.maps.get(at).cloned().flatten());
                continue;
            }
            let mut map = Vec::with_capacity(values.len());
            for at in 0..values.len() {
                let value = values.get(at);
                let next = u32::try_from(seen.len()).ok()?;
                let place = *seen.entry(value).or_insert(next);
                if place == next {
                    merged.bytes.extend_from_slice(value);
                    if merged.bytes.len() > bytes_max {
                        return None;
                    }
                }
                map.push(place);
            }
            let same = map.iter().enumerate().all(|(at, place)| at == *place as usize);
            known = Some((values, merged.maps.len()));
            merged.maps.push((!same).then_some(map));
        }
        merged.count = seen.len();
        Some(merged)
    }
}
