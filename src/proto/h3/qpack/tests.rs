//! The examples of the standard, cuts at every byte, and what a hostile peer may send.

use super::*;

#[derive(Default)]
struct Fields(Vec<(Vec<u8>, Vec<u8>)>);

impl Sink for Fields {
    type Stop = ();

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), ()> {
        self.0.push((name.to_vec(), value.to_vec()));
        if self.0.len() > 1000 { Err(()) } else { Ok(()) }
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn decoded(decoder: &mut Decoder, stream: u64, section: &[u8]) -> Result<Vec<(String, String)>, Failed<()>> {
    let mut fields = Fields::default();
    decoder.decode(stream, section, &mut fields)?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ok(fields.0.into_iter().map(|(name, value)| (text(name), text(value))).collect())
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// RFC 9204 appendix B, in its order.
#[test]
fn the_standard_s_examples() {
    let mut decoder = Decoder::default();
    let section = hex("0000 510b 2f69 6e64 6578 2e68 746d 6c");
    assert_eq!(decoded(&mut decoder, 0, &section), Ok(vec![pair(":path", "/index.html")]));
    assert!(!decoder.has_output());

    let stream = hex("3fbd01 c00f 7777 772e 6578 616d 706c 652e 636f 6d c10c 2f73 616d 706c 652f 7061 7468");
    let section = hex("0381 10 11");
    assert_eq!(decoded(&mut decoder, 4, &section), Err(Failed::Blocked));
    assert_eq!(decoder.feed(&stream), Ok(true));
    let expected = vec![pair(":authority", "www.example.com"), pair(":path", "/sample/path")];
    assert_eq!(decoded(&mut decoder, 4, &section), Ok(expected));
    assert_eq!(decoder.take_output(), hex("84"));

    let stream = hex("4a63 7573 746f 6d2d 6b65 790c 6375 7374 6f6d 2d76 616c 7565");
    assert_eq!(decoder.feed(&stream), Ok(true));
    assert_eq!(decoder.take_output(), hex("01"));

    assert_eq!(decoder.feed(&hex("02")), Ok(true));
    let section = hex("0500 80 c1 81");
    let expected =
        vec![pair(":authority", "www.example.com"), pair(":path", "/"), pair("custom-key", "custom-value")];
    assert_eq!(decoded(&mut decoder, 8, &section), Ok(expected));
    decoder.cancel(8);
    assert_eq!(decoder.take_output(), hex("88 48"));

    let stream = hex("810d 6375 7374 6f6d 2d76 616c 7565 32");
    assert_eq!(decoder.feed(&stream), Ok(true));
    assert_eq!(decoder.table.newest(0), Some((&b"custom-key"[..], &b"custom-value2"[..])));
    assert_eq!(decoder.table.get(0), None);
}

#[test]
fn the_encoder_stream_may_be_cut_anywhere() {
    let stream = hex(
        "3fbd01 c00f 7777 772e 6578 616d 706c 652e 636f 6d 4a63 7573 746f 6d2d 6b65 790c 6375 7374 6f6d 2d76 616c 7565 00",
    );
    for step in 1..stream.len() {
        let mut decoder = Decoder::default();
        let inserted = stream.chunks(step).filter(|piece| decoder.feed(piece).expect("valid")).count();
        assert!(inserted >= 1, "{step}");
        assert_eq!(decoder.table.inserted(), 3, "{step}");
        assert!(decoder.rest.is_empty());
    }
}

#[test]
fn hostile_instructions_end_the_connection() {
    for stream in [
        "3fe21f",                           // capacity 4097
        "c0 01 61",                         // no capacity has been set
        "3fbd01 80 01 61",                  // a name that is not there
        "3fbd01 ff24 01 61",                // static index 99
        "3fbd01 00",                        // nothing to duplicate
        "3fe11f c0 7f81ff01",               // a string longer than any that fits
        "3fe11f c0 82 ffff",                // no Huffman code
        "3fe11f c0 ffffffffffffffffffff01", // no number
    ] {
        let fault = Decoder::default().feed(&hex(stream)).expect_err(stream);
        assert_eq!(fault.code, Code::ENCODER_STREAM_ERROR, "{stream}");
    }
}

#[test]
fn hostile_sections_are_invalid() {
    let mut decoder = Decoder::default();
    decoder.feed(&hex("3fbd01 c0 01 61 c1 01 62")).expect("valid");
    for section in [
        "",
        "00",
        "ffffffff",
        "0000 ff24",     // static index 99
        "0000 80",       // a dynamic entry although none is needed
        "0300 82",       // before the first entry
        "0300 10",       // at the base: not there
        "0384 10",       // the base is too low
        "0000 51 05 61", // a string that is cut
        "0000 51",
        "0000 27",
        "0000 7f",
        "0000 2fffffffffffff 61",
        "ff8001 00", // more entries than a table can have
    ] {
        assert_eq!(decoded(&mut decoder, 0, &hex(section)), Err(Failed::Invalid), "{section}");
    }
    // Entries that will never come, because they would be beyond the table's size.
    assert_eq!(decoded(&mut decoder, 0, &hex("8100 80")), Err(Failed::Blocked));
    // A bomb ends where its sink says so.
    let mut bomb = hex("0300");
    bomb.extend(std::iter::repeat_n(0x80, 5000));
    assert_eq!(decoded(&mut decoder, 0, &bomb), Err(Failed::Stopped(())));
}

#[test]
fn what_the_decoder_stream_may_say() {
    let mut rest = Vec::new();
    assert_eq!(check_decoder_stream(&mut rest, &hex("44 7f")), Ok(()));
    assert_eq!(check_decoder_stream(&mut rest, &hex("01 48")), Ok(()));
    assert!(rest.is_empty());
    for stream in ["80", "01", "7f ffffffffffffffffffff01"] {
        let fault = check_decoder_stream(&mut Vec::new(), &hex(stream)).expect_err(stream);
        assert_eq!(fault.code, Code::DECODER_STREAM_ERROR);
    }
}

#[test]
fn what_is_written_is_read_back() {
    use crate::proto::header::Id;
    let mut section = PREFIX.to_vec();
    put_status(200, &mut section);
    put_status(418, &mut section);
    put_field(Some(Id::ContentLength), b"content-length", b"12345", &mut section);
    put_field(None, b"X-Custom", b"\xff\xfe", &mut section);
    put_field(Some(Id::Upgrade), b"upgrade", b"", &mut section);
    let mut fields = Fields::default();
    Decoder::default().decode(0, &section, &mut fields).expect("valid");
    let expected: [(&[u8], &[u8]); 5] = [
        (b":status", b"200"),
        (b":status", b"418"),
        (b"content-length", b"12345"),
        (b"x-custom", b"\xff\xfe"),
        (b"upgrade", b""),
    ];
    let found: Vec<_> = fields.0.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    assert_eq!(found, expected);
}

#[test]
fn an_instruction_that_comes_byte_by_byte_is_not_read_again_for_each() {
    // A long name, then a long value; both in Huffman code of short letters.
    let mut stream = hex("3fe11f");
    put_integer(800, 5, 0x60, &mut stream);
    stream.extend([0x18; 800]);
    put_integer(1000, 7, 0x80, &mut stream);
    stream.extend([0x18; 1000]);
    let (mut decoder, mut looks, mut inserted) = (Decoder::new(8192), 0, 0);
    for byte in &stream {
        looks += usize::from(decoder.rest.len() + 1 >= decoder.wanted);
        inserted += usize::from(decoder.feed(&[*byte]).expect("valid"));
    }
    assert_eq!((inserted, decoder.rest.len()), (1, 0));
    assert!(looks < 20, "{looks}");
}
