//! The rewrite itself: the live rows of a group of data files, in as few files as they need.
//!
//! Copies encoded pages where that is enough (`splice`). Else decodes and encodes (`merge`), in bounded memory, with our own delete
//! application: the `iceberg` crate's reader has no row lineage and loses rows with NULL keys. What cannot be done right is refused, with file, column and reason; other groups go on.

mod bounds;
mod dictionary;
pub mod files;
pub(crate) mod input;
mod keys;
pub(crate) mod masks;
pub mod merge;
mod ordered;
mod pages;
mod pass;
pub(crate) mod project;
pub(crate) mod rows;
mod sorted;
pub mod splice;
mod stitch;
mod stitched;
mod trail;
