//! Which part of the proxy speaks: Envoy's loggers.

use super::Level;

/// Every component, in the order Envoy's `/logging` lists them.
///
/// Those of features that are not built yet are accepted all the same, so that a
/// command line written for Envoy works.
pub const COMPONENTS: [&str; 73] = [
    "a2a",
    "admin",
    "ai_protocol_manager",
    "alternate_protocols_cache",
    "aws",
    "assert",
    "backtrace",
    "basic_auth",
    "cache_filter",
    "client",
    "config",
    "connection",
    "conn_handler",
    "compression",
    "credential_injector",
    "decompression",
    "dns",
    "dubbo",
    "envoy_bug",
    "ext_authz",
    "ext_proc",
    "rocketmq",
    "file",
    "filter",
    "forward_proxy",
    "geolocation",
    "grpc",
    "happy_eyeballs",
    "hc",
    "health_checker",
    "http",
    "http2",
    "hystrix",
    "init",
    "io",
    "jwt",
    "json_rpc",
    "kafka",
    "key_value_store",
    "lua",
    "local_rate_limit",
    "main",
    "matcher",
    "mcp",
    "misc",
    "mongo",
    "multi_connection",
    "notification",
    "oauth2",
    "quic",
    "quic_stream",
    "pool",
    "rate_limit_quota",
    "rbac",
    "rds",
    "redis",
    "router",
    "runtime",
    "stats",
    "secret",
    "sse",
    "tap",
    "testing",
    "thrift",
    "tracing",
    "upstream",
    "udp",
    "wasm",
    "websocket",
    "golang",
    "stats_sinks",
    "dynamic_modules",
    "ip_tagging",
];

/// A name that is not a component's.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid component '{name}'{}, one of {} is expected", suggestion(name), COMPONENTS.join(", "))]
pub struct UnknownComponent {
    /// What was given.
    pub name: String,
}

fn suggestion(name: &str) -> String {
    COMPONENTS
        .into_iter()
        .map(|known| (strsim::jaro_winkler(name, known), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.8)
        .map(|(_, known)| format!(" (did you mean '{known}'?)"))
        .unwrap_or_default()
}

/// One of [`COMPONENTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Component(usize);

impl Component {
    /// The component of this name.
    pub fn named(name: &str) -> Option<Self> {
        COMPONENTS.iter().position(|c| *c == name).map(Self)
    }

    /// Its name, `%n`.
    pub fn name(self) -> &'static str {
        COMPONENTS[self.0]
    }

    /// Its place in [`COMPONENTS`].
    pub fn index(self) -> usize {
        self.0
    }

    fn known(name: &'static str) -> Self {
        Self::named(name).expect("the name stands in COMPONENTS")
    }
}

/// Who speaks and how loud, as far as a call site's own facts say it.
///
/// Our own rooms name their component as the target. A library's messages belong
/// to the component that uses it, and are of interest only to one who looks for a
/// fault there: none is above debug.
pub(super) fn classify(module: &str, target: &str, level: Level) -> (Component, Level) {
    let krate = module.split("::").next().unwrap_or(module);
    if krate == env!("CARGO_CRATE_NAME") {
        let component = Component::named(target).unwrap_or_else(|| Component::known("misc"));
        return (component, level);
    }
    let component = match krate {
        "h2" => "http2",
        "hyper" | "hyper_util" | "http" => "http",
        "rustls" | "tokio_rustls" => "connection",
        "hickory_proto" | "hickory_net" | "hickory_resolver" => "dns",
        "notify" | "inotify" => "file",
        "tonic" | "tower" => "grpc",
        _ => "misc",
    };
    (Component::known(component), level.min(Level::Debug))
}

/// One element of `--component-log-level`: `upstream:debug`.
pub type ComponentLevel = (Component, Level);

/// Reads `upstream:debug,connection:trace`.
///
/// # Errors
/// Names the element that is not `component:level`, or the unknown component or level.
pub fn parse_levels(text: &str) -> Result<Vec<ComponentLevel>, LevelsError> {
    text.split(',')
        .map(|element| {
            let (name, level) = element
                .split_once(':')
                .ok_or_else(|| LevelsError::Shape(element.to_owned()))?;
            let component = Component::named(name).ok_or_else(|| UnknownComponent {
                name: name.to_owned(),
            })?;
            Ok((component, level.parse()?))
        })
        .collect()
}

/// What is wrong with a list of component levels.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelsError {
    /// Not `component:level`.
    #[error(
        "component log level not correctly specified '{0}', component:level is expected, as in upstream:debug,config:trace"
    )]
    Shape(String),
    /// No such component.
    #[error(transparent)]
    Component(#[from] UnknownComponent),
    /// No such level.
    #[error(transparent)]
    Level(#[from] super::level::UnknownLevel),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_speak_through_a_component_and_low() {
        let (component, level) = classify("h2::proto::streams", "h2::proto", Level::Warning);
        assert_eq!((component.name(), level), ("http2", Level::Debug));
        let (component, level) = classify("nuncio::upstream::pool", "pool", Level::Warning);
        assert_eq!((component.name(), level), ("pool", Level::Warning));
        let (component, _) = classify("nuncio::x", "nuncio::x", Level::Info);
        assert_eq!(component.name(), "misc");
    }

    #[test]
    fn lists_are_read_and_faults_named() {
        let levels = parse_levels("upstream:debug,connection:trace").unwrap();
        assert_eq!(levels[1], (Component::known("connection"), Level::Trace));
        let said = |text| parse_levels(text).unwrap_err().to_string();
        assert!(said("upstream").contains("'upstream', component:level"));
        assert!(said("upstraem:debug").contains("did you mean 'upstream'?"));
        assert!(said("upstream:loud").contains("'loud'"));
    }
}
