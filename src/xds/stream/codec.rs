//! Requests and answers of both variants, as tonic encodes and decodes them.

use bytes::Buf;
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::xds::{
    api_source::Variant,
    mux::{Request, Response},
};

/// Encodes requests, and decodes answers of one variant.
#[derive(Clone, Copy, Debug)]
pub struct DiscoveryCodec(pub Variant);

impl Codec for DiscoveryCodec {
    type Encode = Request;
    type Decode = Response;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for DiscoveryCodec {
    type Item = Request;
    type Error = Status;

    fn encode(&mut self, item: Request, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let outcome = match item {
            Request::Sotw(request) => request.encode(buffer),
            Request::Delta(request) => request.encode(buffer),
        };
        outcome.map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for DiscoveryCodec {
    type Item = Response;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Response>, Status> {
        fn read<M: Message + Default>(buffer: impl Buf) -> Result<M, Status> {
            M::decode(buffer).map_err(|error| {
                Status::internal(format!("an answer that cannot be decoded: {error}"))
            })
        }
        let response = match self.0 {
            Variant::Sotw | Variant::Rest => Response::Sotw(read(buffer)?),
            Variant::Delta => Response::Delta(read(buffer)?),
        };
        Ok(Some(response))
    }
}
