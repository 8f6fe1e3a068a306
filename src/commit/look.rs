//! After anything but a clean yes: look, never guess. One decision list over what a load shows, first match wins.
//!
//! Source: docs/protocol.md, "The state machine". Pure.

use crate::model::checkpoint::Standing;

/// What a load showed, as far as the decision needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Our snapshot id is in the target's chain.
    pub in_chain: bool,
    /// Our snapshot id is in the table, in the chain or not.
    pub in_table: bool,
    /// Where the change stands.
    pub effect: Effect,
    /// Every requirement of the last submission holds, and sequence number, next row id and format version are as assumed.
    pub as_assumed: bool,
    /// The last submission is younger than the time after which a body is prepared anew.
    pub young: bool,
    /// What the conflict table says of the way from the submission's base to this head.
    pub rebase: Rebase,
    /// The change is a replace, which is not done again once it was rolled back.
    pub replaces: bool,
}

/// Where a change stands by its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It has a delta that stands so.
    Delta(Standing),
    /// It has none (or is a start record), and its effect shows.
    Done,
    /// It has none, and its effect does not show.
    Absent,
    /// It is a replace whose inputs are gone, and not for its outputs.
    Void,
}

/// Whether a change can be put on another head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rebase {
    /// Prepare again.
    Clean,
    /// The staged files do not fit the new layout: encode again.
    Rebuild,
    /// Maintenance only: the work is void.
    Lost,
}

/// What follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was us.
    Ours,
    /// It is done, by us (and since expired or compacted) or by another instance.
    Done,
    /// Somebody else owns these positions.
    Fenced,
    /// It landed and was rolled back: prepare under a new snapshot id.
    Renew,
    /// The identical body again: at most one lands.
    Resubmit,
    /// Prepare on the new head.
    Prepare,
    /// Encode again for the new layout, then prepare.
    Rebuild,
    /// The work is void.
    Lost,
}

/// Rows 3 to 8 of the list; rows 1 and 2 (no load, another table) are errors before this is reached.
pub fn look(seen: &Seen) -> Verdict {
    if seen.in_chain {
        return Verdict::Ours;
    }
    match seen.effect {
        Effect::Delta(Standing::Behind) | Effect::Done => return Verdict::Done,
        Effect::Delta(Standing::Fenced) => return Verdict::Fenced,
        Effect::Void => return Verdict::Lost,
        Effect::Delta(Standing::Ahead) | Effect::Absent => {}
    }
    if seen.in_table {
        return if seen.replaces { Verdict::Lost } else { Verdict::Renew };
    }
    if seen.as_assumed && seen.young {
        return Verdict::Resubmit;
    }
    match seen.rebase {
        Rebase::Clean => Verdict::Prepare,
        Rebase::Rebuild => Verdict::Rebuild,
        Rebase::Lost => Verdict::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing() -> Seen {
        Seen {
            in_chain: false,
            in_table: false,
            effect: Effect::Delta(Standing::Ahead),
            as_assumed: false,
            young: true,
            rebase: Rebase::Clean,
            replaces: false,
        }
    }

    /// One line per row of docs/protocol.md's list, in its order.
    #[test]
    fn every_row_of_the_look_list_decides_as_written() {
        let case = |change: fn(&mut Seen)| {
            let mut seen = nothing();
            change(&mut seen);
            look(&seen)
        };
        let rows: &[(&str, Verdict, Verdict)] = &[
            ("3 in C", case(|s| (s.in_chain, s.in_table) = (true, true)), Verdict::Ours),
            ("3 before 4", case(|s| (s.in_chain, s.effect) = (true, Effect::Delta(Standing::Fenced))), Verdict::Ours),
            ("4 all at or past to", case(|s| s.effect = Effect::Delta(Standing::Behind)), Verdict::Done),
            ("4 neither", case(|s| s.effect = Effect::Delta(Standing::Fenced)), Verdict::Fenced),
            ("4 before 6", case(|s| (s.in_table, s.effect) = (true, Effect::Delta(Standing::Behind))), Verdict::Done),
            ("5 effect shows", case(|s| s.effect = Effect::Done), Verdict::Done),
            ("5 inputs gone", case(|s| s.effect = Effect::Void), Verdict::Lost),
            ("6 landed, rolled back", case(|s| (s.in_table, s.as_assumed) = (true, true)), Verdict::Renew),
            ("6 without a delta", case(|s| (s.in_table, s.effect) = (true, Effect::Absent)), Verdict::Renew),
            ("6 a replace", case(|s| (s.in_table, s.replaces, s.effect) = (true, true, Effect::Absent)), Verdict::Lost),
            ("7 as assumed, young", case(|s| s.as_assumed = true), Verdict::Resubmit),
            ("8 as assumed, old", case(|s| (s.as_assumed, s.young) = (true, false)), Verdict::Prepare),
            ("8 clean", case(|_| {}), Verdict::Prepare),
            ("8 rebuild", case(|s| s.rebase = Rebase::Rebuild), Verdict::Rebuild),
            ("8 lost", case(|s| (s.rebase, s.effect) = (Rebase::Lost, Effect::Absent)), Verdict::Lost),
        ];
        for (row, verdict, expected) in rows {
            assert_eq!(verdict, expected, "row {row}");
        }
    }
}
