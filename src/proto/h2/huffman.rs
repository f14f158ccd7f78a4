//! The Huffman code of HPACK.
//!
//! Touches: nothing. The code is canonical, so the lengths of its words are its whole definition; the words and the
//! decoder's table are computed from them while the program is compiled. RFC 7541 §5.2, appendix B.

/// The symbol that pads a string; it must not occur in one.
const EOS: usize = 256;

/// The number of bits of each byte's word, and of EOS (RFC 7541, appendix B).
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const LONGEST: u8 = 30;

/// The word of each symbol, in its lowest bits.
static WORDS: [u32; 257] = words();

const fn words() -> [u32; 257] {
    let mut words = [0; 257];
    let (mut next, mut length) = (0, 1);
    while length <= LONGEST {
        let mut symbol = 0;
        while symbol <= EOS {
            if LENGTHS[symbol] == length {
                words[symbol] = next;
                next += 1;
            }
            symbol += 1;
        }
        next <<= 1;
        length += 1;
    }
    words
}

/// A step of the decoder: it takes four bits. No word is shorter than five, so a step completes at most one.
#[derive(Clone, Copy)]
struct Step {
    next: u8,
    byte: u8,
    completes: bool,
    fails: bool,
}

/// A complete binary tree with 257 leaves has 256 inner nodes.
const NODES: usize = 256;
/// A child with this number or a higher one is a leaf: its symbol is the rest.
const LEAF: u16 = NODES as u16;

static STEPS: [[Step; 16]; NODES] = steps();
/// True for the nodes at which a string may end: its last bits are at most seven ones.
static MAY_END: [bool; NODES] = may_end();

const fn tree() -> [[u16; 2]; NODES] {
    let words = words();
    let mut tree = [[0; 2]; NODES];
    let (mut count, mut symbol) = (1, 0);
    while symbol <= EOS {
        let (mut node, mut bit) = (0, LENGTHS[symbol]);
        while bit > 1 {
            bit -= 1;
            let side = (words[symbol] >> bit & 1) as usize;
            if tree[node][side] == 0 {
                tree[node][side] = count;
                count += 1;
            }
            node = tree[node][side] as usize;
        }
        tree[node][(words[symbol] & 1) as usize] = LEAF + symbol as u16;
        symbol += 1;
    }
    tree
}

const fn steps() -> [[Step; 16]; NODES] {
    let tree = tree();
    let mut steps = [[Step { next: 0, byte: 0, completes: false, fails: false }; 16]; NODES];
    let mut start = 0;
    while start < NODES {
        let mut bits = 0;
        while bits < 16 {
            let step = &mut steps[start][bits];
            let (mut node, mut left) = (start, 4);
            while left > 0 {
                left -= 1;
                let child = tree[node][bits >> left & 1];
                if child >= LEAF {
                    step.fails |= child == LEAF + EOS as u16;
                    (step.byte, step.completes) = ((child - LEAF) as u8, true);
                    node = 0;
                } else {
                    node = child as usize;
                }
            }
            step.next = node as u8;
            bits += 1;
        }
        start += 1;
    }
    steps
}

const fn may_end() -> [bool; NODES] {
    let tree = tree();
    let mut may_end = [false; NODES];
    let (mut node, mut ones) = (0, 0);
    while ones < 8 {
        may_end[node] = true;
        node = tree[node][1] as usize;
        ones += 1;
    }
    may_end
}

/// The text is not Huffman code: it has EOS in it, or does not end with up to seven ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotHuffman;

/// Appends the decoded text; at most 8/5 as long as the code.
pub fn decode(code: &[u8], out: &mut Vec<u8>) -> Result<(), NotHuffman> {
    out.reserve(code.len() * 8 / 5);
    let mut node = 0;
    for byte in code {
        for bits in [byte >> 4, byte & 15] {
            let step = STEPS[node][usize::from(bits)];
            if step.completes {
                if step.fails {
                    return Err(NotHuffman);
                }
                out.push(step.byte);
            }
            node = usize::from(step.next);
        }
    }
    if MAY_END[node] { Ok(()) } else { Err(NotHuffman) }
}

/// The same, but a whole byte of padding may follow, as nginx permits: some encoders pad a code of whole bytes too.
pub fn decode_padded(code: &[u8], out: &mut Vec<u8>) -> Result<(), NotHuffman> {
    let before = out.len();
    match (decode(code, out), code) {
        (Err(NotHuffman), [rest @ .., 0xff]) => {
            out.truncate(before);
            decode(rest, out)
        }
        (decoded, _) => decoded,
    }
}

/// The length of the code for a text.
pub fn encoded_length(text: &[u8]) -> usize {
    text.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum::<usize>().div_ceil(8)
}

/// Appends the code for a text.
pub fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut count) = (0u64, 0u8);
    for byte in text {
        let length = LENGTHS[usize::from(*byte)];
        bits = bits << length | u64::from(WORDS[usize::from(*byte)]);
        count += length;
        while count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    if count > 0 {
        out.push((bits << (8 - count)) as u8 | 0xff >> count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_byte_of_padding_is_permitted_where_asked_for() {
        for (code, text) in [(&b"\xff"[..], &b""[..]), (b"\x64\x02\xff", b"302"), (b"\x64\x02", b"302")] {
            let mut out = b"before".to_vec();
            assert_eq!(decode_padded(code, &mut out), Ok(()), "{code:x?}");
            assert_eq!(out, [&b"before"[..], text].concat());
        }
        for code in [&b"\xff\xff"[..], b"\x64\x02\xff\xff"] {
            assert_eq!(decode_padded(code, &mut Vec::new()), Err(NotHuffman), "{code:x?}");
        }
    }

    fn decoded(code: &[u8]) -> Result<Vec<u8>, NotHuffman> {
        let mut out = Vec::new();
        decode(code, &mut out).map(|()| out)
    }

    /// Words of RFC 7541, appendix B: the first, the last and those around the changes of length.
    #[test]
    fn words_are_those_of_the_rfc() {
        for (symbol, word) in [
            (0, 0x1ff8),
            (1, 0x007f_ffd8),
            (10, 0x3fff_fffc),
            (b' ' as usize, 0x14),
            (b'0' as usize, 0x0),
            (b'a' as usize, 0x3),
            (b'\\' as usize, 0x7fff0),
            (b'~' as usize, 0x1ffd),
            (128, 0xfffe6),
            (176, 0x1f_ffe0),
            (255, 0x03ff_ffee),
            (EOS, 0x3fff_ffff),
        ] {
            assert_eq!(WORDS[symbol], word, "{symbol}");
        }
    }

    #[test]
    fn every_byte_and_every_pair_comes_back() {
        for first in 0..=255u8 {
            for text in [vec![first], vec![first, first.wrapping_mul(7)], vec![b'a', first, b'b']] {
                let mut code = Vec::new();
                encode(&text, &mut code);
                assert_eq!(code.len(), encoded_length(&text));
                assert_eq!(decoded(&code), Ok(text));
            }
        }
        assert_eq!(decoded(b""), Ok(Vec::new()));
    }

    #[test]
    fn padding_is_up_to_seven_ones_and_eos_is_refused() {
        assert_eq!(decoded(&[0x1f]), Ok(b"a".to_vec()));
        for code in [
            &[0x1e][..],
            &[0x18],
            &[0xff],
            &[0x1f, 0xff],
            &[0x00],
            &[0xff, 0xff, 0xff, 0xff],
            &[0xff, 0xff, 0xff, 0xfc],
        ] {
            assert_eq!(decoded(code), Err(NotHuffman), "{code:x?}");
        }
    }
}
