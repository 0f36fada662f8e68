//! The kinds of this build: the library's, or none.

use contract::StageDef;

use crate::base::diag::Diagnostic;

/// Every kind that a stage may have besides `command`.
#[cfg(feature = "kinds")]
pub const KINDS: &[StageDef] = stages::STAGES;
#[cfg(not(feature = "kinds"))]
pub const KINDS: &[StageDef] = &[];

/// What to do where a build without kinds is asked for one.
pub const HINT: &str = "`cargo build --release` makes a build with the kinds, \
                        --no-default-features one without";

/// The error of a command that needs the kinds.
pub fn absent() -> Diagnostic {
    Diagnostic::new("this build of repro has no kinds, only commands as stages").hint(HINT)
}
