//! Which build this is.

use std::fmt;

/// The facts of `--version` and the admin's `/server_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// The commit it was built from, or what `NUNCIO_REVISION` said at build time.
    pub revision: &'static str,
    /// The package's version.
    pub number: &'static str,
    /// `Clean` or `Modified` working tree; `Distribution` when built outside of one.
    pub status: &'static str,
    /// `RELEASE` or `DEBUG`.
    pub build: &'static str,
    /// The TLS library.
    pub tls: &'static str,
}

impl Version {
    /// This build's.
    pub const fn of_build() -> Self {
        Self {
            revision: env!("NUNCIO_REVISION"),
            number: env!("CARGO_PKG_VERSION"),
            status: env!("NUNCIO_REVISION_STATUS"),
            build: match cfg!(debug_assertions) {
                true => "DEBUG",
                false => "RELEASE",
            },
            tls: "AWS-LC",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            revision,
            number,
            status,
            build,
            tls,
        } = self;
        write!(f, "{revision}/{number}/{status}/{build}/{tls}")
    }
}
