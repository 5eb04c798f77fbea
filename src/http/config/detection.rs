//! `original_ip_detection_extensions`: who tells a client's address where the
//! connection does not.

use std::net::IpAddr;

use http::{HeaderName, StatusCode};

use crate::{
    api::envoy::{
        config::core::v3::TypedExtensionConfig,
        extensions::http::original_ip_detection::{
            custom_header::v3::CustomHeaderConfig,
            xff::v3::{XffConfig, XffTrustedCidrs},
        },
        r#type::v3::HttpStatus,
    },
    codec::Headers,
    config::{At, Reported, type_name, unpack},
    http::request::{last_address, last_untrusted_address},
};

use super::peer::Ranges;

const XFF: &str = "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig";
const CUSTOM_HEADER: &str =
    "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig";

/// One of the extensions.
#[derive(Clone, Debug)]
pub enum Detection {
    /// `envoy.http.original_ip_detection.xff`: an address of `x-forwarded-for`.
    ForwardedFor {
        /// Which of them.
        trust: Trust,
        /// `skip_xff_append`, on unless it is off: the peer's address is not added.
        skip_append: bool,
    },
    /// `envoy.http.original_ip_detection.custom_header`: the value of a header.
    Header {
        /// Its name.
        name: HeaderName,
        /// `allow_extension_to_set_address_as_trusted`: the client may be internal.
        trusted: bool,
        /// `reject_with_status`: a request without an address there is refused.
        reject: Option<StatusCode>,
    },
}

/// What is believed of `x-forwarded-for`.
#[derive(Clone, Debug)]
pub enum Trust {
    /// `xff_num_trusted_hops`: so many addresses from the end.
    Hops(u32),
    /// `xff_trusted_cidrs`: those before the addresses in these ranges, if the peer's is
    /// in one, too.
    Ranges(Ranges),
}

/// What the extensions say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Detected {
    /// The client's address, and whether it may be an internal one.
    pub client: Option<(IpAddr, bool)>,
    /// The peer's address is added to `x-forwarded-for`.
    pub append: bool,
}

/// A request is refused with this status: it does not tell its client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectionFailed(pub StatusCode);

