//! The operations as steps.

pub(super) mod attention;
pub(super) mod experts;
pub(super) mod matrix;
pub(super) mod mla;
pub(super) mod rows;
pub(super) mod tally;
