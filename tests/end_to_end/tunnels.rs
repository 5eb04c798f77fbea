//! Plain TCP proxying.

use crate::common::client::{dial, tcp_echo};
use crate::common::config::{cluster, tcp};
use crate::common::{Origin, Port, Site};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn bytes_pass_both_ways() {
    let origin = Origin::tcp_echo().await;
    let site = Site::filter(
        tcp("tcp", "origin"),
        vec![cluster("origin", &[origin.port()])],
    )
    .await;
    let mut stream = dial(site.port.number()).await.expect("a connection");
    for size in [1, 100, 70_000] {
        tcp_echo(&mut stream, &vec![7; size])
            .await
            .expect("an echo");
    }
    let admin = site.admin();
    admin
        .stat_until("tcp.tcp.downstream_cx_total", |value| value == 1)
        .await;
    admin
        .stat_until("cluster.origin.upstream_cx_active", |value| value == 1)
        .await;
    drop(stream);
    admin
        .stat_until("cluster.origin.upstream_cx_active", |value| value == 0)
        .await;
    admin
        .stat_until("tcp.tcp.downstream_cx_rx_bytes_total", |value| {
            value == 70_101
        })
        .await;
}

#[tokio::test]
async fn one_side_may_finish_first() {
    let origin = Origin::tcp_echo().await;
    let site = Site::filter(
        tcp("tcp", "origin"),
        vec![cluster("origin", &[origin.port()])],
    )
    .await;
    let mut stream = dial(site.port.number()).await.expect("a connection");
    stream.write_all(b"last words").await.expect("written");
    stream.shutdown().await.expect("half closed");
    let mut echo = String::new();
    stream.read_to_string(&mut echo).await.expect("read");
    assert_eq!(echo, "last words");
}

#[tokio::test]
async fn nobody_behind_closes_the_connection() {
    let nobody = Port::free();
    let site = Site::filter(
        tcp("tcp", "origin"),
        vec![cluster("origin", &[nobody.number()])],
    )
    .await;
    let mut stream = dial(site.port.number()).await.expect("a connection");
    let mut rest = Vec::new();
    // In order or by a reset.
    stream.read_to_end(&mut rest).await.ok();
    assert!(rest.is_empty());
    site.admin()
        .stat_reaches("cluster.origin.upstream_cx_connect_fail", 1)
        .await;
}
