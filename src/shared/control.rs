//! Orders of operators, as they travel from the process that serves the operator to the master, and their answers.
//!
//! Pure data and text. The master carries out an order and answers it; nothing that a worker can read by itself is an
//! order.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::base::frame::{Fields, put_vector16};
use crate::runtime::channel::{OnceReceiver, OnceSender, oneshot};
use crate::shared::keyvals::{self, Change};
use crate::upstream::edits::{Edit, LINE_BYTES_MAX, Part};

/// Maximum number of orders of one process that the master has not answered.
pub const ORDERS_MAX: usize = 64;
/// The longest name of an upstream in an order.
pub const NAME_BYTES_MAX: usize = 1024;
/// The longest answer that a process waits for; what is longer is cut.
pub const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A request to the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Change a server of the upstream of this name.
    Edit { part: Part, upstream: Box<str>, edit: Edit, by: Operator },
    /// Change the key-value zone of this name.
    Keyval { part: Part, zone: Box<str>, change: Change, by: Operator },
    /// Read the configuration again, and say what came of it.
    Reload { by: Operator },
    /// List the clients' connections of all workers.
    Connections,
    /// End a connection of the worker with this process id.
    End { pid: u32, id: u64, by: Operator },
    /// Say which processes there are.
    Processes,
    /// Say what is different from the configuration.
    Differences,
}

/// The orders that a configuration lets the clients of its workers give.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allowed {
    /// None: no location has `api`.
    #[default]
    Nothing,
    /// [`Order::Processes`], which `api` shows.
    Processes,
    /// All: some location has `api write=on`.
    Changes,
}

/// The process that gave an order, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operator {
    /// The process and user at the other end of a unix socket; 0 for other connections.
    pub pid: u32,
    /// `u32::MAX`: unknown.
    pub uid: u32,
}

impl Operator {
    /// A client whose process is not known.
    pub const UNKNOWN: Self = Self { pid: 0, uid: u32::MAX };
}

impl std::fmt::Display for Operator {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.pid, self.uid) {
            (_, u32::MAX) => write!(out, "a client"),
            (pid, uid) => write!(out, "process {pid} of user {uid}"),
        }
    }
}

/// The answer to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// An HTTP status.
    pub status: u16,
    /// JSON, or the text of an error.
    pub body: Vec<u8>,
}

impl Order {
    /// The least that a configuration must allow for the clients of its workers to give it.
    pub fn needs(&self) -> Allowed {
        match self {
            Self::Processes => Allowed::Processes,
            _ => Allowed::Changes,
        }
    }
}

/// An order whose texts are not too long. Only such orders travel, so that none is cut on its way and names another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sendable(Order);

impl Sendable {
    /// # Errors
    /// The limit of a text that is too long, for the operator.
    pub fn new(order: Order) -> Result<Self, String> {
        let limit = |what: &str, length: usize, max: usize| match length <= max {
            true => Ok(()),
            false => Err(format!("{what} has at most {max} bytes")),
        };
        match &order {
            Order::Edit { upstream, edit, .. } => {
                limit("the name of an upstream", upstream.len(), NAME_BYTES_MAX)?;
                let line = match edit {
                    Edit::Add { line } | Edit::Set { line, .. } => line.len(),
                    Edit::Remove { .. } => 0,
                };
                limit("a server's line", line, LINE_BYTES_MAX)?;
            }
            Order::Keyval { zone, change, .. } => {
                limit("the name of a zone", zone.len(), keyvals::NAME_BYTES_MAX)?;
                change.check()?;
            }
            Order::Reload { .. }
            | Order::Connections
            | Order::End { .. }
            | Order::Processes
            | Order::Differences => {}
        }
        Ok(Self(order))
    }

    pub fn order(&self) -> &Order {
        &self.0
    }

    pub fn into_order(self) -> Order {
        self.0
    }

