//! What people read of a comparison: the tables in the terminal.

mod table;

pub(crate) use self::table::to_text;
