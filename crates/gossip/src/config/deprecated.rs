//! Former names, for programs that still have them.

use super::{Config, ResourceLimits, Retention, SerfConfig};

#[allow(missing_docs)]
#[deprecated(note = "renamed to `ResourceLimits`")]
pub type Bounds = ResourceLimits;

#[allow(missing_docs)]
#[deprecated(note = "renamed to `Retention`")]
pub type Limits = Retention;

#[allow(missing_docs)]
#[deprecated(note = "renamed to `SerfConfig`")]
pub type Serf = SerfConfig;

#[allow(missing_docs)]
impl Config {
    #[doc(hidden)]
    #[deprecated(note = "renamed to `resource_limits`")]
    #[must_use]
    pub fn bounds(self, limits: ResourceLimits) -> Self {
        self.resource_limits(limits)
    }

    #[doc(hidden)]
    #[deprecated(note = "renamed to `retention`")]
    #[must_use]
    pub fn limits(self, retention: Retention) -> Self {
        self.retention(retention)
    }
}
