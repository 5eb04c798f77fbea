//! A message in another one that is decoded when it is wanted.

use std::{fmt, marker::PhantomData};

use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{DecodeContext, WireType, decode_varint, encode_key, encode_varint},
};

/// A message that stays encoded until it is wanted. Equal when it is encoded the same.
pub struct Lazy<M> {
    encoded: Vec<u8>,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Lazy<M> {
    /// Of a message that is there.
    pub fn of(message: &M) -> Self {
        Self::from_bytes(message.encode_to_vec())
    }

    /// As it is encoded.
    pub fn bytes(&self) -> &[u8] {
        &self.encoded
    }

    /// The message.
    ///
    /// # Errors
    /// When it is none of its type.
    pub fn decode(&self) -> Result<M, DecodeError> {
        M::decode(self.bytes())
    }
}

impl<M> Lazy<M> {
    fn from_bytes(encoded: Vec<u8>) -> Self {
        Self {
            encoded,
            message: PhantomData,
        }
    }
}

impl<M> Default for Lazy<M> {
    fn default() -> Self {
        Self::from_bytes(Vec::new())
    }
}

impl<M> Clone for Lazy<M> {
    fn clone(&self) -> Self {
        Self::from_bytes(self.encoded.clone())
    }
}

impl<M> PartialEq for Lazy<M> {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl<M: Message + Default + fmt::Debug> fmt::Debug for Lazy<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.decode().fmt(f)
    }
}

/// Fields are taken over one by one, as they come.
impl<M: Message + Default> Message for Lazy<M> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(&self.encoded);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        _ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        encode_key(tag, wire_type, &mut self.encoded);
        let len = match wire_type {
            WireType::Varint => {
                encode_varint(decode_varint(buf)?, &mut self.encoded);
                return Ok(());
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => {
                let len = decode_varint(buf)?;
                encode_varint(len, &mut self.encoded);
                usize::try_from(len).unwrap_or(usize::MAX)
            }
            WireType::StartGroup | WireType::EndGroup => {
                return Err(DecodeError::new("groups are not part of proto3"));
            }
        };
        if len > buf.remaining() {
            return Err(DecodeError::new("buffer underflow"));
        }
        self.encoded.put(buf.take(len));
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.encoded.len()
    }

    fn clear(&mut self) {
        self.encoded.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::envoy::config::route::v3::{RouteConfiguration, VirtualHost};

    #[test]
    fn what_stays_encoded_is_taken_over_as_it_is() {
        let host = VirtualHost {
            name: "a".to_owned(),
            domains: vec!["b".to_owned(), "c".to_owned()],
            require_tls: 2,
            per_request_buffer_limit_bytes: Some(300),
            ..VirtualHost::default()
        };
        let table = RouteConfiguration {
            name: "t".to_owned(),
            virtual_hosts: vec![Lazy::of(&host); 2],
            ..RouteConfiguration::default()
        };
        let encoded = table.encode_to_vec();
        let read = RouteConfiguration::decode(encoded.as_slice()).unwrap();
        assert_eq!(read, table);
        assert_eq!(read.virtual_hosts[1].decode().unwrap(), host);
        assert!(RouteConfiguration::decode(&encoded[..encoded.len() - 1]).is_err());
        // A field that is cut within the message is found when that is decoded.
        let mut cut = Lazy::of(&host);
        cut.encoded.pop();
        let whole = RouteConfiguration {
            virtual_hosts: vec![cut],
            ..RouteConfiguration::default()
        };
        assert!(RouteConfiguration::decode(whole.encode_to_vec().as_slice()).is_err());
    }
}