    /// Appends it to the payload of a message.
    pub fn write(&self, out: &mut Vec<u8>) {
        fn operator(out: &mut Vec<u8>, by: Operator) {
            out.extend_from_slice(&by.pid.to_le_bytes());
            out.extend_from_slice(&by.uid.to_le_bytes());
        }
        match &self.0 {
            Order::Edit { part, upstream, edit, by } => {
                let (tag, id, line) = match edit {
                    Edit::Add { line } => (b'a', 0, &**line),
                    Edit::Set { id, line } => (b's', *id, &**line),
                    Edit::Remove { id } => (b'r', *id, ""),
                };
                out.push(tag);
                operator(out, *by);
                out.push(u8::from(*part == Part::Stream));
                put_vector16(out, upstream.as_bytes());
                if tag != b'a' {
                    out.extend_from_slice(&id.to_le_bytes());
                }
                if tag != b'r' {
                    put_vector16(out, line.as_bytes());
                }
            }
            Order::Keyval { part, zone, change, by } => {
                out.push(b'k');
                operator(out, *by);
                out.push(u8::from(*part == Part::Stream));
                put_vector16(out, zone.as_bytes());
                change.write(out);
            }
            Order::Reload { by } => {
                out.push(b'l');
                operator(out, *by);
            }
            Order::Connections => out.push(b'c'),
            Order::End { pid, id, by } => {
                out.push(b'e');
                operator(out, *by);
                out.extend_from_slice(&pid.to_le_bytes());
                out.extend_from_slice(&id.to_le_bytes());
            }
            Order::Processes => out.push(b'p'),
            Order::Differences => out.push(b'd'),
        }
    }

    /// Reads a whole payload; `None` unless it is exactly one order.
    pub fn read(mut fields: Fields<'_>) -> Option<Self> {
        fn text<'a>(fields: &mut Fields<'a>, max: usize) -> Option<&'a str> {
            std::str::from_utf8(fields.vector16().filter(|bytes| bytes.len() <= max)?).ok()
        }
        fn operator(fields: &mut Fields<'_>) -> Option<Operator> {
            Some(Operator { pid: fields.u32()?, uid: fields.u32()? })
        }
        let order = match fields.u8()? {
            tag @ (b'a' | b's' | b'r') => {
                let by = operator(&mut fields)?;
                let part = if fields.flag()? { Part::Stream } else { Part::Http };
                let upstream = text(&mut fields, NAME_BYTES_MAX)?.into();
                let id = if tag == b'a' { 0 } else { fields.u32()? };
                let line = if tag == b'r' { "" } else { text(&mut fields, LINE_BYTES_MAX)? }.into();
                let edit = match tag {
                    b'a' => Edit::Add { line },
                    b's' => Edit::Set { id, line },
                    _ => Edit::Remove { id },
                };
                Order::Edit { part, upstream, edit, by }
            }
            b'k' => {
                let by = operator(&mut fields)?;
                let part = if fields.flag()? { Part::Stream } else { Part::Http };
                let zone = text(&mut fields, keyvals::NAME_BYTES_MAX)?.into();
                Order::Keyval { part, zone, change: Change::read(&mut fields)?, by }
            }
            b'l' => Order::Reload { by: operator(&mut fields)? },
            b'c' => Order::Connections,
            b'e' => {
                let by = operator(&mut fields)?;
                Order::End { pid: fields.u32()?, id: fields.u64()?, by }
            }
            b'p' => Order::Processes,
            b'd' => Order::Differences,
            _ => return None,
        };
        fields.end(Self(order))
    }
}

/// The orders of a process that wait to be sent, and those that wait for their answers.
///
/// A copy is one pointer to the same orders.
#[derive(Clone, Default)]
pub struct Desk(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    /// `None`: nobody carries orders out.
    send: Option<Box<dyn Fn(u32, Sendable)>>,
    last: u32,
    waiting: HashMap<u32, Waiting>,
}

struct Waiting {
    to: OnceSender<Answer>,
    body: Vec<u8>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Desk({})", self.0.borrow().waiting.len())
    }
}

impl Desk {
    /// `send` puts an order on its way to the master.
    pub fn new(send: impl Fn(u32, Sendable) + 'static) -> Self {
        let inner = Inner { send: Some(Box::new(send)), ..Inner::default() };
        Self(Rc::new(RefCell::new(inner)))
    }

