//! Sockets and what comes in through them: addresses, accepting, filter chain
//! choice, byte streams, TLS.

pub mod accept;
mod address;
mod connection;
mod executor;
mod inspect;
mod prefixed;
pub mod signal;
pub mod socket;
mod stream;
pub mod tls;
pub mod tunnel;

pub use address::Address;
pub use connection::{Connection, ConnectionInfo, TlsInfo};
pub use executor::LocalExecutor;
pub use prefixed::Prefixed;
pub use stream::Stream;
