//! Peers that follow each other at one address: a server that is changed while serving gets another peer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::upstream::peer::Peer;

/// The end of a peer's time in its group.
#[derive(Debug, Default)]
pub struct Succession {
    is_over: Cell<bool>,
    successor: RefCell<Option<Rc<Peer>>>,
}

impl Succession {
    /// Ends the peer's time: its connections are not kept any more. `successor`: the peer at its address from now on, if its
    /// server was changed and not removed.
    pub fn end(&self, successor: Option<Rc<Peer>>) {
        self.is_over.set(true);
        self.successor.replace(successor);
    }

    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// The peer at this address now, or the last one there was; `None`: this one has no successor.
    pub fn latest(&self) -> Option<Rc<Peer>> {
        let mut latest = self.successor.borrow().clone()?;
        loop {
            let next = latest.succession.successor.borrow().clone();
            match next {
                Some(next) => latest = next,
                None => break,
            }
        }
        // Next time it is found at once.
        self.successor.replace(Some(Rc::clone(&latest)));
        Some(latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::tests::peers;

    #[test]
    fn sessions_go_on_with_a_server_that_was_changed_until_it_is_lost() {
        let peers = peers(3, |_, _| {});
        let is_lost = || [0, 1, 2].map(|index| peers[index].is_lost(1000));
        peers[0].succession.end(Some(Rc::clone(&peers[1])));
        peers[1].succession.end(Some(Rc::clone(&peers[2])));
        assert_eq!(is_lost(), [false; 3]);
        assert!(peers[0].is_retired() && peers[1].is_retired() && !peers[2].is_retired());
        peers[2].succession.end(None);
        assert_eq!(is_lost(), [true; 3]);
    }
}
