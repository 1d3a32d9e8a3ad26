//! What may go where.

pub(crate) mod admission;
