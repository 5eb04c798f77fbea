//! `socket_options`: what a configuration tells the kernel of a socket by numbers.

mod known;

use std::{ffi::c_int, io, os::fd::AsFd, sync::Arc};

use crate::{
    api::envoy::config::core::v3::{
        self as pb,
        socket_option::{SocketIpVersion, SocketState, SocketType, Value},
    },
    config::{At, Reported},
};

/// When an option is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SocketMoment {
    /// Before the socket is bound or connects.
    Prebind,
    /// Once it is bound.
    Bound,
    /// Once it listens.
    Listening,
}

/// One socket option.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SocketOption {
    level: c_int,
    option: c_int,
    value: Box<[u8]>,
    moment: SocketMoment,
    /// Of IPv6, or of IPv4, where it is for one of them alone.
    ipv6: Option<bool>,
}

/// An option that the kernel does not take.
#[derive(Debug, thiserror::Error)]
#[error("setting the socket option {name} ({level}/{option}): {cause}")]
pub struct SocketOptionError {
    name: &'static str,
    level: c_int,
    option: c_int,
    /// What the kernel says.
    pub cause: io::Error,
}

/// Lets connections bring their first data with their SYN, up to `queue` of them
/// at a time.
///
/// # Errors
/// When the kernel does not take it.
pub fn set_fast_open(socket: &impl AsFd, queue: u32) -> Result<(), SocketOptionError> {
    let (level, option) = (libc::IPPROTO_TCP, libc::TCP_FASTOPEN);
    let value = queue.to_ne_bytes().into();
    let (moment, ipv6) = (SocketMoment::Listening, None);
    let fast_open = SocketOption {
        level,
        option,
        value,
        moment,
        ipv6,
    };
    fast_open.set(socket)
}

/// Socket options, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SocketOptionList(Arc<[SocketOption]>);

impl SocketOptionList {
    /// Whether there are any for this moment.
    pub fn has(&self, moment: SocketMoment) -> bool {
        self.0.iter().any(|option| option.moment == moment)
    }

    /// Compiles `socket_options`, of sockets that are TCP's or streams of Unix.
    ///
    /// # Errors
    /// When an option is none of those this build can set.
    pub fn compile(messages: Vec<pb::SocketOption>, at: &At<'_>) -> Result<Self, Reported> {
        let mut outcome = Ok(());
        let mut options = Vec::with_capacity(messages.len());
        for (index, message) in messages.into_iter().enumerate() {
            match SocketOption::compile(message, &at.index(index)) {
                Ok(option) => options.extend(option),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| Self(options.into()))
    }

    /// Sets those whose moment has come. `ipv6` is the family of the socket's
    /// address, where it has one.
    ///
    /// # Errors
    /// The first that the kernel does not take.
    pub fn apply(
        &self,
        socket: &impl AsFd,
        moment: SocketMoment,
        ipv6: Option<bool>,
    ) -> Result<(), SocketOptionError> {
        let concerns = |option: &&SocketOption| {
            option.moment == moment && (option.ipv6.is_none() || option.ipv6 == ipv6)
        };
        let mut options = self.0.iter().filter(concerns);
        options.try_for_each(|option| option.set(socket))
    }
}

impl SocketOption {
    /// `None` for one of other sockets than streams.
    fn compile(message: pb::SocketOption, at: &At<'_>) -> Result<Option<Self>, Reported> {
        let pb::SocketOption {
            // For people.
            description: _,
            level,
            name,
            value,
            state,
            r#type,
            ip_version,
        } = message;
        let known = c_int::try_from(level).ok().zip(c_int::try_from(name).ok());
        let known = known.filter(|(level, name)| known::name(*level, *name).is_some());
        let Some((level, option)) = known else {
            return Err(at.field("name").error(format_args!(
                "the socket option {level}/{name} is not supported yet; those of SOL_SOCKET, \
                 IPPROTO_IP, IPPROTO_IPV6 and IPPROTO_TCP are that are usual on Linux"
            )));
        };
        let value: Box<[u8]> = match value {
            // The kernel's integers have 32 bits; the rest is cut off, as in Envoy.
            Some(Value::IntValue(value)) => Box::new((value as c_int).to_ne_bytes()),
            Some(Value::BufValue(value)) => value.into(),
            None => return Err(at.error("one of int_value, buf_value is required")),
        };
        let option = Self {
            level,
            option,
            value,
            moment: match SocketState::try_from(state) {
                Ok(SocketState::StateBound) => SocketMoment::Bound,
                Ok(SocketState::StateListening) => SocketMoment::Listening,
                Ok(SocketState::StatePrebind) | Err(_) => SocketMoment::Prebind,
            },
            ipv6: match SocketIpVersion::try_from(ip_version) {
                Ok(SocketIpVersion::Ipv4) => Some(false),
                Ok(SocketIpVersion::Ipv6) => Some(true),
                Ok(SocketIpVersion::Unspecified) | Err(_) => None,
            },
        };
        Ok(match r#type {
            Some(SocketType {
                stream: None,
                datagram: Some(_),
            }) => None,
            Some(_) | None => Some(option),
        })
    }

    fn set(&self, socket: &impl AsFd) -> Result<(), SocketOptionError> {
        let Self { level, option, .. } = *self;
        known::set(socket, (level, option), &self.value).map_err(|cause| SocketOptionError {
            name: known::name(level, option).unwrap_or_default(),
            level,
            option,
            cause,
        })
    }
}
