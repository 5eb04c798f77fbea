//! From a format string to a row of literals and operators.

use crate::config::{At, Reported, suggest};

use super::{
    FormatContext, Needs, TimeFormat,
    grpc::GrpcStatusStyle,
    operator::{Operator, PathSource, TIME_POINTS},
    plain::PLAIN,
    unsupported::UNSUPPORTED,
    value::Value,
    view::{FieldName, add},
};

/// Envoy's default access log format.
pub const DEFAULT_FORMAT: &str = "[%START_TIME%] \"%REQUEST_HEADER(:METHOD)% \
    %REQUEST_HEADER(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% \
    %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESPONSE_HEADER(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQUEST_HEADER(X-FORWARDED-FOR)%\" \"%REQUEST_HEADER(USER-AGENT)%\" \
    \"%REQUEST_HEADER(X-REQUEST-ID)%\" \"%REQUEST_HEADER(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

#[derive(Clone, Debug)]
pub(super) enum Token {
    Literal(Box<str>),
    Command { operator: Operator, max: usize },
}

/// A parsed text format.
#[derive(Clone, Debug)]
pub struct Formatter {
    pub(super) tokens: Box<[Token]>,
    absent: &'static str,
}

impl Formatter {
    /// Parses a format in which a missing value is written `-`.
    ///
    /// # Errors
    /// A malformed or unknown command, reported at `at`.
    pub fn parse(format: &str, at: &At<'_>) -> Result<Self, Reported> {
        match tokens(format) {
            Ok(tokens) => Ok(Self {
                tokens: tokens.into(),
                absent: "-",
            }),
            Err(message) => Err(at.error(message)),
        }
    }

    /// Writes nothing for a missing value, as `omit_empty_values` asks and as
    /// header rules do.
    #[must_use]
    pub fn omitting_empty(self) -> Self {
        Self { absent: "", ..self }
    }

    /// The default access log format.
    pub fn default_access_log() -> Self {
        Self {
            tokens: tokens(DEFAULT_FORMAT)
                .expect("the default format is well formed")
                .into(),
            absent: "-",
        }
    }

    /// The text itself, when there is no command in it.
    pub fn as_literal(&self) -> Option<&str> {
        match &*self.tokens {
            [] => Some(""),
            [Token::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the text for a stream.
    pub fn write(&self, out: &mut Vec<u8>, cx: &FormatContext<'_>) {
        for token in &self.tokens {
            match token {
                Token::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Token::Command { operator, max } => {
                    if !operator.value(cx).write(out, *max) {
                        out.extend_from_slice(self.absent.as_bytes());
                    }
                }
            }
        }
    }

    /// The only command, when the format is nothing else: JSON keeps its type.
    pub(super) fn single<'a>(&'a self, cx: &FormatContext<'a>) -> Option<(Value<'a>, usize)> {
        match &*self.tokens {
            [Token::Command { operator, max }] => Some((operator.value(cx), *max)),
            _ => None,
        }
    }

    /// The headers it reads.
    pub fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        for token in &self.tokens {
            let Token::Command { operator, .. } = token else {
                continue;
            };
            let (names, one, two) = match operator {
                Operator::Request(one, two) => (&mut needs.request, one, two),
                Operator::Response(one, two) => (&mut needs.response, one, two),
                Operator::Trailer(one, two) => (&mut needs.trailers, one, two),
                Operator::GrpcStatus(_) => {
                    needs.add_grpc_status();
                    continue;
                }
                Operator::Path { source, .. } if *source != PathSource::Current => {
                    let original = http::HeaderName::from_static("x-envoy-original-path");
                    add(&mut needs.request, &original);
                    continue;
                }
                _ => continue,
            };
            for field in [Some(one), two.as_ref()].into_iter().flatten() {
                if let FieldName::Header(name) = field {
                    add(names, name);
                }
            }
        }
        needs
    }
}

fn tokens(format: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut literal = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        literal.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            literal.push('%');
            rest = after;
            continue;
        }
        let position = format.len() - after.len() - 1;
        let (command, length) = Command::read(after).ok_or_else(|| {
            format!("no valid command at position {position} of {format:?}: expected %NAME%, %NAME(ARGUMENT)% or %NAME(ARGUMENT):LENGTH%; a percent sign is written %%")
        })?;
        if !literal.is_empty() {
            tokens.push(Token::Literal(std::mem::take(&mut literal).into()));
        }
        tokens.push(command.token()?);
        rest = &after[length..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        tokens.push(Token::Literal(literal.into()));
    }
    Ok(tokens)
}

