//! `envoy.config.core.v3.ConfigSource`, compiled: where resources come from.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    api::envoy::config::core::v3::{self as pb, config_source::ConfigSourceSpecifier},
    config::{At, Reported, duration},
    model::context::ServerInfo,
    refuse,
};

use super::api_source::{ApiSource, Management, Through, Variant, check_version};

/// `initial_fetch_timeout` when it is not set.
pub const DEFAULT_INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// Where resources come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConfigSource {
    /// A file, or servers.
    pub origin: Origin,
    /// How long the first answer is awaited; `None` is forever.
    pub initial_fetch_timeout: Option<Duration>,
}

/// What holds resources, or pushes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// `path_config_source`, or `path`.
    File(File),
    /// `ads`: the one stream that resources of every type share.
    Ads(Arc<ApiSource>),
    /// `api_config_source`: a stream for resources of one type.
    Api(Arc<ApiSource>),
}

/// A file that is watched.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct File {
    /// Where it is.
    pub path: Arc<PathBuf>,
    /// `watched_directory`: what is moved into it makes the file read again.
    pub watched_directory: Option<Arc<PathBuf>>,
}

impl File {
    /// Refuses a file that does not exist.
    ///
    /// # Errors
    /// Reported in Envoy's words.
    pub fn check_exists(&self, at: &At<'_>) -> Result<(), Reported> {
        if self.path.exists() {
            return Ok(());
        }
        let path = self.path.display();
        Err(at.error(format_args!(
            "paths must refer to an existing path in the system: '{path}' does not exist"
        )))
    }
}

impl Origin {
    /// The file's path or the servers' names, for people.
    pub fn place(&self) -> Arc<str> {
        match self {
            Self::File(file) => file.path.display().to_string().into(),
            Self::Ads(api) | Self::Api(api) => api.place.clone(),
        }
    }

    /// Whether its servers push what is new.
    pub fn is_stream(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Ads(api) | Self::Api(api) => api.polling.is_none(),
        }
    }

    /// Tells this origin from others, also across restarts.
    pub fn key(&self) -> Arc<str> {
        match self {
            Self::Ads(_) => "ads".into(),
            Self::File(_) | Self::Api(_) => self.place(),
        }
    }
}

impl ConfigSource {
    /// Refuses a source that does not say what has changed only.
    ///
    /// # Errors
    /// Reported in Envoy's words.
    pub fn check_delta(&self, at: &At<'_>) -> Result<(), Reported> {
        match &self.origin {
            Origin::Ads(api) | Origin::Api(api) if api.variant == Variant::Delta => Ok(()),
            Origin::Ads(_) | Origin::Api(_) | Origin::File(_) => {
                Err(at.error("vhds: only 'DELTA_GRPC' is supported as an api_type."))
            }
        }
    }

    /// Compiles a source.
    ///
    /// # Errors
    /// When it is of a kind that is not supported, or names a server that the
    /// bootstrap does not know; reported.
    pub fn compile(
        message: &pb::ConfigSource,
        through: Through,
        management: &Management,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let pb::ConfigSource {
            initial_fetch_timeout,
            // AUTO and V3 are one; V2 has been gone for years and is refused as a value below.
            resource_api_version,
            authorities,
            config_source_specifier,
        } = message.clone();
        let refused = refuse!(at; authorities);
        let version = check_version(resource_api_version, &at.field("resource_api_version"));
        let initial_fetch_timeout = match initial_fetch_timeout {
            Some(given) => duration(&given, &at.field("initial_fetch_timeout")).map(Some),
            None => Ok(Some(DEFAULT_INITIAL_FETCH_TIMEOUT)),
        };
        let origin = match config_source_specifier {
            Some(ConfigSourceSpecifier::Path(path)) => Ok(Origin::File(File {
                path: Arc::new(path.into()),
                watched_directory: None,
            })),
            Some(ConfigSourceSpecifier::PathConfigSource(source)) => {
                compile_path(source, &at.field("path_config_source")).map(Origin::File)
            }
            Some(ConfigSourceSpecifier::ApiConfigSource(source)) => {
                let at = at.field("api_config_source");
                ApiSource::compile(&source, through, management, &at)
                    .map(|source| Origin::Api(Arc::new(source)))
            }
            Some(ConfigSourceSpecifier::Ads(pb::AggregatedConfigSource {})) => {
                match management.ads() {
                    Some(ads) => Ok(Origin::Ads(ads.clone())),
                    None => Err(at.field("ads").error(
                        "ADS must be configured to support an ADS config source: \
                         there is no dynamic_resources.ads_config",
                    )),
                }
            }
            // It is for load reports only, in Envoy too.
            Some(ConfigSourceSpecifier::Self_(_)) => Err(at.field("self").unsupported()),
            None => Err(at.error("names no source; use path_config_source or ads")),
        };
        refused?;
        version?;
        Ok(Self {
            origin: origin?,
            initial_fetch_timeout: initial_fetch_timeout?.filter(|t| !t.is_zero()),
        })
    }