impl Detection {
    /// Compiles the extensions.
    ///
    /// # Errors
    /// An extension that is not known or has no valid configuration; reported.
    pub(super) fn compile_all(
        messages: Vec<TypedExtensionConfig>,
        at: &At<'_>,
    ) -> Result<Box<[Self]>, Reported> {
        let mut all = Vec::with_capacity(messages.len());
        let mut outcome = Ok(());
        for (index, message) in messages.into_iter().enumerate() {
            match Self::compile(message, &at.index(index)) {
                Ok(detection) => all.push(detection),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| all.into())
    }

    fn compile(message: TypedExtensionConfig, at: &At<'_>) -> Result<Self, Reported> {
        let TypedExtensionConfig {
            // Extensions are known by the type of their configuration.
            name: _,
            typed_config,
        } = message;
        let at = at.field("typed_config");
        let any = typed_config.ok_or_else(|| at.error("is required"))?;
        match type_name(&any) {
            XFF => Self::forwarded_for(unpack(&any, &at)?, &at),
            CUSTOM_HEADER => Self::header(unpack(&any, &at)?, &at),
            other => Err(at.error(format_args!(
                "{other} is not supported yet; known are {XFF} and {CUSTOM_HEADER}"
            ))),
        }
    }

    fn forwarded_for(message: XffConfig, at: &At<'_>) -> Result<Self, Reported> {
        let XffConfig {
            xff_num_trusted_hops,
            xff_trusted_cidrs,
            skip_xff_append,
        } = message;
        let trust = match xff_trusted_cidrs {
            None => Trust::Hops(xff_num_trusted_hops),
            Some(_) if xff_num_trusted_hops > 0 => {
                return Err(at
                    .field("xff_trusted_cidrs")
                    .error("cannot be set together with xff_num_trusted_hops"));
            }
            Some(XffTrustedCidrs { cidrs }) => {
                let at = at.field("xff_trusted_cidrs");
                Trust::Ranges(Ranges::compile(cidrs, &at.field("cidrs"))?)
            }
        };
        Ok(Self::ForwardedFor {
            trust,
            skip_append: skip_xff_append.unwrap_or(true),
        })
    }

    fn header(message: CustomHeaderConfig, at: &At<'_>) -> Result<Self, Reported> {
        let CustomHeaderConfig {
            header_name,
            allow_extension_to_set_address_as_trusted,
            reject_with_status,
        } = message;
        let name = header_name.parse().map_err(|_| {
            at.field("header_name")
                .error(format_args!("{header_name:?} is not a header name"))
        });
        let reject = reject_with_status.map(|HttpStatus { code }| {
            // As Envoy, whatever is no refusal becomes one.
            let code = u16::try_from(code).ok().filter(|code| *code >= 400);
            let status = code.and_then(|code| StatusCode::from_u16(code).ok());
            status.unwrap_or(StatusCode::FORBIDDEN)
        });
        Ok(Self::Header {
            name: name?,
            trusted: allow_extension_to_set_address_as_trusted,
            reject,
        })
    }

    /// Asks one after the other until one knows the client's address. `peer` is the
    /// connection's.
    ///
    /// # Errors
    /// When one of them refuses the request.
    pub fn ask(
        all: &[Self],
        headers: &Headers,
        peer: Option<IpAddr>,
    ) -> Result<Detected, DetectionFailed> {
        let mut detected = Detected::default();
        for detection in all {
            match detection {
                Self::ForwardedFor { trust, skip_append } => {
                    let believed = match trust {
                        Trust::Hops(_) => true,
                        Trust::Ranges(ranges) => peer.is_some_and(|ip| ranges.contains(ip)),
                    };
                    // Of a peer that is not trusted its address is always told.
                    detected.append |= !(*skip_append && believed);
                    detected.client = match trust {
                        Trust::Hops(hops) => last_address(headers, *hops),
                        Trust::Ranges(ranges) if believed => {
                            last_untrusted_address(headers, |ip| ranges.contains(ip))
                        }
                        Trust::Ranges(_) => None,
                    };
                }
                Self::Header {
                    name,
                    trusted,
                    reject,
                } => {
                    let value = headers.get(name).and_then(|value| value.to_str().ok());
                    let ip = value.and_then(|value| value.parse().ok());
                    if let (None, Some(status)) = (ip, reject) {
                        return Err(DetectionFailed(*status));
                    }
                    detected.client = ip.map(|ip| (ip, *trusted));
                }
            }
            if detected.client.is_some() {
                break;
            }
        }
        Ok(detected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::names;

    fn headers(fields: &[(HeaderName, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(name.clone(), value.parse().unwrap());
        }
        headers
    }

    const REAL: HeaderName = HeaderName::from_static("x-real");

    fn custom(reject: Option<StatusCode>) -> Detection {
        Detection::Header {
            name: REAL,
            trusted: false,
            reject,
        }
    }

    fn hops(hops: u32, skip_append: bool) -> Detection {
        Detection::ForwardedFor {
            trust: Trust::Hops(hops),
            skip_append,
        }
    }

    #[test]
    fn the_first_that_knows_an_address_is_believed() {
        let [one, two] = ["1.1.1.1", "2.2.2.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let both = headers(&[(names::X_FORWARDED_FOR, "1.1.1.1"), (REAL, "2.2.2.2")]);
        let ask = |all: &[Detection], headers| Detection::ask(all, headers, None).unwrap();
        let found = ask(&[custom(None), hops(0, false)], &both);
        assert_eq!((found.client, found.append), (Some((two, false)), false));
        let found = ask(&[hops(0, false), custom(None)], &both);
        assert_eq!((found.client, found.append), (Some((one, true)), true));
        // Who was asked in vain has his say about what is appended.
        let found = ask(&[hops(1, false), custom(None)], &both);
        assert_eq!((found.client, found.append), (Some((two, false)), true));
    }

    #[test]
    fn a_request_that_does_not_tell_may_be_refused() {
        let status = StatusCode::UNAUTHORIZED;
        for value in ["junk", "5.5.5.5:80", "[::1]", ""] {
            let headers = headers(&[(REAL, value)]);
            let refused = Detection::ask(&[custom(Some(status))], &headers, None);
            assert_eq!(refused, Err(DetectionFailed(status)), "{value}");
        }
    }

    #[test]
    fn addresses_are_passed_over_as_far_as_they_are_trusted() {
        let report = crate::config::Report::new();
        let range = |address: &str, len| crate::api::envoy::config::core::v3::CidrRange {
            address_prefix: address.into(),
            prefix_len: Some(len),
        };
        let cidrs = vec![range("10.0.0.0", 8), range("127.0.0.1", 32)];
        let ranges = Ranges::compile(cidrs, &report.root()).unwrap();
        let trusting = [Detection::ForwardedFor {
            trust: Trust::Ranges(ranges),
            skip_append: true,
        }];
        let peer = Some("127.0.0.1".parse().unwrap());
        let many = |n: u8| (1..=n).map(|i| format!(",10.0.0.{i}")).collect::<String>();
        for (value, client) in [
            ("5.5.5.5", Some(("5.5.5.5", true))),
            ("10.0.0.9", Some(("10.0.0.9", true))),
            ("10.0.0.9, 10.0.0.8", Some(("10.0.0.9", false))),
            ("6.6.6.6, 5.5.5.5, 10.0.0.8", Some(("5.5.5.5", false))),
            ("junk, 10.0.0.8", None),
            (", 10.0.0.8", None),
            (&format!("5.5.5.5{}", many(19)), Some(("5.5.5.5", false))),
            (&format!("5.5.5.5{}", many(20)), None),
        ] {
            let headers = headers(&[(names::X_FORWARDED_FOR, value)]);
            let found = Detection::ask(&trusting, &headers, peer).unwrap();
            let client = client.map(|(ip, alone)| (ip.parse().unwrap(), alone));
            assert_eq!((found.client, found.append), (client, false), "{value}");
        }
        let headers = headers(&[(names::X_FORWARDED_FOR, "5.5.5.5")]);
        let found = Detection::ask(&trusting, &headers, Some("9.9.9.9".parse().unwrap()));
        assert_eq!(found.map(|f| (f.client, f.append)), Ok((None, true)));
    }
}
