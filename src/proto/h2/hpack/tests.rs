//! Tests of this room, with the vectors of the RFCs where they have any.

use super::*;

/// The fields of a block, or the error.
type Fields = Vec<(String, String)>;

impl Sink for Fields {
    type Stop = Error;

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        self.push((String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned()));
        Ok(())
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hex");
    digits.chunks(2).map(byte).collect()
}

fn decode(decoder: &mut Decoder, hex: &str) -> Result<Fields, Error> {
    let mut fields = Fields::new();
    decoder.decode(&bytes(hex), &mut fields).map(|()| fields)
}

fn pairs(fields: &[(&str, &str)]) -> Fields {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// RFC 7541, appendix C.2: one representation each.
#[test]
fn representations_of_the_rfc() {
    for (hex, field, size) in [
        ("400a637573746f6d2d6b65790d637573746f6d2d686561646572", ("custom-key", "custom-header"), 55),
        ("040c2f73616d706c652f70617468", (":path", "/sample/path"), 0),
        ("100870617373776f726406736563726574", ("password", "secret"), 0),
        ("82", (":method", "GET"), 0),
    ] {
        let mut decoder = Decoder::default();
        assert_eq!(decode(&mut decoder, hex), Ok(pairs(&[field])), "{hex}");
        assert_eq!(decoder.table.size, size, "{hex}");
    }
}

/// RFC 7541, appendix C.3 and C.4: three requests on one connection, without and with Huffman code.
#[test]
fn requests_of_the_rfc() {
    let plain = [
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ];
    let coded = [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ];
    let host = (":authority", "www.example.com");
    let expected = [
        pairs(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), host]),
        pairs(&[
            (":method", "GET"),
            (":scheme", "http"),
            (":path", "/"),
            host,
            ("cache-control", "no-cache"),
        ]),
        pairs(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            host,
            ("custom-key", "custom-value"),
        ]),
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder::default();
        for ((block, expected), size) in blocks.iter().zip(&expected).zip([57, 110, 164]) {
            assert_eq!(decode(&mut decoder, block).as_ref(), Ok(expected));
            assert_eq!(decoder.table.size, size);
        }
    }
}

/// RFC 7541, appendix C.5 and C.6: responses with a table of 256 bytes, so that entries are evicted.
#[test]
fn responses_of_the_rfc() {
    let plain = [
        "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f\
         7777772e6578616d706c652e636f6d",
        "4803333037c1c0bf",
        "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b42\
         5a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
    ];
    let coded = [
        "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
        "4883640effc1c0bf",
        "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f\
         3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
    ];
    let (private, location) = (("cache-control", "private"), ("location", "https://www.example.com"));
    let (first, second) = ("Mon, 21 Oct 2013 20:13:21 GMT", "Mon, 21 Oct 2013 20:13:22 GMT");
    let cookie = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    let expected = [
        pairs(&[(":status", "302"), private, ("date", first), location]),
        pairs(&[(":status", "307"), private, ("date", first), location]),
        pairs(&[
            (":status", "200"),
            private,
            ("date", second),
            location,
            ("content-encoding", "gzip"),
            ("set-cookie", cookie),
        ]),
    ];
    for blocks in [plain, coded] {
        let mut decoder = Decoder { max: 256, ..Decoder::default() };
        for ((block, expected), size) in blocks.iter().zip(&expected).zip([222, 222, 215]) {
            assert_eq!(decode(&mut decoder, block).as_ref(), Ok(expected));
            assert_eq!(decoder.table.size, size);
        }
    }
}

/// RFC 7541, appendix C.1: integers.
#[test]
fn integers_of_the_rfc() {
    for (value, prefix, code) in [(10, 5, &[10][..]), (1337, 5, &[31, 154, 10]), (42, 8, &[42])] {
        let mut out = Vec::new();
        if prefix < 8 {
            put_integer(value, prefix, 0, &mut out);
            assert_eq!(out, code);
            assert_eq!(integer(&mut &code[..], prefix), Ok(value));
        }
    }
    for value in (0..70_000).chain([2_097_278]) {
        let mut out = Vec::new();
        put_integer(value, 7, 0x80, &mut out);
        assert_eq!(integer(&mut &out[..], 7), Ok(value));
    }
}

#[test]
fn what_is_no_block_is_refused() {
    for (hex, error) in [
        ("80", Error::Index),
        ("be", Error::Index),
        ("7e0161", Error::Index),
        ("ff", Error::CutInteger),
        ("42ff", Error::CutInteger),
        ("ffffffffff", Error::Integer),
        ("ff80808080808000", Error::Integer),
        ("40", Error::Cut),
        ("400161", Error::Cut),
        ("4001610a62", Error::Cut),
        ("00016181ff", Error::Huffman),
        ("00016184ffffffff", Error::Huffman),
        ("3fe21f", Error::TableSize),
        ("8220", Error::LateTableSize),
    ] {
        assert_eq!(decode(&mut Decoder::default(), hex), Err(error), "{hex}");
    }
}

#[test]
fn the_table_is_bounded_however_it_is_filled() {
    let mut decoder = Decoder::default();
    for turn in 0..2000u32 {
        let mut block = vec![0x40];
        put_string(format!("x-{turn}").as_bytes(), &mut block);
        put_string(&vec![b'y'; (turn * 37 % 900) as usize], &mut block);
        let mut fields = Fields::new();
        assert_eq!(decoder.decode(&block, &mut fields), Ok(()));
        // the newest entry is what was just sent
        assert_eq!(
            decoder.table.get(0).map(|(name, _)| name.to_vec()),
            Some(format!("x-{turn}").into_bytes())
        );
        assert!(decoder.table.size <= TABLE_BYTES_MAX);
        assert!(decoder.table.bytes.len() <= 2 * TABLE_BYTES_MAX, "{}", decoder.table.bytes.len());
        let counted: usize =
            (0..).map_while(|index| decoder.table.get(index)).map(|(n, v)| n.len() + v.len() + 32).sum();
        assert_eq!(counted, decoder.table.size);
    }
    // an entry larger than the table empties it
    assert!(decode(&mut decoder, "3f0040016101620161").is_err() || decoder.table.size <= TABLE_BYTES_MAX);
    assert_eq!(decode(&mut decoder, "20"), Ok(Fields::new()));
    decoder.slim();
    assert_eq!((decoder.table.size, decoder.table.bytes.capacity()), (0, 0));
}

#[test]
fn what_is_written_is_read() {
    let mut block = Vec::new();
    for status in [200, 204, 206, 304, 400, 404, 500, 201, 999] {
        put_status(status, &mut block);
    }
    put_field(Some(Id::Server), b"Server", b"pronghorn", &mut block);
    put_field(None, b"X-Own", b"{{{{{", &mut block);
    put_field(None, b"x-empty", b"", &mut block);
    put_named(AUTHORITY, b"h.test", &mut block);
    let mut fields = Fields::new();
    let mut decoder = Decoder::default();
    assert_eq!(decoder.decode(&block, &mut fields), Ok(()));
    let statuses = fields.iter().take(9).map(|(_, value)| &**value).collect::<Vec<_>>();
    assert_eq!(statuses, ["200", "204", "206", "304", "400", "404", "500", "201", "999"]);
    let rest = [("server", "pronghorn"), ("x-own", "{{{{{"), ("x-empty", ""), (":authority", "h.test")];
    assert_eq!(fields[9..], pairs(&rest));
    assert_eq!(decoder.table.size, 0, "nothing is indexed");
}
