//! Results as people see them: tables, figures, the report, and what is held to a baseline.

pub mod check;
pub mod compare;
pub mod evidence;
pub mod figures;
pub mod history;
pub mod report;
pub mod svg;
pub mod table;
pub mod tensorboard;
