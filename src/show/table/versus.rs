//! Whether one measured number is better than another, given what is known of their errors.

use contract::metrics::Better;
use serde_json::{Map, Value};

/// A number, how far it may be off, and whether the truth may be better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Number {
    pub value: f64,
    /// Standard error; 0 where none is known.
    pub error: f64,
    pub bound: bool,
}

/// How many standard errors of their difference two numbers must be apart.
pub const APART: f64 = 2.0;

impl Number {
    /// How many standard errors of the difference this is better than `other`, less than 0 if it is
    /// worse: infinite where no error is known of either. The errors are taken to be independent:
    /// for two models that are measured on the same images that is too careful.
    pub fn ahead(self, other: Self, better: Better) -> f64 {
        let ahead = match better {
            Better::Lower => other.value - self.value,
            Better::Higher => self.value - other.value,
        };
        let error = self.error.hypot(other.error);
        match error > 0.0 {
            true => ahead / error,
            false if ahead == 0.0 => 0.0,
            false => ahead.signum() * f64::INFINITY,
        }
    }

    /// True if this is better beyond its error. Nothing exact is better than a bound: the truth
    /// behind that may be better still. Two bounds are compared as the numbers that they are.
    pub fn beats(self, other: Self, better: Better) -> bool {
        (self.bound || !other.bound) && self.ahead(other, better) >= APART
    }
}

/// The first key to which two protocols give different values. One that only one of them has (draws of a
/// bound) is no conflict.
pub fn conflict<'a>(
    a: &'a Map<String, Value>,
    b: &'a Map<String, Value>,
    varies: &[String],
) -> Option<(&'a str, &'a Value, &'a Value)> {
    a.iter().find_map(|(key, was)| {
        let is = b.get(key)?;
        (was != is && !varies.contains(key)).then_some((key.as_str(), was, is))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(value: f64, error: f64) -> Number {
        Number {
            value,
            error,
            bound: false,
        }
    }

    fn bound(value: f64) -> Number {
        Number {
            bound: true,
            ..exact(value, 0.0)
        }
    }

    #[test]
    fn errors_decide() {
        let (lower, higher) = (Better::Lower, Better::Higher);
        assert_eq!(exact(1.0, 0.3).ahead(exact(2.0, 0.4), lower), 2.0);
        assert!(exact(1.0, 0.3).beats(exact(2.0, 0.4), lower));
        assert!(!exact(1.0, 0.3).beats(exact(1.9, 0.4), lower));
        assert!(!exact(1.0, 0.3).beats(exact(2.0, 0.4), higher));
        assert!(exact(1.0, 0.0).beats(exact(1.001, 0.0), lower));
        assert!(!exact(1.0, 0.0).beats(exact(1.0, 0.0), lower));
        assert!(!exact(f64::NAN, 0.0).beats(exact(1.0, 0.0), lower));
    }

    #[test]
    fn nothing_exact_is_better_than_a_bound() {
        assert!(bound(1.0).beats(exact(2.0, 0.0), Better::Lower));
        assert!(!exact(1.0, 0.0).beats(bound(2.0), Better::Lower));
        assert!(bound(1.0).beats(bound(2.0), Better::Lower));
    }
}
