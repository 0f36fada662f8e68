//! What is known of one path, as bits.

/// What was seen of one path; several hold at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks(pub(super) u16);

impl Marks {
    /// Asked for, and there.
    pub const THERE: Self = Self(1);
    /// Its content was read, or it was executed.
    pub const READ: Self = Self(2);
    /// Asked for, and not there.
    pub const ABSENT: Self = Self(4);
    /// The stage made it, or its whole content; what is read of it later is the stage's own.
    pub const OWN: Self = Self(8);
    /// Opened for writing.
    pub const WROTE: Self = Self(16);
    /// Asked where it leads.
    pub const LINK: Self = Self(32);
    pub const FOLDER: Self = Self(64);
    /// Read after it had become the stage's own.
    pub const READ_LATER: Self = Self(128);
    /// Was there before it became the stage's own.
    pub const EXISTED: Self = Self(256);
    /// Mode, times or links changed by the stage.
    pub const TOUCHED: Self = Self(512);
    /// A file without content when it was asked for.
    pub const EMPTY: Self = Self(1024);

    pub fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }

    pub(super) fn add(&mut self, mark: Self) {
        self.0 |= mark.0;
    }

    pub(super) fn without(self, mark: Self) -> Self {
        Self(self.0 & !mark.0)
    }
}