    /// Refuses any source when this process has not been named, as Envoy does.
    ///
    /// # Errors
    /// Reported in Envoy's words.
    pub fn check_node(&self, server: &ServerInfo, at: &At<'_>) -> Result<(), Reported> {
        if !server.node_id.is_empty() && !server.node_cluster.is_empty() {
            return Ok(());
        }
        Err(at.error(
            "node 'id' and 'cluster' are required. Set it either in 'node' config \
             or via --service-node and --service-cluster options.",
        ))
    }
}

fn compile_path(message: pb::PathConfigSource, at: &At<'_>) -> Result<File, Reported> {
    let pb::PathConfigSource {
        path,
        watched_directory,
        poll_interval,
    } = message;
    refuse!(at; poll_interval)?;
    let directory = match watched_directory {
        Some(pb::WatchedDirectory { path, watch_modify }) => {
            let at = at.field("watched_directory");
            refuse!(at; watch_modify)?;
            if path.is_empty() {
                return Err(at.field("path").error("is empty"));
            }
            Some(path)
        }
        None => None,
    };
    match path.is_empty() {
        true => Err(at.field("path").error("is empty")),
        false => Ok(File {
            path: Arc::new(path.into()),
            watched_directory: directory.map(|d| Arc::new(d.into())),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Report;

    fn compile(specifier: ConfigSourceSpecifier) -> Result<ConfigSource, String> {
        let report = Report::new();
        let message = pb::ConfigSource {
            config_source_specifier: Some(specifier),
            ..Default::default()
        };
        ConfigSource::compile(
            &message,
            Through::Primary,
            &Management::default(),
            &report.root(),
        )
        .map_err(|_| report.to_string())
    }

    #[test]
    fn both_spellings_of_a_file_are_read() {
        let old = compile(ConfigSourceSpecifier::Path("a.yaml".into())).unwrap();
        let new = compile(ConfigSourceSpecifier::PathConfigSource(
            pb::PathConfigSource {
                path: "a.yaml".into(),
                ..Default::default()
            },
        ));
        assert_eq!(old, new.unwrap());
        assert_eq!(
            old.initial_fetch_timeout,
            Some(DEFAULT_INITIAL_FETCH_TIMEOUT)
        );
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        assert_eq!(
            compile(ConfigSourceSpecifier::Ads(Default::default())),
            Err(
                "ads: ADS must be configured to support an ADS config source: \
                 there is no dynamic_resources.ads_config"
                    .to_owned()
            )
        );
        assert_eq!(
            compile(ConfigSourceSpecifier::Self_(Default::default())),
            Err("self: is not supported yet".to_owned())
        );
        let polled = pb::PathConfigSource {
            path: "a.yaml".into(),
            poll_interval: Some(Default::default()),
            ..Default::default()
        };
        assert_eq!(
            compile(ConfigSourceSpecifier::PathConfigSource(polled)),
            Err("path_config_source.poll_interval: is not supported yet".to_owned())
        );
    }
}
