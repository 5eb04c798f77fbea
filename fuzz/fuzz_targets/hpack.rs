//! Any bytes as header blocks of one connection: an error or fields, never a panic.
//! What can be read of them comes back from what is written of it.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use nuncio::codec::hpack::{Decoder, Encoder, Field};

fuzz_target!(|blocks: Vec<&[u8]>| {
    let mut decoder = Decoder::default();
    let (mut encoder, mut again) = (Encoder::default(), Decoder::default());
    for block in blocks {
        let mut fields = Vec::new();
        let decoded = decoder.decode(block, |field| {
            if let Field::Header(..) = field {
                fields.push(field);
            }
        });
        if decoded.is_err() {
            return;
        }
        let mut out = BytesMut::new();
        encoder.begin(&mut out);
        for field in &fields {
            if let Field::Header(name, value) = field {
                encoder.header(name, value, &mut out);
            }
        }
        let mut read = Vec::new();
        let decoded = again.decode(&out, |field| read.push(field));
        decoded.expect("it was just written");
        assert_eq!(read, fields);
    }
});
