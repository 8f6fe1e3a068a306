//! What becomes of a row beside its values, where a schema says its fields: NULLs that a column refuses, and fields without a
//! column.

use crate::config::OnChange;
use crate::decode::budget::Budget;
use crate::decode::columns::{Column, Columns};
use crate::decode::fault::Fault;
use crate::decode::plan::{Plan, StructPlan};

/// Remembers it.
pub(crate) struct Tally {
    /// What fields without a column do.
    pub(crate) on_change: OnChange,
    /// Required columns that were given NULL in the row. It does not stay.
    pub(crate) nulls: Vec<i32>,
    /// Fields with a value that were left out of rows.
    pub(crate) ignored: u64,
    /// The same before the row.
    before: u64,
    /// What the row may fill.
    pub(crate) budget: Budget,
}

impl Tally {
    pub(crate) fn new(on_change: OnChange) -> Self {
        Self { on_change, nulls: Vec::new(), ignored: 0, before: 0, budget: Budget::new() }
    }

    /// Begins a row of so many bytes.
    pub(crate) fn begin(&mut self, bytes: usize) {
        self.budget.begin(bytes);
        self.nulls.clear();
        self.before = self.ignored;
    }

    /// Ends it: one that gave NULL to a required column does not stay, and what such a row left out does not count.
    pub(crate) fn end(&mut self, done: Result<(), Fault>) -> Result<(), Fault> {
        let done = match done {
            Ok(()) if !self.nulls.is_empty() => {
                Err(Fault::row("a value is missing or null, and its column is required"))
            }
            done => done,
        };
        if done.is_err() {
            self.ignored = self.before;
        }
        done
    }

    /// Leaves out a field that has a value and no column, where there cannot be one for that `obstacle`.
    pub(crate) fn extra(&mut self, obstacle: Option<&String>) -> Result<(), Fault> {
        match (self.on_change, obstacle) {
            (OnChange::Quarantine, _) => return Err(Fault::value("the table has no such column")),
            (OnChange::Evolve, Some(obstacle)) => return Err(Fault::value(obstacle.clone())),
            _ => self.ignored += 1,
        }
        Ok(())
    }

    /// Appends NULL; `what` says how it came: `missing` or `null`.
    #[inline]
    pub(crate) fn null(&mut self, plan: &Plan, column: &mut Column, what: &str) -> Result<(), Fault> {
        if plan.required {
            if self.on_change != OnChange::Evolve {
                return Err(Fault::value(format!("{what}, and the column is required")));
            }
            self.nulls.push(plan.id);
        }
        column.placeholder(plan);
        Ok(())
    }

    /// Appends what a column holds where the row has no such field: its default, or NULL.
    #[inline]
    pub(crate) fn absent(&mut self, plan: &Plan, column: &mut Column) -> Result<(), Fault> {
        match &plan.default {
            Some(default) => column.constant(default),
            None => self.null(plan, column, "missing"),
        }
    }

    /// The same for each of the columns that has no value yet for the row behind `length` others.
    pub(crate) fn rest(&mut self, plan: &StructPlan, columns: &mut Columns, length: usize) -> Result<(), Fault> {
        for (plan, column) in plan.fields.iter().zip(&mut columns.columns) {
            if column.len() == length {
                self.absent(plan, column).map_err(|fault| fault.in_field(&plan.name))?;
            }
        }
        Ok(())
    }
}
