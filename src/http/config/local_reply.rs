//! `local_reply_config`: what the answers of this proxy itself look like.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use crate::{
    access_log::Filter,
    api::envoy::{
        config::core::v3::SubstitutionFormatString,
        extensions::filters::network::http_connection_manager::v3 as pb,
    },
    codec::Headers,
    config::{At, Reported},
    formatter::{HeaderView, SubstitutionFormat, is_grpc_content_type},
    http::{LocalReply, Stream},
    model::{Context, data_source, route::HeaderRules},
};

/// `envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig`.
#[derive(Debug)]
pub struct LocalReplyConfig {
    mappers: Box<[Mapper]>,
    body: Option<BodyFormat>,
}

/// One of `mappers`: what becomes of the answers that its filter accepts.
#[derive(Debug)]
struct Mapper {
    filter: Filter,
    status: Option<StatusCode>,
    body: Option<Bytes>,
    headers: HeaderRules,
    format: Option<BodyFormat>,
}

/// How a body is written.
#[derive(Debug)]
struct BodyFormat {
    format: SubstitutionFormat,
    content_type: HeaderValue,
}

impl LocalReplyConfig {
    pub(super) fn compile(
        message: pb::LocalReplyConfig,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let pb::LocalReplyConfig {
            mappers: messages,
            body_format,
        } = message;
        let body = body_format
            .map(|message| BodyFormat::compile(message, cx, &at.field("body_format")))
            .transpose();
        let mut mappers = Vec::with_capacity(messages.len());
        let mut outcome = Ok(());
        let at = at.field("mappers");
        for (index, message) in messages.into_iter().enumerate() {
            match Mapper::compile(message, cx, &at.index(index)) {
                Ok(mapper) => mappers.push(mapper),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome?;
        Ok(Self {
            mappers: mappers.into(),
            body: body?,
        })
    }

    /// Rewrites an answer, whose headers are these: the first mapper that accepts it
    /// changes it, and a format writes its body.
    pub fn rewrite(&self, stream: &mut Stream, reply: &mut LocalReply, headers: &mut Headers) {
        let random = stream.session.worker().random();
        let accepted = {
            let context = stream.context(HeaderView::Map(headers));
            let mut mappers = self.mappers.iter();
            mappers.find(|mapper| mapper.filter.accepts(&context, random))
        };
        let kinds = |headers: &Headers| -> Vec<HeaderValue> {
            headers.get_all(header::CONTENT_TYPE).cloned().collect()
        };
        let before = kinds(headers);
        let body = reply.body.clone();
        if let Some(mapper) = accepted {
            mapper.apply(stream, reply, headers);
        }
        let own = accepted.and_then(|mapper| mapper.format.as_ref());
        let format = own.or(self.body.as_ref());
        if let Some(BodyFormat { format, .. }) = format {
            let mut context = stream.context(HeaderView::Map(headers));
            context.local_reply_body = &reply.body;
            let mut written = Vec::new();
            format.write(&mut written, &context);
            let kind = stream.request.headers.get(header::CONTENT_TYPE);
            let grpc = kind.is_some_and(|kind| is_grpc_content_type(kind.as_bytes()));
            if grpc && matches!(format, SubstitutionFormat::Json(_)) {
                // The end of the line would be part of the message.
                written.pop_if(|byte| *byte == b'\n');
            }
            reply.body = written.into();
        }
        let now = kinds(headers);
        // A mapper's own content type stands, and an answer's own where its body does.
        if now == before && (now.is_empty() || reply.body != body) {
            let plain = || HeaderValue::from_static("text/plain");
            let kind = format.map_or_else(plain, |format| format.content_type.clone());
            headers.insert(header::CONTENT_TYPE, kind);
        }
    }
}

impl Mapper {
    fn compile(
        message: pb::ResponseMapper,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let pb::ResponseMapper {
            filter,
            status_code,
            body,
            body_format_override,
            headers_to_add,
        } = message;
        let place = at.field("filter");
        let filter = match filter {
            Some(filter) => Filter::compile(filter, cx, &place),
            None => Err(place.error("is required")),
        };
        let place = at.field("status_code");
        let status = status_code.map(|code| {
            let code = u16::try_from(code).ok().filter(|code| *code >= 200);
            let status = code.and_then(|code| StatusCode::from_u16(code).ok());
            status.ok_or_else(|| place.error("must be within 200 and 599"))
        });
        let body = body.map(|source| data_source::load(source, cx, &at.field("body")));
        let format = body_format_override
            .map(|message| BodyFormat::compile(message, cx, &at.field("body_format_override")));
        let headers = HeaderRules::compile(headers_to_add, "headers_to_add", Vec::new(), "", at);
        Ok(Self {
            filter: filter?,
            status: status.transpose()?,
            body: body.transpose()?.map(Bytes::from),
            headers: headers?,
            format: format.transpose()?,
        })
    }

    /// The headers still see the status that was to be.
    fn apply(&self, stream: &mut Stream, reply: &mut LocalReply, headers: &mut Headers) {
        if let Some(body) = &self.body {
            reply.body = body.clone();
        }
        if !self.headers.is_empty() {
            let context = stream.context(HeaderView::Map(headers));
            let changes = self.headers.changes(&context);
            HeaderRules::apply(changes, headers);
        }
        if let Some(status) = self.status {
            reply.status = status;
            stream.info.response_code = Some(status);
        }
    }
}

impl BodyFormat {
    fn compile(
        message: SubstitutionFormatString,
        cx: &Context<'_>,
        at: &At<'_>,
    ) -> Result<Self, Reported> {
        let (format, content_type) = SubstitutionFormat::compile(message, cx, at)?;
        let content_type = HeaderValue::from_str(&content_type).map_err(|_| {
            at.field("content_type")
                .error(format_args!("{content_type:?} cannot stand in a header"))
        })?;
        Ok(Self {
            format,
            content_type,
        })
    }
}
