//! TLS that ends here, and what both sides of TLS share.

mod certificate;
mod certificate_facts;
mod client_verifier;
mod common;
mod downstream;
mod params;
mod san;
mod server_certificates;
mod validation;

pub use certificate::Certificate;
pub use certificate_facts::{CertificateFacts, SubjectName};
pub use common::{Common, Source, ValidationSource, secret};
pub use downstream::{DownstreamTls, facts};
pub use params::{Parameters, Side, suite_name};
pub use san::SanMatcher;
pub use validation::{Trust, Validation, ValidationFailure};
