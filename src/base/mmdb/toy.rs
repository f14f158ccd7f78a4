//! Small databases for tests, which the tests of the daemon include as well: it uses nothing else of the program.

use std::net::IpAddr;

/// A value to write.
#[derive(Clone, Debug)]
pub enum Item {
    Text(&'static str),
    Double(f64),
    Float(f32),
    U16(u16),
    U32(u32),
    U64(u64),
    U128(u128),
    I32(i32),
    Bool(bool),
    Map(Vec<(&'static str, Item)>),
    List(Vec<Item>),
    /// The value at this place of the data.
    Pointer(u32),
}

/// Appends a value in the format's encoding.
pub fn encode(item: &Item, out: &mut Vec<u8>) {
    let mut head = |kind: u8, length: usize| {
        let (low, more): (u8, &[u8]) = match length {
            0..29 => (length as u8, &[]),
            29..285 => (29, &[(length - 29) as u8]),
            _ => (30, &((length - 285) as u16).to_be_bytes()),
        };
        if kind < 8 {
            out.push(kind << 5 | low);
        } else {
            out.extend([low, kind - 7]);
        }
        out.extend_from_slice(more);
    };
    // numbers leave out leading zeros
    let short = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let mut number = |kind: u8, bytes: Vec<u8>| {
        head(kind, bytes.len());
        bytes
    };
    let bytes = match item {
        Item::Text(text) => number(2, text.as_bytes().to_vec()),
        Item::Double(value) => number(3, value.to_be_bytes().to_vec()),
        Item::U16(value) => number(5, short(&value.to_be_bytes())),
        Item::U32(value) => number(6, short(&value.to_be_bytes())),
        Item::I32(value) => number(8, value.to_be_bytes().to_vec()),
        Item::U64(value) => number(9, short(&value.to_be_bytes())),
        Item::U128(value) => number(10, short(&value.to_be_bytes())),
        Item::Float(value) => number(15, value.to_be_bytes().to_vec()),
        Item::Bool(value) => {
            head(14, usize::from(*value));
            Vec::new()
        }
        Item::Pointer(place) => {
            out.push(1 << 5 | 3 << 3);
            place.to_be_bytes().to_vec()
        }
        Item::Map(pairs) => {
            head(7, pairs.len());
            for (name, value) in pairs {
                encode(&Item::Text(name), out);
                encode(value, out);
            }
            return;
        }
        Item::List(values) => {
            head(11, values.len());
            values.iter().for_each(|value| encode(value, out));
            return;
        }
    };
    out.extend(bytes);
}

/// A database that knows these networks, with records of this many bits, for both versions of IP.
pub fn database(record_bits: u16, networks: &[(&str, u32, Item)]) -> Vec<u8> {
    // nodes with two records: another node, or a value by its place
    let mut nodes: Vec<[Option<Result<usize, usize>>; 2]> = vec![[None; 2]];
    let mut data = Vec::new();
    for (address, length, item) in networks {
        let place = data.len();
        encode(item, &mut data);
        let (bits, length) = match address.parse().expect("an address") {
            IpAddr::V4(ip) => (u128::from(u32::from(ip)), length + 96),
            IpAddr::V6(ip) => (ip.to_bits(), *length),
        };
        let mut node = 0;
        for index in 0..length {
            let side = (bits >> (127 - index) & 1) as usize;
            if index + 1 == length {
                nodes[node][side] = Some(Err(place));
            } else {
                node = match nodes[node][side] {
                    Some(Ok(next)) => next,
                    _ => {
                        nodes.push([None; 2]);
                        let next = nodes.len() - 1;
                        nodes[node][side] = Some(Ok(next));
                        next
                    }
                };
            }
        }
    }
    let count = nodes.len();
    let number = |record: Option<Result<usize, usize>>| match record {
        None => count as u32,
        Some(Ok(node)) => node as u32,
        Some(Err(place)) => (count + 16 + place) as u32,
    };
    let mut out = Vec::new();
    for node in &nodes {
        let [left, right] = node.map(number).map(u32::to_be_bytes);
        match record_bits {
            24 => out.extend([&left[1..], &right[1..]].concat()),
            28 => out.extend([&left[1..], &[left[0] << 4 | right[0]], &right[1..]].concat()),
            _ => out.extend([left, right].concat()),
        }
    }
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    let description = Item::Map(vec![
        ("binary_format_major_version", Item::U16(2)),
        ("binary_format_minor_version", Item::U16(0)),
        ("build_epoch", Item::U64(1_700_000_000)),
        ("database_type", Item::Text("Toy")),
        ("description", Item::Map(vec![("en", Item::Text("For tests"))])),
        ("ip_version", Item::U16(6)),
        ("languages", Item::List(vec![Item::Text("en")])),
        ("node_count", Item::U32(count as u32)),
        ("record_size", Item::U16(record_bits)),
    ]);
    encode(&description, &mut out);
    out
}
