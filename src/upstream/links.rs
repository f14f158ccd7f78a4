//! The connections of a group that requests share (`link.rs`): finding one with room, and which idle ones are kept.
//!
//! Requests that come while a connection to the same peer is being opened wait for it, instead of opening one each. As
//! in the pool of the connections that serve one request at a time (`pool.rs`), `keepalive` says how many idle ones a
//! worker keeps; with `keepalive 0` each serves one request. A server without an `upstream` block has none that are idle, as
//! in nginx.
//! Behaviour: nginx.org, `keepalive` of ngx_http_upstream_module.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::net::tls::client::Terms;
use crate::upstream::group::{Group, Keepalive};
use crate::upstream::link::{Link, Opened, Stream};
use crate::upstream::peer::Peer;
use crate::upstream::pool::{Tag, are_equal};

thread_local! {
    /// The shared connections of all groups, for times when the worker is short of them.
    static ALL: RefCell<Vec<Weak<Links>>> = const { RefCell::new(Vec::new()) };
}

/// A connection that is being opened, for which others wait.
#[derive(Debug)]
struct Coming {
    address_id: u32,
    tag: Tag,
    terms: Option<Arc<Terms>>,
    wakers: Vec<Waker>,
    /// Tells it apart from others.
    number: u64,
    waiting_count: usize,
}

/// The shared connections of one group in one worker.
#[derive(Debug, Default)]
pub struct Links {
    list: RefCell<Vec<Rc<Link>>>,
    coming: RefCell<Vec<Coming>>,
    next_number: Cell<u64>,
    idle_max: Cell<usize>,
}

impl Links {
    /// A stream of a connection to `peer` on these terms that has room for it.
    pub fn take(&self, peer: &Rc<Peer>, tag: Tag, terms: Option<&Arc<Terms>>) -> Option<Stream> {
        let list = self.list.borrow();
        list.iter().rev().find(|link| link.fits(peer, tag, terms)).map(Link::join)
    }

    /// Announces that a connection to `peer` is being opened, which others may wait for; or waits for one that is. `None`
    /// after a wait: look again, and open one if there is still none.
    pub async fn announce(
        self: &Rc<Self>,
        peer: &Peer,
        tag: Tag,
        terms: Option<&Arc<Terms>>,
        keepalive: &Keepalive,
    ) -> Option<Announced> {
        let found = {
            let mut coming = self.coming.borrow_mut();
            let is_it = |other: &&mut Coming| {
                other.address_id == peer.address_id
                    && other.tag.fits(tag, keepalive.local)
                    && are_equal(other.terms.as_ref(), terms)
                    && other.waiting_count + 1 < keepalive.streams_max as usize
            };
            coming.iter_mut().find(is_it).map(|other| {
                other.waiting_count += 1;
                other.number
            })
        };
        let Some(number) = found else {
            let number = self.next_number.get();
            self.next_number.set(number + 1);
            let (address_id, terms) = (peer.address_id, terms.cloned());
            let new = Coming { address_id, tag, terms, wakers: Vec::new(), number, waiting_count: 0 };
            self.coming.borrow_mut().push(new);
            return Some(Announced { links: Rc::clone(self), number });
        };
        poll_fn(|cx| {
            let mut coming = self.coming.borrow_mut();
            match coming.iter_mut().find(|other| other.number == number) {
                Some(other) => {
                    other.wakers.push(cx.waker().clone());
                    Poll::Pending
                }
                None => Poll::Ready(None),
            }
        })
        .await
    }

    /// Adds a connection that was opened, for the request that has opened it and for others.
    pub fn add(self: &Rc<Self>, opened: Opened, group: &Group) -> Stream {
        if self.list.borrow().is_empty() {
            super::pool::watch_shortage();
            ALL.with_borrow_mut(|all| {
                all.retain(|links| {
                    links.strong_count() > 0 && !std::ptr::eq(links.as_ptr(), &raw const **self)
                });
                all.push(Rc::downgrade(self));
            });
        }
        self.idle_max.set(group.keepalive.idle_max);
        let link = Link::start(opened, group, self);
        let stream = link.join();
        self.list.borrow_mut().push(link);
        stream
    }

    /// Forgets a connection that has ended.
    pub(super) fn forget(&self, link: &Rc<Link>) {
        let mut list = self.list.borrow_mut();
        let gone = list.iter().position(|known| Rc::ptr_eq(known, link)).map(|index| list.remove(index));
        drop(list);
        drop(gone);
    }

    /// Closes the longest idle connections beyond `keepalive`.
    pub(super) fn close_excess(&self) {
        while self.idle().count() > self.idle_max.get() && self.close_oldest() {}
    }

    /// Closes the connections to retired peers, as soon as no request uses them.
    pub(super) fn close_retired(&self) {
        let retired: Vec<Rc<Link>> =
            self.list.borrow().iter().filter(|link| link.is_retired()).map(Rc::clone).collect();
        retired.iter().for_each(|link| link.retire());
    }

    fn idle(&self) -> impl Iterator<Item = Rc<Link>> {
        let idle: Vec<Rc<Link>> =
            self.list.borrow().iter().filter(|link| link.is_idle()).map(Rc::clone).collect();
        idle.into_iter()
    }

    fn close_oldest(&self) -> bool {
        let oldest = self.idle().min_by_key(|link| link.idle_since_ms());
        oldest.inspect(|link| link.retire()).is_some()
    }
}

/// A connection that is being opened. Dropping it tells those that wait.
#[derive(Debug)]
pub struct Announced {
    links: Rc<Links>,
    number: u64,
}

impl Drop for Announced {
    fn drop(&mut self) {
        let mut coming = self.links.coming.borrow_mut();
        let Some(index) = coming.iter().position(|other| other.number == self.number) else { return };
        let gone = coming.remove(index);
        drop(coming);
        gone.wakers.into_iter().for_each(Waker::wake);
    }
}

/// Closes up to `count` idle connections, one of each group in turn. Returns the number closed.
pub(super) fn close_idle(count: usize) -> usize {
    let groups: Vec<Rc<Links>> = ALL.with_borrow(|all| all.iter().filter_map(Weak::upgrade).collect());
    groups.iter().take(count).filter(|links| links.close_oldest()).count()
}
