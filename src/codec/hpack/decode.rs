//! Header blocks off the wire.

use super::{Field, Malformed, field::Name, huffman, table::Table};

/// Bytes of the table before anything was said about it.
const TABLE: usize = 4096;

/// Reads the header blocks of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// What the other side was told that its table may have at most.
    limit: usize,
    /// Where strings are put together.
    scratch: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: Table::new(TABLE),
            limit: TABLE,
            scratch: Vec::new(),
        }
    }
}

impl Decoder {
    /// The other side has taken note of this `SETTINGS_HEADER_TABLE_SIZE`.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.table.lower_limit(limit);
    }

    /// Reads a whole block and tells of each field in it.
    ///
    /// # Errors
    /// When it is not valid: what both ends know has come apart.
    pub fn decode(
        &mut self,
        mut block: &[u8],
        mut each: impl FnMut(Field),
    ) -> Result<(), Malformed> {
        let block = &mut block;
        let mut begun = false;
        while let Some(first) = block.first() {
            let first = *first;
            if first & 0xe0 == 0x20 {
                let limit = integer(block, 5)?;
                if begun || limit > self.limit {
                    return Err(Malformed("table size"));
                }
                self.table.set_limit(limit);
                continue;
            }
            begun = true;
            if first & 0x80 != 0 {
                let index = integer(block, 7)?;
                each(self.table.get(index).ok_or(INDEX)?.clone());
                continue;
            }
            let keep = first & 0x40 != 0;
            let name = match integer(block, if keep { 6 } else { 4 })? {
                0 => Name::from_bytes(string(block, &mut self.scratch)?),
                index => self.table.get(index).ok_or(INDEX)?.name(),
            };
            let field = Field::new(name, string(block, &mut self.scratch)?);
            if keep {
                self.table.insert(field.clone());
            }
            each(field);
        }
        Ok(())
    }
}

const INDEX: Malformed = Malformed("index");

/// Takes an integer whose first byte has so many bits of it (RFC 7541, 5.1).
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Malformed> {
    const CUT: Malformed = Malformed("integer");
    let mask = (1_usize << prefix) - 1;
    let (first, mut rest) = block.split_first().ok_or(CUT)?;
    let mut value = usize::from(*first) & mask;
    if value == mask {
        let mut shift = 0;
        loop {
            let (byte, after) = rest.split_first().ok_or(CUT)?;
            rest = after;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift > 21 {
                // Nothing that long would be let pass.
                return Err(CUT);
            }
        }
    }
    *block = rest;
    Ok(value)
}

/// Takes a string (RFC 7541, 5.2).
fn string<'s, 'b: 's>(
    block: &mut &'b [u8],
    scratch: &'s mut Vec<u8>,
) -> Result<&'s [u8], Malformed> {
    const CUT: Malformed = Malformed("string");
    let coded = block.first().ok_or(CUT)? & 0x80 != 0;
    let length = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(CUT)?;
    *block = rest;
    if !coded {
        return Ok(text);
    }
    scratch.clear();
    huffman::decode(text, scratch).ok_or(Malformed("Huffman code"))?;
    Ok(scratch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        hex.chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn read(decoder: &mut Decoder, hex: &str) -> Result<String, Malformed> {
        let mut all = Vec::new();
        decoder.decode(&bytes(hex), |field| {
            all.push(match field {
                Field::Pseudo(name, value) => {
                    format!(
                        "{}={}",
                        name.as_str(),
                        String::from_utf8(value.into()).unwrap()
                    )
                }
                Field::Header(name, value) => format!("{name}={}", value.to_str().unwrap()),
                Field::Invalid(..) => "invalid".to_owned(),
            });
        })?;
        Ok(all.join(" "))
    }

    #[test]
    fn requests_of_the_specification() {
        // RFC 7541, C.3 and C.4: plain, then by the Huffman code.
        for blocks in [
            [
                "828684410f7777772e6578616d706c652e636f6d",
                "828684be58086e6f2d6361636865",
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
            ],
            [
                "828684418cf1e3c2e5f23a6ba0ab90f4ff",
                "828684be5886a8eb10649cbf",
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
            ],
        ] {
            let mut decoder = Decoder::default();
            let [first, second, third] = blocks;
            assert_eq!(
                read(&mut decoder, first).unwrap(),
                ":method=GET :scheme=http :path=/ :authority=www.example.com"
            );
            assert_eq!(
                read(&mut decoder, second).unwrap(),
                ":method=GET :scheme=http :path=/ :authority=www.example.com cache-control=no-cache"
            );
            assert_eq!(
                read(&mut decoder, third).unwrap(),
                ":method=GET :scheme=https :path=/index.html :authority=www.example.com \
                 custom-key=custom-value"
            );
        }
    }

    #[test]
    fn responses_of_the_specification_leave_the_table() {
        // RFC 7541, C.6: a table of 256 bytes.
        let mut decoder = Decoder::default();
        decoder.set_limit(256);
        assert_eq!(
            read(
                &mut decoder,
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff
                 6e919d29ad171863c78f0b97c8e9ae82ae43d3"
            )
            .unwrap(),
            ":status=302 cache-control=private date=Mon, 21 Oct 2013 20:13:21 GMT \
             location=https://www.example.com"
        );
        assert_eq!(
            read(&mut decoder, "4883640effc1c0bf").unwrap(),
            ":status=307 cache-control=private date=Mon, 21 Oct 2013 20:13:21 GMT \
             location=https://www.example.com"
        );
        assert_eq!(
            read(
                &mut decoder,
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab
                 77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
            )
            .unwrap(),
            ":status=200 cache-control=private date=Mon, 21 Oct 2013 20:13:22 GMT \
             location=https://www.example.com content-encoding=gzip \
             set-cookie=foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
        );
        // C.5.3: what is left of it.
        let sizes: Vec<_> = (62..66)
            .map(|n| decoder.table.get(n).map(|f| f.size() + 32))
            .collect();
        assert_eq!(sizes, [Some(98), Some(52), Some(65), None]);
    }

    #[test]
    fn what_no_message_may_have_is_told_and_kept() {
        let mut decoder = Decoder::default();
        // "A: b" and "a: \n", both kept, then both again; an unknown pseudo header.
        assert_eq!(
            read(
                &mut decoder,
                "40 01 41 01 62 40 01 61 01 0a bf be 00 02 3a 78 00"
            )
            .unwrap(),
            "invalid invalid invalid invalid invalid"
        );
    }

    #[test]
    fn what_is_no_block_is_refused() {
        for (hex, why) in [
            ("80", "index"),
            ("be", "index"),
            ("7f 00", "index"),
            ("ff ff ff ff ff ff 01", "integer"),
            ("ff", "integer"),
            ("40", "string"),
            ("40 05 61", "string"),
            ("40 81 ff", "Huffman code"),
            // More than it was told, and after a field.
            ("3f e2 1f", "table size"),
            ("82 20", "table size"),
        ] {
            assert_eq!(
                read(&mut Decoder::default(), hex),
                Err(Malformed(why)),
                "{hex}"
            );
        }
        let mut decoder = Decoder::default();
        decoder.set_limit(30);
        assert_eq!(read(&mut decoder, "3f 00"), Err(Malformed("table size")));
        assert_eq!(
            read(&mut Decoder::default(), "3f e1 1f 20 82").unwrap(),
            ":method=GET"
        );
    }
}
