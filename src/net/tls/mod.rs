//! TLS that ends here, and what both sides of TLS share.

mod cache;
mod certificate;
mod certificate_facts;
mod downstream;
mod params;
mod san;
mod validation;

pub use cache::{Cache, Interned};
pub use certificate::Certificate;
pub use certificate_facts::{CertificateFacts, SubjectName};
pub use downstream::{DownstreamTls, facts};
pub use params::Parameters;
pub use san::SanMatcher;
pub use validation::{Trust, Validation, ValidationFailure};
