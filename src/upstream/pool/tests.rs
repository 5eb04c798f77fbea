//! Who gets a connection.

use std::{future::poll_fn, pin::pin};

use tokio::{net::TcpListener, task::LocalSet, time::timeout};

use super::*;
use crate::{
    config::Report,
    model::{
        cluster::Cluster,
        testing::{World, read},
    },
    upstream::LbContext,
};

const LONG: Duration = Duration::from_secs(20);

/// The pool of the only host of a cluster that may have one connection.
fn narrow(port: u16) -> (Rc<WorkerCluster>, Rc<Pool>) {
    let yaml = format!(
        "{{name: narrow, connect_timeout: 20s,
           circuit_breakers: {{thresholds: [{{max_connections: 1}}]}},
           load_assignment: {{cluster_name: narrow, endpoints: [{{lb_endpoints: [{{endpoint:
             {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]}}}}"
    );
    let (world, report) = (World::new(), Report::new());
    let cluster = Cluster::compile(read(&yaml), None, &world.cx(), &report.root());
    let cluster = cluster.unwrap_or_else(|_| panic!("{report}"));
    let cluster = WorkerCluster::new(Arc::new(cluster), None);
    let endpoint = cluster.choose(&LbContext::default()).expect("a host");
    let pool = cluster.pool(&endpoint, Wire::new(&endpoint, Alpn::Http1, None));
    (cluster, pool)
}

#[tokio::test]
async fn what_comes_for_one_who_has_left_goes_to_the_next() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (cluster, pool) = narrow(listener.local_addr().unwrap().port());
    let test = async {
        let mut second = pin!(pool.wait(&cluster, Priority::Default));
        {
            let mut first = pin!(pool.wait(&cluster, Priority::Default));
            poll_fn(|cx| {
                assert!(first.as_mut().poll(cx).is_pending());
                assert!(second.as_mut().poll(cx).is_pending());
                Poll::Ready(())
            })
            .await;
            // The connection has been given to the first, who does not look.
            while pool.busy.get() == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        let lease = second.await.expect("a connection");
        assert_eq!(pool.busy.get(), 1);
        let Lease::Http1(connection) = lease else {
            panic!("HTTP/1 was asked for");
        };
        pool.put(connection, &cluster);
        assert_eq!(pool.busy.get(), 0);
        assert_eq!(pool.idle.borrow().len(), 1);
    };
    let outcome = LocalSet::new().run_until(timeout(LONG, test)).await;
    outcome.expect("the second has waited in vain");
}