    /// Gives an order, and waits for the answer: 400 if one of its texts is too long.
    pub async fn give(&self, order: Order) -> Answer {
        let unavailable = |why: &str| Answer { status: 503, body: why.as_bytes().to_vec() };
        let order = match Sendable::new(order) {
            Ok(order) => order,
            Err(why) => return Answer { status: 400, body: why.into_bytes() },
        };
        match self.send(order) {
            Ok(receiver) => receiver.recv().await.unwrap_or_else(|| unavailable("the master is gone")),
            Err(why) => unavailable(why),
        }
    }

    fn send(&self, order: Sendable) -> Result<OnceReceiver<Answer>, &'static str> {
        let mut inner = self.0.borrow_mut();
        if inner.send.is_none() {
            return Err("there is no master process that could do it");
        }
        if inner.waiting.len() >= ORDERS_MAX {
            return Err("too many changes wait for the master");
        }
        inner.last = inner.last.wrapping_add(1);
        let number = inner.last;
        let (to, receiver) = oneshot();
        inner.waiting.insert(number, Waiting { to, body: Vec::new() });
        if let Some(send) = &inner.send {
            send(number, order);
        }
        Ok(receiver)
    }

    /// Takes a part of an answer.
    pub fn hear(&self, number: u32, status: u16, is_last: bool, part: &[u8]) {
        let mut inner = self.0.borrow_mut();
        let Some(waiting) = inner.waiting.get_mut(&number) else { return };
        let room = ANSWER_BYTES_MAX - waiting.body.len();
        waiting.body.extend_from_slice(&part[..part.len().min(room)]);
        if is_last && let Some(Waiting { to, body }) = inner.waiting.remove(&number) {
            drop(inner);
            let _ = to.send(Answer { status, body }); // the client may be gone
        }
    }

    /// Ends the wait of all: the master is gone.
    pub fn close(&self) {
        let mut inner = self.0.borrow_mut();
        inner.send = None;
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        drop(waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{self, Runtime};
    use crate::script::keyval::table::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
    use crate::shared::keyvals::NewPair;

    fn orders() -> Vec<Order> {
        let by = Operator { pid: 7, uid: 1000 };
        let keyval = |change| Order::Keyval { part: Part::Http, zone: "z".into(), change, by };
        let edit = |edit| Order::Edit { part: Part::Stream, upstream: "u".into(), edit, by };
        vec![
            edit(Edit::Add { line: "10.0.0.1:80 weight=2".into() }),
            edit(Edit::Set { id: 3, line: "10.0.0.1:80 down".into() }),
            edit(Edit::Remove { id: u32::MAX }),
            keyval(Change::Set(NewPair { key: "k".into(), value: None, expire_ms: Some(u64::MAX) })),
            keyval(Change::Set(NewPair { key: "".into(), value: Some("".into()), expire_ms: None })),
            keyval(Change::Remove("k".into())),
            keyval(Change::Clear),
            Order::Reload { by: Operator::UNKNOWN },
            Order::Processes,
            Order::Connections,
            Order::End { pid: 7, id: u64::MAX, by },
            Order::Differences,
        ]
    }

    #[test]
    fn an_order_is_read_as_it_was_written_and_no_part_of_it_is_one() {
        for order in orders() {
            let order = Sendable::new(order).expect("short texts");
            let mut bytes = Vec::new();
            order.write(&mut bytes);
            assert_eq!(Sendable::read(Fields(&bytes)), Some(order.clone()));
            for length in 0..bytes.len() {
                assert_eq!(Sendable::read(Fields(&bytes[..length])), None, "{order:?} {length}");
            }
            bytes.push(0);
            assert_eq!(Sendable::read(Fields(&bytes)), None);
        }
    }

    #[test]
    fn several_pairs_travel_in_one_order() {
        let pair = |key: &str| NewPair { key: key.into(), value: Some("v".into()), expire_ms: None };
        for pairs in [vec![], vec![pair("a")], vec![pair("a"), pair("b"), pair("c")]] {
            let change = Change::Add(pairs);
            let order = Order::Keyval { part: Part::Stream, zone: "z".into(), change, by: Operator::UNKNOWN };
            let order = Sendable::new(order).expect("short texts");
            let mut bytes = Vec::new();
            order.write(&mut bytes);
            assert_eq!(Sendable::read(Fields(&bytes)), Some(order));
        }
    }

    /// An address of which the end is cut off may be another server's.
    #[test]
    fn an_order_with_a_text_that_is_too_long_does_not_travel() {
        let by = Operator::UNKNOWN;
        let text = |length: usize| "x".repeat(length).into_boxed_str();
        let edit = |upstream, edit| Order::Edit { part: Part::Http, upstream, edit, by };
        let keyval = |zone, change| Order::Keyval { part: Part::Http, zone, change, by };
        let pair = |key, value| NewPair { key, value: Some(value), expire_ms: None };
        let (key, value, name) = (KEY_BYTES_MAX, VALUE_BYTES_MAX, keyvals::NAME_BYTES_MAX);
        let orders = |more: usize| {
            [
                edit(text(NAME_BYTES_MAX + more), Edit::Remove { id: 1 }),
                edit("u".into(), Edit::Add { line: text(LINE_BYTES_MAX + more) }),
                edit("u".into(), Edit::Set { id: 1, line: text(LINE_BYTES_MAX + more) }),
                keyval(text(name + more), Change::Clear),
                keyval("z".into(), Change::Remove(text(key + more))),
                keyval("z".into(), Change::Set(pair(text(key + more), "v".into()))),
                keyval("z".into(), Change::Set(pair("k".into(), text(value + more)))),
                keyval("z".into(), Change::Add(vec![pair("k".into(), text(value + more))])),
            ]
        };
        for order in orders(0) {
            let order = Sendable::new(order).expect("as long as it may be");
            let mut bytes = Vec::new();
            order.write(&mut bytes);
            assert_eq!(Sendable::read(Fields(&bytes)), Some(order));
        }
        for order in orders(1) {
            let refused = Sendable::new(order.clone()).expect_err("too long");
            assert!(refused.contains("at most"), "{refused}");
            Runtime::new().expect("a loop").block_on(async {
                let desk = Desk::new(|_, _| panic!("it was sent"));
                assert_eq!(desk.give(order).await, Answer { status: 400, body: refused.into_bytes() });
            });
        }
        let pairs = vec![pair("k".into(), text(1000)); keyvals::PAIRS_BYTES_MAX / 1000 + 1];
        assert!(Sendable::new(keyval("z".into(), Change::Add(pairs))).is_err());
    }

    #[test]
    fn an_answer_comes_in_parts() {
        let sent = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&sent);
        let desk = Desk::new(move |number, order| log.borrow_mut().push((number, order)));
        Runtime::new().expect("a loop").block_on(async move {
            let other = desk.clone();
            runtime::spawn(async move {
                let numbers: Vec<u32> = sent.borrow().iter().map(|(number, _)| *number).collect();
                assert_eq!(numbers, [1]);
                other.hear(9, 200, true, b"nobody's");
                other.hear(1, 200, false, b"one ");
                other.hear(1, 201, true, b"two");
            });
            let answer = desk.give(Order::Processes).await;
            assert_eq!(answer, Answer { status: 201, body: b"one two".to_vec() });
        });
    }

    #[test]
    fn without_a_master_and_beyond_the_limit_orders_are_refused() {
        Runtime::new().expect("a loop").block_on(async {
            assert_eq!(Desk::default().give(Order::Processes).await.status, 503);
            let desk = Desk::new(|_, _| {});
            let waiting: Vec<_> = (0..ORDERS_MAX).map(|_| desk.send(Sendable(Order::Processes))).collect();
            assert!(waiting.iter().all(Result::is_ok));
            assert_eq!(desk.give(Order::Processes).await.status, 503);
            desk.close();
            for receiver in waiting.into_iter().flatten() {
                assert!(receiver.recv().await.is_none());
            }
        });
    }
}
