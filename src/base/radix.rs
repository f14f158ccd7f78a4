//! A radix tree that maps bit prefixes to numbers. Finding the longest prefix of an address takes one step
//! for each prefix or fork on the way to it, however many prefixes the tree has in all.
//!
//! Pure data. All nodes are in one list; a node without a value is a fork, where two prefixes diverge.

/// Fixed-width bit strings: IPv4 and IPv6 addresses.
pub trait Bits: Copy + Eq {
    const COUNT: u8;

    /// Keeps the first `length` bits and clears the others.
    fn first(self, length: u8) -> Self;

    /// The number of leading bits that both have in common.
    fn common(self, other: Self) -> u8;

    fn bit(self, index: u8) -> bool;
}

macro_rules! bits {
    ($type:ty) => {
        impl Bits for $type {
            const COUNT: u8 = <$type>::BITS as u8;

            fn first(self, length: u8) -> Self {
                self & <$type>::MAX.checked_shl(u32::from(Self::COUNT - length)).unwrap_or(0)
            }

            fn common(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }

            fn bit(self, index: u8) -> bool {
                self >> (Self::COUNT - 1 - index) & 1 == 1
            }
        }
    };
}

bits!(u32);
bits!(u128);

/// Numbers by bit prefix. `geo` fills one for each family of addresses while the configuration is compiled.
#[derive(Clone, Debug)]
pub struct Radix<B> {
    /// The first is the root, the empty prefix; an empty tree has none.
    nodes: Vec<Node<B>>,
}

#[derive(Clone, Copy, Debug)]
struct Node<B> {
    prefix: B,
    length: u8,
    /// Indexed by the bit that follows the prefix; 0: no child.
    children: [u32; 2],
    /// `NOTHING`: the node is only a fork.
    value: u32,
}

/// Marks a node without a value; callers must not use it as a value.
const NOTHING: u32 = u32::MAX;

impl<B> Default for Radix<B> {
    fn default() -> Self {
        Self { nodes: Vec::new() }
    }
}

impl<B: Bits> Radix<B> {
    /// Sets the value of the first `length` bits of `prefix`. Returns the previous value.
    pub fn insert(&mut self, prefix: B, length: u8, value: u32) -> Option<u32> {
        let length = length.min(B::COUNT);
        let prefix = prefix.first(length);
        if self.nodes.is_empty() {
            self.nodes.push(Node::fork(prefix.first(0), 0));
        }
        let mut at = 0;
        loop {
            let node = self.nodes[at];
            if node.length == length {
                let before = std::mem::replace(&mut self.nodes[at].value, value);
                return (before != NOTHING).then_some(before);
            }
            // the prefix begins with that of the node, and is longer
            let side = usize::from(prefix.bit(node.length));
            let Some(child) =
                self.nodes.get(node.children[side] as usize).filter(|_| node.children[side] > 0)
            else {
                self.nodes[at].children[side] = self.push(Node { value, ..Node::fork(prefix, length) });
                return None;
            };
            let shared = prefix.common(child.prefix).min(length).min(child.length);
            if shared < child.length {
                let mut fork = Node::fork(prefix.first(shared), shared);
                fork.children[usize::from(child.prefix.bit(shared))] = node.children[side];
                self.nodes[at].children[side] = self.push(fork);
            }
            at = self.nodes[at].children[side] as usize;
        }
    }

    /// Removes the value of exactly this prefix and returns it.
    pub fn remove(&mut self, prefix: B, length: u8) -> Option<u32> {
        let mut at = 0;
        loop {
            let node = self.nodes.get_mut(at)?;
            if node.length >= length || node.prefix != prefix.first(node.length) {
                let is_it =
                    node.length == length && node.prefix == prefix.first(length) && node.value != NOTHING;
                return is_it.then(|| std::mem::replace(&mut node.value, NOTHING));
            }
            match node.children[usize::from(prefix.bit(node.length))] {
                0 => return None,
                child => at = child as usize,
            }
        }
    }

    /// The value of the longest prefix of an address.
    pub fn find(&self, address: B) -> Option<u32> {
        let mut best = None;
        let mut at = 0;
        while let Some(node) = self.nodes.get(at).filter(|node| node.prefix == address.first(node.length)) {
            if node.value != NOTHING {
                best = Some(node.value);
            }
            if node.length == B::COUNT {
                break;
            }
            at = match node.children[usize::from(address.bit(node.length))] {
                0 => break,
                child => child as usize,
            };
        }
        best
    }

    /// Releases the spare capacity, once the tree is filled.
    pub fn shrink(&mut self) {
        self.nodes.shrink_to_fit();
    }

    fn push(&mut self, node: Node<B>) -> u32 {
        self.nodes.push(node);
        (self.nodes.len() - 1) as u32
    }
}

impl<B> Node<B> {
    fn fork(prefix: B, length: u8) -> Self {
        Self { prefix, length, children: [0; 2], value: NOTHING }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_prefix_is_found() {
        let mut tree = Radix::default();
        for (prefix, length, value) in
            [(0, 0, 0), (0x0a00_0000, 8, 1), (0x0a01_0000, 16, 2), (0x0a01_0203_u32, 32, 3)]
        {
            assert_eq!(tree.insert(prefix, length, value), None);
        }
        for (address, expected) in
            [(0x0900_0001, 0), (0x0a02_0001, 1), (0x0a01_0204, 2), (0x0a01_0203, 3), (u32::MAX, 0)]
        {
            assert_eq!(tree.find(address), Some(expected), "{address:x}");
        }
        assert_eq!(tree.insert(0x0aff_ffff, 8, 9), Some(1));
        assert_eq!(tree.remove(0x0a01_0000, 16), Some(2));
        assert_eq!(tree.remove(0x0a01_0000, 16), None);
        assert_eq!(tree.find(0x0a01_0204), Some(9));
        assert_eq!(Radix::<u128>::default().find(1), None);
    }

    #[test]
    fn it_does_what_a_list_of_prefixes_does() {
        let step = (any::<bool>(), 0u8..16, 0u8..=32);
        proptest!(|(steps in prop::collection::vec(step, 0..40), asked in prop::collection::vec(any::<u8>(), 8))| {
            // few different bits, at the beginning and at the end
            let spread = |bits: u8| (u32::from(bits) & 3) << 30 | u32::from(bits) >> 2 & 3;
            let mut tree = Radix::<u32>::default();
            let mut list: Vec<(u32, u8, u32)> = Vec::new();
            for (number, (is_added, bits, length)) in steps.into_iter().enumerate() {
                let prefix = spread(bits).first(length);
                let there = list.iter().position(|entry| (entry.0, entry.1) == (prefix, length));
                let before = there.map(|index| list.swap_remove(index).2);
                if is_added {
                    list.push((prefix, length, number as u32));
                    prop_assert_eq!(tree.insert(spread(bits), length, number as u32), before);
                } else {
                    prop_assert_eq!(tree.remove(prefix, length), before);
                }
            }
            for address in asked.into_iter().map(spread) {
                let fits = list.iter().filter(|entry| address.first(entry.1) == entry.0);
                prop_assert_eq!(tree.find(address), fits.max_by_key(|entry| entry.1).map(|entry| entry.2));
            }
        });
    }
}