/// A command as it is written: `NAME(ARGUMENT):LENGTH`.
struct Command<'a> {
    name: &'a str,
    argument: Option<&'a str>,
    length: Option<usize>,
}

impl<'a> Command<'a> {
    /// Reads a command after its first `%`; gives how much was read, with the last `%`.
    fn read(text: &'a str) -> Option<(Self, usize)> {
        let name_end = text
            .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
            .filter(|end| *end > 0)?;
        let (name, mut rest) = text.split_at(name_end);
        let mut argument = None;
        if let Some(inside) = rest.strip_prefix('(') {
            // An argument may contain parentheses: it ends where a command can end.
            let end = inside.match_indices(')').find_map(|(i, _)| {
                let after = &inside[i + 1..];
                let digits = after
                    .strip_prefix(':')
                    .map(|d| d.trim_start_matches(|c: char| c.is_ascii_digit()));
                let ends = after.starts_with('%') || digits.is_some_and(|d| d.starts_with('%'));
                ends.then_some(i)
            })?;
            argument = Some(&inside[..end]);
            rest = &inside[end + 1..];
        }
        let mut length = None;
        if let Some(digits) = rest.strip_prefix(':') {
            let end = digits.find(|c: char| !c.is_ascii_digit())?;
            length = Some(digits[..end].parse().ok()?);
            rest = &digits[end..];
        }
        let rest = rest.strip_prefix('%')?;
        let command = Self {
            name,
            argument,
            length,
        };
        Some((command, text.len() - rest.len()))
    }

    fn token(&self) -> Result<Token, String> {
        if let Some(index) = PLAIN.iter().position(|(name, _)| *name == self.name) {
            if self.argument.is_some() || self.length.is_some() {
                return Err(format!(
                    "{} does not take an argument or a length",
                    self.name
                ));
            }
            return Ok(Token::Command {
                operator: Operator::Plain(index),
                max: usize::MAX,
            });
        }
        let takes_length = matches!(
            self.name,
            "REQ"
                | "REQUEST_HEADER"
                | "RESP"
                | "RESPONSE_HEADER"
                | "TRAILER"
                | "RESPONSE_TRAILER"
                | "QUERY_PARAM"
                | "QUERY_PARAMS"
                | "PATH"
                | "ENVIRONMENT"
        );
        let takes_nothing = matches!(self.name, "STREAM_ID" | "HOSTNAME");
        if takes_nothing && (self.argument.is_some() || self.length.is_some()) {
            return Err(format!(
                "{} does not take an argument or a length",
                self.name
            ));
        }
        if self.length.is_some() && !takes_length {
            return Err(format!("{} does not take a length", self.name));
        }
        Ok(Token::Command {
            operator: self.operator()?,
            max: self.length.unwrap_or(usize::MAX),
        })
    }

