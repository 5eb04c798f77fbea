//! What the tests of this binary have in common: a control plane, a proxy that
//! asks it, and the resources of a small site.

use crate::common::config::{LISTENER, any_host, assignment, cluster, http_with, listener, route};
use crate::common::{Home, Origin, Port, Proxy, Value, json, with};
use crate::server::{CLUSTER, ControlPlane, ENDPOINTS, Mode, ROUTES, Variant};

/// Every way of talking to a control plane.
pub const SOTW_ADS: Mode = Mode {
    variant: Variant::Sotw,
    aggregated: true,
};
pub const DELTA_ADS: Mode = Mode {
    variant: Variant::Delta,
    aggregated: true,
};
pub const SOTW: Mode = Mode {
    variant: Variant::Sotw,
    aggregated: false,
};
pub const DELTA: Mode = Mode {
    variant: Variant::Delta,
    aggregated: false,
};

/// Makes a test of each function for each mode: `name::sotw_ads` and so on.
macro_rules! in_every_mode {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            use crate::scene;

            #[tokio::test]
            async fn sotw_ads() {
                super::$name(scene::SOTW_ADS).await;
            }

            #[tokio::test]
            async fn delta_ads() {
                super::$name(scene::DELTA_ADS).await;
            }

            #[tokio::test]
            async fn sotw() {
                super::$name(scene::SOTW).await;
            }

            #[tokio::test]
            async fn delta() {
                super::$name(scene::DELTA).await;
            }
        }
    )*};
}
pub(crate) use in_every_mode;

/// Whether another proxy than nuncio is under test.
pub fn is_another() -> bool {
    std::env::var_os("NUNCIO_TEST_BINARY").is_some()
}

impl Mode {
    fn api_type(self, aggregated: bool) -> &'static str {
        // Envoy has no AGGREGATED_GRPC within `ads_config`.
        match (self.variant, aggregated) {
            (Variant::Sotw, _) => "GRPC",
            (Variant::Delta, _) => "DELTA_GRPC",
        }
    }

    /// `api_config_source` to the static cluster `xds`.
    pub fn api(self) -> Value {
        json!({
            "api_type": self.api_type(self.aggregated),
            "transport_api_version": "V3",
            "grpc_services": [{ "envoy_grpc": { "cluster_name": "xds" } }],
        })
    }

    /// A `config_source` in this mode.
    pub fn source(self) -> Value {
        let source = json!({ "resource_api_version": "V3" });
        match self.aggregated {
            true => with(source, json!({ "ads": {} })),
            false => with(source, json!({ "api_config_source": self.api() })),
        }
    }

    /// A bootstrap with clusters and listeners from the control plane at `port`.
    pub fn bootstrap(self, port: u16) -> Value {
        let bootstrap = json!({
            "node": {
                "id": "test-node",
                "cluster": "test-cluster",
                "locality": { "region": "r", "zone": "z" },
                "metadata": { "role": "edge" },
            },
            "static_resources": { "clusters": [http2_cluster("xds", port)] },
            "dynamic_resources": {
                "lds_config": self.source(),
                "cds_config": self.source(),
            },
        });
        match self.aggregated {
            true => with(
                bootstrap,
                json!({ "dynamic_resources": { "ads_config": self.api() } }),
            ),
            false => bootstrap,
        }
    }

    /// [`Mode::bootstrap`] with `patch` laid over what says whom to ask.
    pub fn patched(self, port: u16, patch: &Value) -> Value {
        let mut bootstrap = self.bootstrap(port);
        let dynamic = &mut bootstrap["dynamic_resources"];
        if self.aggregated {
            dynamic["ads_config"] = with(dynamic["ads_config"].clone(), patch.clone());
        } else {
            for source in ["lds_config", "cds_config"] {
                let api = &mut dynamic[source]["api_config_source"];
                *api = with(api.clone(), patch.clone());
            }
        }
        bootstrap
    }

    /// A cluster whose endpoints come by EDS.
    pub fn eds(self, name: &str) -> Value {
        json!({
            "name": name,
            "type": "EDS",
            "connect_timeout": "2s",
            "eds_cluster_config": { "eds_config": self.source() },
        })
    }

    /// An HTTP listener whose routes come by RDS under the name `routes`.
    pub fn web(self, name: &str, port: u16) -> Value {
        self.web_of(name, port, "routes")
    }

    /// As [`Mode::web`], with the routes' name.
    pub fn web_of(self, name: &str, port: u16, routes: &str) -> Value {
        listener(
            name,
            port,
            http_with(json!({
                "rds": { "route_config_name": routes, "config_source": self.source() },
            })),
        )
    }
}

