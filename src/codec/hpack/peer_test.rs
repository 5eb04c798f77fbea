//! Header blocks to and from another implementation: the `h2` crate's.

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::{Decoder, Encoder, Field};
use crate::net::http2::frames::{END_HEADERS, END_STREAM, FrameHead, HEADER, HEADERS, SETTINGS};

const PREFACE: usize = 24;

async fn write(io: &mut DuplexStream, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let head = FrameHead {
        length: u32::try_from(payload.len()).unwrap(),
        kind,
        flags,
        stream,
        reason: 0,
    };
    io.write_all(&head.to_bytes()).await.unwrap();
    io.write_all(payload).await.unwrap();
}

/// Answers each request with the headers that it had.
async fn echo(mut io: DuplexStream, table: u32) {
    let (mut decoder, mut encoder) = (Decoder::default(), Encoder::default());
    encoder.set_limit(table as usize);
    let mut preface = [0; PREFACE];
    io.read_exact(&mut preface).await.unwrap();
    write(&mut io, SETTINGS, 0, 0, &[]).await;
    loop {
        let mut head = [0; HEADER];
        if io.read_exact(&mut head).await.is_err() {
            return;
        }
        let head = FrameHead::parse(&head).unwrap();
        let mut payload = vec![0; head.length as usize];
        io.read_exact(&mut payload).await.unwrap();
        if head.kind != HEADERS {
            continue;
        }
        assert_ne!(head.flags & END_HEADERS, 0);
        let mut block = BytesMut::new();
        encoder.begin(&mut block);
        encoder.status(StatusCode::OK, &mut block);
        let decoded = decoder.decode(&payload, |field| {
            if let Field::Header(name, value) = field {
                encoder.header(&name, &value, &mut block);
            }
        });
        decoded.unwrap();
        let flags = END_HEADERS | END_STREAM;
        write(&mut io, HEADERS, flags, head.stream, &block).await;
    }
}

async fn there_and_back(table: u32, requests: Vec<HeaderMap>) {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    let (client, connection) = h2::client::Builder::new()
        .header_table_size(table)
        .handshake::<_, bytes::Bytes>(theirs)
        .await
        .unwrap();
    let serve = async {
        let mut client = client.ready().await.unwrap();
        for headers in requests {
            let mut request = Request::new(());
            *request.uri_mut() = "http://host/path".parse().unwrap();
            *request.headers_mut() = headers.clone();
            let (response, _) = client.send_request(request, true).unwrap();
            assert_eq!(*response.await.unwrap().headers(), headers);
            client = client.ready().await.unwrap();
        }
    };
    tokio::select! {
        () = serve => {}
        () = echo(ours, table) => panic!("the client has left"),
        gone = connection => panic!("the connection is over: {gone:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Few names and values, so that they come again, and small tables, so that they
    /// have to go.
    #[test]
    fn both_read_what_the_other_writes(
        table in prop_oneof![Just(0_u32), 30..300_u32, Just(4096), Just(65_536)],
        requests in proptest::collection::vec(
            proptest::collection::vec((0..6_usize, prop_oneof!["[a-c]", "[ -~]{0,40}"]), 0..8),
            1..8,
        ),
    ) {
        let names = ["server", "etag", "x-a", "x-some-longer-name", "set-cookie", "accept"];
        let requests = requests.into_iter().map(|fields| {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                let value = HeaderValue::from_str(value.trim()).unwrap();
                headers.append(HeaderName::from_static(names[name]), value);
            }
            headers
        });
        let requests = requests.collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(there_and_back(table, requests));
    }
}