    fn required(&self) -> Result<&'a str, String> {
        match self.argument {
            None | Some("") => Err(format!("{} needs an argument: %{0}(…)%", self.name)),
            Some(argument) => Ok(argument),
        }
    }

    fn operator(&self) -> Result<Operator, String> {
        let optional = self.argument.unwrap_or_default();
        let time = || TimeFormat::parse(optional).map_err(|e| format!("{}: {e}", self.name));
        Ok(match self.name {
            "REQ" | "REQUEST_HEADER" => {
                let (one, two) = self.headers()?;
                Operator::Request(one, two)
            }
            "RESP" | "RESPONSE_HEADER" => {
                let (one, two) = self.headers()?;
                Operator::Response(one, two)
            }
            "TRAILER" | "RESPONSE_TRAILER" => {
                let (one, two) = self.headers()?;
                Operator::Trailer(one, two)
            }
            "STREAM_ID" => Operator::Request(
                FieldName::Header(http::HeaderName::from_static("x-request-id")),
                None,
            ),
            "HOSTNAME" => Operator::Constant(hostname().into()),
            "START_TIME" => Operator::StartTime(time()?),
            "EMIT_TIME" => Operator::EmitTime(time()?),
            "DOWNSTREAM_PEER_CERT_V_START" => validity(false, false, time()?),
            "DOWNSTREAM_PEER_CERT_V_END" => validity(false, true, time()?),
            "UPSTREAM_PEER_CERT_V_START" => validity(true, false, time()?),
            "UPSTREAM_PEER_CERT_V_END" => validity(true, true, time()?),
            "COMMON_DURATION" => self.duration()?,
            "QUERY_PARAM" => Operator::QueryParam(self.required()?.into()),
            "PATH" => self.path(optional)?,
            "ENVIRONMENT" => {
                let value = std::env::var(self.required()?);
                Operator::Constant(value.unwrap_or_else(|_| "-".to_owned()).into())
            }
            "RESPONSE_CODE_DETAILS" => Operator::CodeDetails {
                spaces: optional == "ALLOW_WHITESPACES",
            },
            "GRPC_STATUS" => Operator::GrpcStatus(match optional {
                "" | "CAMEL_STRING" => GrpcStatusStyle::Camel,
                "SNAKE_STRING" => GrpcStatusStyle::Snake,
                "NUMBER" => GrpcStatusStyle::Number,
                other => {
                    return Err(format!(
                        "GRPC_STATUS({other}): expected CAMEL_STRING, SNAKE_STRING or NUMBER"
                    ));
                }
            }),
            unsupported if UNSUPPORTED.binary_search(&unsupported).is_ok() => {
                return Err(format!("%{unsupported}% is not supported yet"));
            }
            unknown => {
                let known = PLAIN.iter().map(|(name, _)| *name).chain(WITH_ARGUMENT);
                return Err(format!(
                    "unknown command operator %{unknown}%{}",
                    suggest::near(unknown, known.map(str::to_owned))
                ));
            }
        })
    }

    /// `X` or `X?Y`.
    fn headers(&self) -> Result<(FieldName, Option<FieldName>), String> {
        let argument = self.required()?;
        let (one, two) = match argument.split_once('?') {
            Some((_, two)) if two.contains('?') => {
                return Err(format!(
                    "{}({argument}): more than one alternative header",
                    self.name
                ));
            }
            Some((one, two)) => (one, Some(two)),
            None => (argument, None),
        };
        // Envoy takes an empty name, with which nothing is ever found.
        let parse = |name: &str| match name {
            "" => Ok(FieldName::Protocol),
            name => FieldName::parse(name),
        };
        Ok((parse(one)?, two.map(parse).transpose()?))
    }

    fn duration(&self) -> Result<Operator, String> {
        let parts: Vec<&str> = self.required()?.split(':').collect();
        let (from, to, unit) = match parts[..] {
            [from, to] => (from, to, "ms"),
            [from, to, unit] => (from, to, unit),
            _ => return Err("COMMON_DURATION takes START:END or START:END:PRECISION".to_owned()),
        };
        let point = |name: &str| {
            let found = TIME_POINTS.iter().find(|(known, _)| *known == name);
            found.map(|(_, point)| *point).ok_or_else(|| {
                let known = TIME_POINTS.iter().map(|(name, _)| (*name).to_owned());
                let hint = suggest::among(name, known);
                format!("COMMON_DURATION: unknown time point {name}{hint}")
            })
        };
        let unit = match unit {
            "ms" => 1_000_000,
            "us" => 1_000,
            "ns" => 1,
            _ => return Err(format!("COMMON_DURATION: {unit:?} is not ms, us or ns")),
        };
        Ok(Operator::Duration(point(from)?, point(to)?, unit))
    }

    fn path(&self, argument: &str) -> Result<Operator, String> {
        let (query, source) = argument.split_once(':').unwrap_or((argument, ""));
        let query = match query {
            "" | "WQ" => true,
            "NQ" => false,
            _ => return Err(format!("PATH: {query:?} is not WQ or NQ")),
        };
        let source = match source {
            "PATH" => PathSource::Current,
            "ORIG" => PathSource::Original,
            "" | "ORIG_OR_PATH" => PathSource::OriginalOrCurrent,
            _ => {
                return Err(format!(
                    "PATH: {source:?} is not ORIG, PATH or ORIG_OR_PATH"
                ));
            }
        };
        Ok(Operator::Path { query, source })
    }
}

fn validity(upstream: bool, end: bool, format: TimeFormat) -> Operator {
    Operator::PeerValidity {
        upstream,
        end,
        format,
    }
}

/// The name of this host, read when a format is parsed.
fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.map_or_else(|_| "-".to_owned(), |name| name.trim_end().to_owned())
}

/// Operators that are not plain; not all take an argument.
const WITH_ARGUMENT: [&str; 20] = [
    "DOWNSTREAM_PEER_CERT_V_START",
    "DOWNSTREAM_PEER_CERT_V_END",
    "UPSTREAM_PEER_CERT_V_START",
    "UPSTREAM_PEER_CERT_V_END",
    "STREAM_ID",
    "HOSTNAME",
    "REQ",
    "REQUEST_HEADER",
    "RESP",
    "RESPONSE_HEADER",
    "TRAILER",
    "RESPONSE_TRAILER",
    "START_TIME",
    "EMIT_TIME",
    "COMMON_DURATION",
    "QUERY_PARAM",
    "PATH",
    "ENVIRONMENT",
    "RESPONSE_CODE_DETAILS",
    "GRPC_STATUS",
];
