//! `envoy.filters.network.tcp_proxy`.
use crate::{
    api::envoy::extensions::filters::network::tcp_proxy::v3 as pb,
    config::{At, Reported},
    model::Context,
};
use std::sync::Arc;
#[derive(Debug)]
pub struct TcpProxy {}
impl TcpProxy {
    pub fn compile(
        _message: pb::TcpProxy,
        _cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        Err(at.unsupported())
    }
}
pub async fn serve(_connection: crate::net::Connection, _proxy: Arc<TcpProxy>) {}
