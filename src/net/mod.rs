//! Sockets and what comes in through them: addresses, accepting, filter chain
//! choice, byte streams, TLS.

pub mod accept;
mod address;
pub mod balance;
mod bell;
pub(crate) mod byte_stream;
pub mod connection;
mod executor;
pub mod filters;
pub mod http2;
mod keepalive;
pub mod limits;
pub mod listener_filters;
mod plain;
mod prefixed;
pub mod proxy_protocol;
pub mod signal;
pub mod socket;
pub mod socket_option;
mod splice;
mod stream;
pub mod tls;
pub mod tunnel;

pub use address::Address;
pub use bell::{Bell, Quietly};
pub use connection::{Connection, ConnectionInfo, ConnectionMetadata};
pub use executor::LocalExecutor;
pub use keepalive::TcpKeepalive;
pub use plain::Plain;
pub use prefixed::Prefixed;
pub use splice::{FillError, Pipe, Socket};
pub use stream::Stream;
pub use tls::TlsInfo;
