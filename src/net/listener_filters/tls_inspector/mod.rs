//! `envoy.filters.listener.tls_inspector`: whether a client begins with TLS, and
//! which name and protocols it asks for.

mod client_hello;

use std::sync::Arc;

use client_hello::{ClientHello, Parsed, parse};

use super::{
    Stop,
    start::{Look, look},
};
use crate::{
    api::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector as Message,
    config::{At, Reported},
    model::Context,
    net::{ConnectionInfo, Plain},
    refuse, stats,
};

crate::stat_table! {
    /// `tls_inspector.`
    pub mod tls_inspector_stats {
        counters {
            alpn_found, alpn_not_found, client_hello_too_large, sni_found, sni_not_found,
            tls_found, tls_not_found,
        }
        gauges {}
        histograms { bytes_processed: Bytes }
        texts {}
    }
}
use tls_inspector_stats as names;

/// `max_client_hello_size` when it is not set, in bytes.
pub const MAX_CLIENT_HELLO: u32 = 16 * 1024;

/// The filter's settings.
#[derive(Debug)]
pub struct TlsInspector {
    stats: Arc<stats::Block>,
    max_client_hello: usize,
    /// Close instead of taking what cannot be read for something else than TLS.
    close_on_errors: bool,
}

impl TlsInspector {
    /// Compiles the settings.
    ///
    /// # Errors
    /// What is wrong has been reported.
    pub fn compile(message: Message, cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let Message {
            enable_ja3_fingerprinting,
            // What has arrived is looked at in one buffer of the thread, of any size.
            initial_read_buffer_size: _,
            enable_ja4_fingerprinting,
            max_client_hello_size,
            close_connection_on_client_hello_parsing_errors,
        } = message;
        let enable_ja3_fingerprinting = enable_ja3_fingerprinting.filter(|on| *on);
        let enable_ja4_fingerprinting = enable_ja4_fingerprinting.filter(|on| *on);
        refuse!(at; enable_ja3_fingerprinting, enable_ja4_fingerprinting)?;
        let max_client_hello = max_client_hello_size.unwrap_or(MAX_CLIENT_HELLO) as usize;
        Ok(Self {
            max_client_hello,
            close_on_errors: close_connection_on_client_hello_parsing_errors,
            stats: cx.stats.block("tls_inspector.", &names::TABLE),
        })
    }

    /// Notes what the client says.
    ///
    /// # Errors
    /// When the connection has to be closed.
    pub async fn run(&self, stream: &Plain, info: &mut ConnectionInfo) -> Result<(), Stop> {
        let limit = self.max_client_hello;
        let found = look(stream, limit, |bytes| match parse(bytes) {
            Parsed::Hello(hello) => Look::Done(Found::Hello(hello)),
            Parsed::NotTls => Look::Done(Found::NotTls(bytes.len())),
            Parsed::Partial if bytes.len() >= limit => Look::Done(Found::TooLarge),
            Parsed::Partial => Look::More,
        });
        let stats = &self.stats;
        match found.await? {
            Found::Hello(hello) => {
                stats.record(names::bytes_processed, hello.length as u64);
                self.note(hello, info);
                Ok(())
            }
            Found::TooLarge => {
                stats.record(names::bytes_processed, limit as u64);
                stats.inc(names::client_hello_too_large);
                Err(Stop::Refused("the ClientHello is too large"))
            }
            Found::NotTls(seen) if self.close_on_errors => {
                stats.record(names::bytes_processed, seen as u64);
                Err(Stop::Refused("no ClientHello"))
            }
            Found::NotTls(seen) => {
                stats.record(names::bytes_processed, seen as u64);
                stats.inc(names::tls_not_found);
                Ok(())
            }
        }
    }

    fn note(&self, hello: ClientHello, info: &mut ConnectionInfo) {
        let stats = &self.stats;
        stats.inc(names::tls_found);
        stats.inc(match hello.server_name.is_some() {
            true => names::sni_found,
            false => names::sni_not_found,
        });
        stats.inc(match hello.application_protocols.is_empty() {
            true => names::alpn_not_found,
            false => names::alpn_found,
        });
        info.offers_tls = true;
        info.server_name = hello.server_name;
        info.application_protocols = hello.application_protocols;
    }
}

enum Found {
    Hello(ClientHello),
    TooLarge,
    /// After as many bytes.
    NotTls(usize),
}