/// A cluster that speaks HTTP/2 to one loopback port.
pub fn http2_cluster(name: &str, port: u16) -> Value {
    with(
        cluster(name, &[port]),
        crate::common::config::http2_upstream(),
    )
}

/// Routes by the name `routes`: everything to `cluster`, with a mark in the response.
pub fn routes(cluster: &str, mark: &str) -> Value {
    routes_of("routes", cluster, mark)
}

/// As [`routes`], by another name.
pub fn routes_of(name: &str, cluster: &str, mark: &str) -> Value {
    json!({
        "name": name,
        "virtual_hosts": [any_host(vec![route("/", cluster)])],
        "response_headers_to_add": [{ "header": { "key": "x-mark", "value": mark } }],
    })
}

/// Everything but the proxy.
pub struct Stage {
    pub mode: Mode,
    pub plane: ControlPlane,
    pub port: Port,
    pub origin: Origin,
    pub home: Home,
}

impl Stage {
    /// A control plane with the resources of a site that works.
    pub async fn new(mode: Mode) -> Self {
        Self::with_plane(mode, ControlPlane::start().await).await
    }

    /// The same, with this control plane.
    pub async fn with_plane(mode: Mode, plane: ControlPlane) -> Self {
        let stage = Self {
            mode,
            plane,
            port: Port::free(),
            origin: Origin::http("one").await,
            home: Home::new(),
        };
        let (plane, origin) = (&stage.plane, stage.origin.port());
        plane.set(CLUSTER, vec![mode.eds("backend")]);
        plane.set(ENDPOINTS, vec![assignment("backend", &[origin])]);
        plane.set(LISTENER, vec![mode.web("web", stage.port.number())]);
        plane.set(ROUTES, vec![routes("backend", "first")]);
        stage
    }

    /// The usual bootstrap.
    pub fn bootstrap(&self) -> Value {
        self.mode.bootstrap(self.plane.port())
    }

    /// A proxy with the usual bootstrap, once it is ready.
    pub async fn start(self) -> Scene {
        let bootstrap = self.bootstrap();
        self.start_with(&bootstrap, &[]).await
    }

    /// A proxy with this bootstrap and these arguments, once it is ready.
    pub async fn start_with(self, bootstrap: &Value, args: &[&str]) -> Scene {
        let proxy = Proxy::start(&self.home, bootstrap, args).await;
        let Self {
            mode: _,
            plane,
            port,
            origin,
            home,
        } = self;
        Scene {
            plane,
            proxy,
            port,
            origin,
            home,
        }
    }
}

/// A proxy and the control plane it asks.
pub struct Scene {
    pub plane: ControlPlane,
    pub proxy: Proxy,
    pub port: Port,
    pub origin: Origin,
    pub home: Home,
}

impl Scene {
    /// Everything is there and works: a listener `web`, its routes, the cluster
    /// `backend` with one endpoint.
    pub async fn start(mode: Mode) -> Self {
        let scene = Stage::new(mode).await.start().await;
        scene.serves("x-mark", "first").await;
        scene
    }

    /// Waits until a response has this header.
    pub async fn serves(&self, header: &str, value: &str) {
        let port = self.port.number();
        crate::common::client::get_until(port, "/", |reply| {
            reply.status == 200 && reply.header(header) == value
        })
        .await;
    }

    /// Waits until a response comes from this origin.
    pub async fn reaches(&self, origin: &str) {
        let port = self.port.number();
        crate::common::client::get_until(port, "/", |reply| {
            reply.status == 200 && reply.seen().origin == origin
        })
        .await;
    }
}

/// An HTTP/1 connection over TLS.
pub struct Secure(hyper::client::conn::http1::SendRequest<http_body_util::Full<bytes::Bytes>>);

impl Secure {
    /// One request, which must be answered.
    pub async fn echo(&mut self) {
        let request = crate::common::client::request("GET", "example.com", "/");
        self.0.ready().await.expect("an open connection");
        let response = self.0.send_request(request).await.expect("a response");
        assert_eq!(response.status(), 200);
        http_body_util::BodyExt::collect(response.into_body())
            .await
            .expect("a body");
    }
}

/// A TLS connection to a port whose certificate is good for `name`.
pub async fn names_presented(
    port: u16,
    authority: &crate::common::tls::Authority,
    name: &'static str,
) -> Option<Secure> {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority.certificate().as_bytes()).ok()?;
    roots.add(root).ok()?;
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = crate::common::client::dial(port).await.ok()?;
    let name = ServerName::try_from(name).ok()?;
    let stream = connector.connect(name, stream).await.ok()?;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
    tokio::spawn(connection);
    Some(Secure(sender))
}
