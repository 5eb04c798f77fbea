//! `envoy.config.bootstrap.v3.Admin`, compiled.

use prost::{Message, Name};
use prost_types::Any;

use crate::{
    access_log::AccessLogs,
    api::{
        self,
        envoy::{
            config::{
                accesslog::v3::{AccessLog, access_log::ConfigType},
                bootstrap::v3::Admin,
            },
            extensions::access_loggers::file::v3::FileAccessLog,
        },
    },
    config::{At, Reported},
    model::{Context, listener::ListenAddress, matcher::StringMatcher},
    net::{socket::SocketOptions, socket_option::SocketOptionList},
};

/// Where the admin listens and what it writes of its requests.
#[derive(Debug)]
pub struct Config {
    /// Where it listens; nowhere when there is none.
    pub address: Option<ListenAddress>,
    /// One line for each request.
    pub access_logs: AccessLogs,
    /// Which paths are answered.
    pub paths: AllowedPaths,
}

/// `admin.allow_paths`.
#[derive(Debug, Default)]
pub struct AllowedPaths(Vec<StringMatcher>);

impl AllowedPaths {
    /// Whether a path is answered; all are when none is named.
    pub fn allow(&self, path: &str) -> bool {
        self.0.is_empty()
            || self
                .0
                .iter()
                .any(|matcher| matcher.is_match(path.as_bytes()))
    }
}

impl Config {
    /// Compiles the message.
    ///
    /// # Errors
    /// Reports what is wrong or not supported.
    pub fn compile(message: Admin, cx: &Context<'_>, at: &At<'_>) -> Result<Self, Reported> {
        let Admin {
            access_log_path,
            // Where profiles would be written, which this build cannot make.
            profile_path: _,
            address,
            socket_options,
            mut access_log,
            // There is no limit on the connections of the whole process to be exempt from.
            ignore_global_conn_limit: _,
            allow_paths,
        } = message;
        let others = SocketOptionList::compile(socket_options, &at.field("socket_options"));
        let address = address.map(|address| {
            let options = SocketOptions {
                // A second process on the same port is an error, not a companion.
                reuse_port: false,
                others: others?,
                ..SocketOptions::default()
            };
            ListenAddress::compile(address, options, at)
        });
        let address = address.transpose();
        if !access_log_path.is_empty() {
            access_log.push(file_log(access_log_path));
        }
        let access_logs = AccessLogs::compile(access_log, cx, &at.field("access_log"));
        let list = at.field("allow_paths");
        let paths: Vec<_> = allow_paths
            .into_iter()
            .enumerate()
            .map(|(index, matcher)| StringMatcher::compile(matcher, &list.index(index)))
            .collect();
        Ok(Self {
            address: address?,
            access_logs: access_logs?,
            paths: AllowedPaths(paths.into_iter().collect::<Result<_, _>>()?),
        })
    }
}

/// What `access_log_path` says in the old way.
fn file_log(path: String) -> AccessLog {
    let file = FileAccessLog {
        path,
        access_log_format: None,
    };
    AccessLog {
        name: String::new(),
        filter: None,
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: format!("{}{}", api::TYPE_URL_PREFIX, FileAccessLog::full_name()),
            value: file.encode_to_vec(),
        })),
    }
}
