//! One subrequest for the keys of a place at a time: requests that come while it is under way wait for its keys.
//!
//! If it brings none, those that waited ask on their own, at once: it may have failed because of its own request, which they
//! must not pay for. If its client leaves, the next one takes its turn. Touches: a worker's memory of who waits.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};

use super::{Cache, Check, Place, ask, kept};
use crate::http::request::Request;
use crate::http::verdict::{Then, Verdict, Work};
use crate::runtime::blocking::Lane;
use crate::runtime::channel::{OnceReceiver, OnceSender, oneshot};

/// The most requests that wait for one place's keys; further ones ask on their own.
const WAITING_MAX: usize = 4096;

/// The end of a wait.
enum Told {
    /// The keys are there, or cannot be had.
    Over,
    /// The request that asked is gone: this one asks.
    Turn(Turn),
}

thread_local! {
    /// The requests that wait, by the place that one of them asks.
    static WAITING: RefCell<HashMap<Place, VecDeque<OnceSender<Told>>>> = RefCell::default();
}

/// The right to ask a place. Dropping it passes it on to a request that waits.
pub(super) struct Turn(Option<Place>);

impl Turn {
    /// Ends all waits.
    pub(super) fn end(mut self) {
        let Some(place) = self.0.take() else { return };
        let list = WAITING.with_borrow_mut(|all| all.remove(&place)).unwrap_or_default();
        list.into_iter().for_each(|waiting| _ = waiting.send(Told::Over));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(place) = self.0.take() else { return };
        // `Err`: the thread ends.
        while let Ok(Some(next)) = WAITING.try_with(|all| {
            let mut all = all.borrow_mut();
            let next = all.get_mut(&place)?.pop_front();
            if next.is_none() {
                all.remove(&place);
            }
            next
        }) {
            match next.send(Told::Turn(Self(Some(place.clone())))) {
                Ok(()) => return,
                // Its client is gone, too.
                Err(Told::Turn(mut turn)) => turn.0 = None,
                Err(Told::Over) => {}
            }
        }
    }
}

/// Asks for the keys, or waits for those that another request asks for.
pub(super) fn ask_once(check: Check, cache: Cache) -> Verdict {
    let joined = WAITING.with_borrow_mut(|all| {
        let Some(list) = all.get_mut(&cache.place) else {
            all.insert(cache.place.clone(), VecDeque::new());
            return Some(None);
        };
        if list.len() >= WAITING_MAX {
            return None;
        }
        let (sender, receiver) = oneshot();
        list.push_back(sender);
        Some(Some(receiver))
    });
    match joined {
        Some(Some(receiver)) => wait(check, cache, receiver),
        Some(None) => {
            let turn = Some(Turn(Some(cache.place.clone())));
            ask(check, Cache { turn, ..cache })
        }
        None => ask(check, cache),
    }
}

fn wait(check: Check, cache: Cache, receiver: OnceReceiver<Told>) -> Verdict {
    let run = async move {
        let turn = match receiver.recv().await {
            Some(Told::Turn(turn)) => Some(turn),
            Some(Told::Over) | None => None,
        };
        Box::new(move |request: &mut Request| go_on(request, check, Cache { turn, ..cache })) as Then
    };
    Work { run: Box::pin(run), lane: Lane::Files }.into()
}

/// Goes on with the keys that are kept now, or asks for them.
fn go_on(request: &mut Request, mut check: Check, cache: Cache) -> Verdict {
    match kept(&cache.place, cache.ms) {
        Some(keys) => {
            cache.turn.into_iter().for_each(Turn::end);
            check.sets.push(keys);
            check.proceed(request)
        }
        None => ask(check, cache),
    }
}
