//! A request on its way to an upstream: what to send, in which order, and whether it can be sent again.
//!
//! Touches: the client's socket for the body, the upstream's for the whole request. Bounded: the head, the
//! part of the body that was read before an upstream was chosen, and then one piece at a time. The protocol's
//! encoder makes its bytes (`codec.rs`).

use std::future::poll_fn;
use std::io::IoSlice;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use crate::base::in_place::boxed;
use crate::base::path::{Escape, escape_uri};
use crate::http::config::location::Kind;
use crate::http::downstream::Downstream;
use crate::http::request::Request;
use crate::http::request::body::Body;
use crate::http::request::body_file;
use crate::http::request::error::{self, Error};
use crate::http::temp_file::TempFile;
use crate::http::upstream::codec::{Decoder, Encoder, FRAME_HEAD_BYTES, Framing};
use crate::http::upstream::conf::Conf;
use crate::http::upstream::failover;
use crate::http::upstream::retry::is_non_idempotent;
use crate::http::upstream::target::Goal;
use crate::net::Transport;
use crate::proto::message::BodyLength;
use crate::sys::transfer::Pipe;

mod stream;

/// Maximum bytes of one `sendfile`, so that other connections get their turn.
const SENDFILE_BYTES: u64 = 2 * 1024 * 1024;

/// A remaining body of at least this length is moved inside the kernel. Shorter ones are read at once, and
/// copying is cheaper.
const MOVE_BYTES_MIN: u64 = 256 * 1024;

/// The source of the body after the bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    /// The file into which the client's body was read.
    File,
    /// The same, each piece in a frame.
    FramedFile,
    /// The client's body, unframed, as it arrives.
    Plain,
    /// The client's body, each piece in a frame.
    Framed,
}

/// A frame whose payload is part of a file.
#[derive(Clone, Copy, Debug)]
struct Frame {
    head: [u8; 8],
    head_sent: u8,
    /// How much of its payload is to be sent.
    left: u64,
    /// It ends the body.
    is_last: bool,
}

impl Default for Frame {
    /// One that is sent, before the first one.
    fn default() -> Self {
        Self { head: [0; 8], head_sent: 8, left: 0, is_last: false }
    }
}

impl Frame {
    fn head_left(self) -> usize {
        self.head.len().saturating_sub(usize::from(self.head_sent))
    }

    /// True once the end of the body has been sent.
    fn is_end(self) -> bool {
        self.is_last && self.head_left() == 0
    }
}

/// A request on its way to an upstream.
///
/// Prepared once per pass, then sent to one peer after another until one answers: [`Outgoing::rewind`] starts
/// again, as long as [`Outgoing::can_repeat`] says that no part of the body is lost. The exchange polls it
/// while it waits for the response head, the relay for the rest of a body that is still being sent.
#[derive(Debug)]
pub struct Outgoing {
    encoder: Encoder,
    /// The head and the part of the body that is kept for another try; later one frame.
    bytes: Vec<u8>,
    at: usize,
    /// How many of them are the head.
    head_bytes: usize,
    has_body: bool,
    /// A stream carries it, and has not been ended.
    needs_end: bool,
    /// A part of the body's file for a stream, and how much of it was sent.
    piece: (Vec<u8>, usize),
    /// The part of the client's body in `bytes` that is kept; `None`: the body has not been touched.
    kept: Option<Range<usize>>,
    rest: Rest,
    /// The part of the body's file that is still to be sent.
    file_left: Range<u64>,
    /// The frame of the file that is being sent.
    frame: Frame,
    /// Moves a long body inside the kernel.
    pipe: Option<Pipe>,
    /// No pipe was available: the body is copied.
    is_copied: bool,
    /// Bytes of the body have been sent without being kept: the request cannot be sent again.
    is_spent: bool,
    /// The peer does not want the rest. The request can be sent to another one all the same.
    is_stopped: bool,
    /// Sending waits for the upstream's socket, not for the client's.
    pub waits_for_upstream: bool,
    /// Bytes sent on the current connection.
    pub sent: u64,
}

/// The side that stopped the sending.
#[derive(Debug)]
pub enum SendFault {
    Client(Error),
    Upstream(std::io::Error),
}

impl Outgoing {
    /// True if some of the client's body may have to be read before the request can be built.
    #[inline]
    pub fn reads_body(request: &Request) -> bool {
        matches!(request.body.offered(), BodyLength::Length(_) | BodyLength::Chunked)
            && request.body.file().is_none()
    }

    /// Builds the request's head, after reading as much of its body as may be kept.
    ///
    /// Errors: those of reading the client's body, and of writing it to a file.
    pub async fn prepare(
        request: &mut Request,
        client: Downstream<'_>,
        goal: &Goal,
    ) -> Result<Box<Self>, Error> {
        if !Self::reads_body(request) {
            return Self::without_reading(request, goal);
        }
        let takes_body = takes_body(request.passes());
        let mut declared = request.body.offered();
        let mut kept = Vec::new();
        let mut is_complete = true;
        // A request that has become a GET keeps the body as long as it is available.
        let is_optional = request.body.is_optional() || request.method != request.head.method;
        match request.body.take_kept() {
            Some(taken) => kept = taken,
            None if is_optional => declared = BodyLength::None,
            None if takes_body => return Err(Error::upstream(error::Kind::BodySpent)),
            None => {}
        }
        if declared != BodyLength::None {
            is_complete = read_body(request, client, goal, takes_body, &mut kept).await?;
        }
        Self::build(request, goal, declared, kept, is_complete)
    }

    /// The same for a request without a body, or with one that is in a file.
    pub fn without_reading(request: &mut Request, goal: &Goal) -> Result<Box<Self>, Error> {
        let declared = request.body.offered();
        Self::build(request, goal, declared, Vec::new(), true)
    }

    /// Builds the request of what has been read of the body: `kept`, which is all of it if `is_complete`.
    #[inline]
    fn build(
        request: &mut Request,
        goal: &Goal,
        declared: BodyLength,
        mut kept: Vec<u8>,
        is_complete: bool,
    ) -> Result<Box<Self>, Error> {
        let conf = request.passes();
        let takes_body = takes_body(conf);
        let file_length = request.body.file().map(TempFile::len);
        let (framing, rest) = if takes_body {
            match (declared, file_length) {
                (_, Some(length)) => (Framing::Length(length), Rest::File),
                (BodyLength::None | BodyLength::UntilClose, _) => (Framing::None, Rest::Nothing),
                _ if is_complete => (Framing::Length(kept.len() as u64), Rest::Nothing),
                (BodyLength::Length(length), _) => (Framing::Length(length), Rest::Plain),
                (BodyLength::Chunked, _) => (Framing::Framed, Rest::Framed),
            }
        } else {
            if declared != BodyLength::None {
                request.body.keep(Some(std::mem::take(&mut kept)));
            }
            match conf.own_body() {
                Some(body) => {
                    body.evaluate(request, &mut kept);
                    (Framing::Length(kept.len() as u64), Rest::Nothing)
                }
                None => (Framing::None, Rest::Nothing),
            }
        };
        let mut bytes = Vec::with_capacity(request.input.data().len() + kept.len() + 256);
        let encoder = Encoder::of(request.location);
        encoder.head(request, goal, framing, &mut bytes)?;
        let head_bytes = bytes.len();
        let is_framed = encoder.is_framed(framing);
        let rest = match rest {
            Rest::Plain if is_framed => Rest::Framed,
            Rest::File if is_framed => Rest::FramedFile,
            rest => rest,
        };
        let place = if is_framed && !kept.is_empty() {
            encoder.frame(&kept, &mut bytes)
        } else {
            let start = bytes.len();
            bytes.extend_from_slice(&kept);
            start..bytes.len()
        };
        if is_framed && rest == Rest::Nothing {
            encoder.finish(&mut bytes);
        }
        let has_body = !place.is_empty() || rest != Rest::Nothing;
        let kept = (takes_body && declared != BodyLength::None).then_some(place);
        let is_file = matches!(rest, Rest::File | Rest::FramedFile);
        let file_left = 0..if is_file { file_length.unwrap_or(0) } else { 0 };
        Ok(boxed(|| Self {
            encoder,
            bytes,
            at: 0,
            head_bytes,
            has_body,
            needs_end: encoder.has_streams(),
            piece: (Vec::new(), 0),
            kept,
            rest,
            file_left,
            frame: Frame::default(),
            pipe: None,
            is_copied: false,
            is_spent: false,
            is_stopped: false,
            waits_for_upstream: false,
            sent: 0,
        }))
    }

    /// The encoder of its bytes.
    pub fn encoder(&self) -> Encoder {
        self.encoder
    }

    /// A decoder for the response to it.
    #[inline]
    pub fn decoder(&self) -> Decoder {
        Decoder::new(self.encoder, &self.bytes)
    }

    /// True if it is more than a head, though perhaps the peer did not want the rest.
    pub fn has_body(&self) -> bool {
        self.has_body
    }

    /// True if everything has been sent, or the peer does not want the rest.
    pub fn is_done(&self) -> bool {
        if self.is_stopped {
            return true;
        }
        let has_rest = match self.rest {
            Rest::Nothing => false,
            Rest::File => !self.file_left.is_empty(),
            Rest::FramedFile if self.encoder.has_streams() => !self.file_left.is_empty(),
            Rest::FramedFile => !self.frame.is_end(),
            Rest::Plain | Rest::Framed => true,
        };
        self.at == self.bytes.len() && !has_rest && !self.needs_end
    }

    /// True if some of it may have reached the upstream.
    pub fn has_begun(&self) -> bool {
        self.sent > 0
    }

    /// The peer has not begun it, whatever was sent.
    pub fn unsend(&mut self) {
        self.sent = 0;
    }

    /// True if it can be sent again from the start.
    pub fn can_repeat(&self) -> bool {
        !self.is_spent
    }

    /// The same again, for a second server. Only for one without a [body](Outgoing::has_body).
    pub fn copy(&self) -> Box<Self> {
        debug_assert!(!self.has_body);
        Box::new(Self {
            encoder: self.encoder,
            bytes: self.bytes.clone(),
            at: 0,
            head_bytes: self.head_bytes,
            has_body: self.has_body,
            needs_end: self.encoder.has_streams(),
            piece: (Vec::new(), 0),
            kept: self.kept.clone(),
            rest: Rest::Nothing,
            file_left: 0..0,
            frame: Frame::default(),
            pipe: None,
            is_copied: false,
            is_spent: false,
            is_stopped: false,
            waits_for_upstream: false,
            sent: 0,
        })
    }

    /// Returns the part of the client's body that was read, for another location.
    pub fn give_back(mut self, body: &mut Body) {
        self.return_body(body);
    }

    /// Returns the same, for a request that is made anew.
    pub fn return_body(&mut self, body: &mut Body) {
        let Some(kept) = self.kept.take() else { return };
        body.keep((!self.is_spent).then(|| {
            self.bytes.truncate(kept.end);
            self.encoder.payload(self.bytes.split_off(kept.start))
        }));
    }

    /// Copies the client's body, if all of it is in memory, for the subrequests of a response.
    pub fn lend(&self, body: &mut Body) {
        if let Some(kept) = self.kept.clone()
            && self.rest == Rest::Nothing
        {
            body.keep(self.bytes.get(kept).map(|bytes| self.encoder.payload(bytes.to_vec())));
        }
    }

    /// Starts again from the beginning, for another connection.
    pub fn rewind(&mut self) {
        debug_assert!(self.can_repeat());
        (self.at, self.sent, self.file_left.start) = (0, 0, 0);
        self.needs_end = self.encoder.has_streams();
        self.piece.0.clear();
        self.frame = Frame::default();
        self.is_stopped = false;
    }

    /// Sends what is available, reading the client's body on the way. Ready when everything has been sent.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        upstream: &Transport,
        body: &mut Body,
        client: Downstream<'_>,
    ) -> Poll<Result<(), SendFault>> {
        if self.sent == 0 && self.rest == Rest::Plain && body.data().is_empty() {
            // one read, so that the head is not sent alone if the body has arrived
            if let Poll::Ready(Err(error)) = body.poll_data(client, cx) {
                return Poll::Ready(Err(SendFault::Client(error)));
            }
        }
        loop {
            self.waits_for_upstream = true;
            if let Some(data) = self.bytes.get(self.at..).filter(|data| !data.is_empty()) {
                // bytes of a streamed body that are in memory go out with the head
                let joined = if self.rest == Rest::Plain { body.data() } else { b"" };
                let slices = [IoSlice::new(data), IoSlice::new(joined)];
                let polled = match joined {
                    b"" => upstream.poll_write(cx, data),
                    _ => upstream.poll_write_vectored(cx, &slices),
                };
                let count = ready!(polled).map_err(SendFault::Upstream)?;
                let of_bytes = count.min(data.len());
                self.at += of_bytes;
                self.sent += count as u64;
                if count > of_bytes {
                    self.is_spent = true;
                    body.consume(count - of_bytes);
                }
                continue;
            }
            if self.is_done() {
                return Poll::Ready(Ok(()));
            }
            if self.rest == Rest::File {
                let count = ready!(self.poll_file(cx, upstream, body, SENDFILE_BYTES))?;
                self.file_left.start += count;
                self.sent += count;
                continue;
            }
            if self.rest == Rest::FramedFile {
                self.sent += ready!(self.poll_framed_file(cx, upstream, body))?;
                continue;
            }
            if self.rest == Rest::Framed {
                ready!(self.poll_frame(cx, body, client)).map_err(SendFault::Client)?;
                continue;
            }
            if self.begin_move(upstream, body, client) {
                self.sent += ready!(self.poll_move(cx, upstream, body, client))?;
                continue;
            }
            if body.data().is_empty() {
                self.waits_for_upstream = false;
                if !ready!(body.poll_data(client, cx)).map_err(SendFault::Client)? {
                    self.rest = Rest::Nothing;
                    continue;
                }
                self.waits_for_upstream = true;
            }
            self.is_spent = true;
            let count = ready!(upstream.poll_write(cx, body.data())).map_err(SendFault::Upstream)?;
            self.sent += count as u64;
            body.consume(count);
        }
    }

    /// Makes one frame of all available bytes of the body, and the last one at its end.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Body,
        client: Downstream<'_>,
    ) -> Poll<Result<(), Error>> {
        self.waits_for_upstream = false;
        let is_end = !ready!(body.poll_data(client, cx))?;
        self.waits_for_upstream = true;
        self.is_spent = true;
        self.bytes.clear();
        self.at = 0;
        if !is_end {
            // the payload first, after space for the head of its frame
            self.bytes.resize(FRAME_HEAD_BYTES, 0);
            let mut polled = Poll::Ready(Ok(true));
            let mut room = self.encoder.frame_bytes_max();
            while matches!(polled, Poll::Ready(Ok(true))) && room > 0 {
                let data = body.data();
                let count = data.len().min(room);
                self.bytes.extend_from_slice(&data[..count]);
                room -= count;
                body.consume(count);
                polled = body.poll_data(client, cx);
            }
            self.at = self.encoder.seal(&mut self.bytes);
            match polled {
                Poll::Ready(Ok(true)) | Poll::Pending => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
        self.encoder.finish(&mut self.bytes);
        self.rest = Rest::Nothing;
        Poll::Ready(Ok(()))
    }

    /// Starts moving the next bytes of the body inside the kernel, if the remaining body is long or the pipe
    /// has bytes.
    fn begin_move(&mut self, upstream: &Transport, body: &Body, client: Downstream<'_>) -> bool {
        let is_long = self.pipe.is_none() && body.movable() >= MOVE_BYTES_MIN && !self.is_copied;
        if is_long && client.plain().is_some() && upstream.plain().is_some() {
            self.pipe = Pipe::take().ok();
            self.is_copied = self.pipe.is_none();
        }
        self.pipe.is_some()
    }

    /// Ready with the number of bytes sent; 0 at the end of the body.
    fn poll_move(
        &mut self,
        cx: &mut Context<'_>,
        upstream: &Transport,
        body: &mut Body,
        client: Downstream<'_>,
    ) -> Poll<Result<u64, SendFault>> {
        let (Some(mut pipe), Some(_), Some(upstream)) = (self.pipe.take(), client.plain(), upstream.plain())
        else {
            return Poll::Ready(Ok(0));
        };
        if pipe.held() == 0 {
            if body.movable() == 0 {
                return Poll::Ready(Ok(0));
            }
            self.waits_for_upstream = false;
            // while the client pauses, others can use the pipe
            ready!(body.poll_move(client, cx, &mut pipe)).map_err(SendFault::Client)?;
            self.waits_for_upstream = true;
        }
        self.is_spent = true;
        let moved = match upstream.poll_budget(cx) {
            Poll::Ready(()) => upstream.or_wait_write(cx, upstream.try_write_with(0, |fd| pipe.drain(fd))),
            Poll::Pending => Poll::Pending,
        };
        self.pipe = Some(pipe);
        moved.map(|count| count.map(|count| count as u64).map_err(SendFault::Upstream))
    }

    /// Sends a part of the file in frames, the last of which is empty. Ready with the number of bytes sent.
    fn poll_framed_file(
        &mut self,
        cx: &mut Context<'_>,
        upstream: &Transport,
        body: &Body,
    ) -> Poll<Result<u64, SendFault>> {
        if self.frame.left == 0 && self.frame.head_left() == 0 {
            let left = self.file_left.end - self.file_left.start;
            let length = left.min(self.encoder.frame_bytes_max() as u64);
            let head = self.encoder.frame_head(length as usize).unwrap_or_default();
            self.frame = Frame { head, head_sent: 0, left: length, is_last: length == 0 };
        }
        let head = self.frame.head.get(usize::from(self.frame.head_sent)..).unwrap_or(b"");
        if !head.is_empty() {
            let count = ready!(upstream.poll_write(cx, head)).map_err(SendFault::Upstream)?;
            self.frame.head_sent += count as u8;
            return Poll::Ready(Ok(count as u64));
        }
        let count = ready!(self.poll_file(cx, upstream, body, self.frame.left))?;
        self.file_left.start += count;
        self.frame.left -= count;
        Poll::Ready(Ok(count))
    }

    fn poll_file(
        &self,
        cx: &mut Context<'_>,
        upstream: &Transport,
        body: &Body,
        max: u64,
    ) -> Poll<Result<u64, SendFault>> {
        let lost = || SendFault::Client(Error::ours("the file of the request body was truncated"));
        let Some(file) = body.file() else { return Poll::Ready(Err(lost())) };
        let length = (self.file_left.end - self.file_left.start).min(max);
        match ready!(upstream.poll_write_file(cx, file.as_fd(), self.file_left.start, length)) {
            Ok(0) => Poll::Ready(Err(lost())),
            Ok(count) => Poll::Ready(Ok(count as u64)),
            Err(error) => Poll::Ready(Err(SendFault::Upstream(error))),
        }
    }
}

/// True if the upstream gets the client's body.
fn takes_body(conf: &Conf) -> bool {
    conf.own_body().is_none() && conf.pass_request_body()
}

/// Reads as much of the body as the configuration requires before an upstream is chosen, into `kept` or into
/// a file. True if that was all of it.
async fn read_body(
    request: &mut Request,
    client: Downstream<'_>,
    goal: &Goal,
    takes_body: bool,
    kept: &mut Vec<u8>,
) -> Result<bool, Error> {
    let conf = request.passes();
    let variables = &request.config.variables;
    // without frames the length must be known
    let needs_length = takes_body
        && request.body.declared() == BodyLength::Chunked
        && !Encoder::of(request.location).has_frames();
    let needs_body = needs_length || !takes_body;
    // the length is told if it is known by then
    let tells_length =
        request.body.declared() == BodyLength::Chunked && Encoder::of(request.location).tells_length();
    let is_whole_wanted = needs_length
        || request.location.confs.request_body.in_file_only()
        || variables.is_used("request_body_file");
    let is_kept = variables.is_used("request_body");
    let is_complete = match conf.request_buffering() {
        Some(false) if !needs_body && !is_kept && !tells_length => request.body.is_done(),
        Some(false) if !needs_body => read_ahead(request, client, false, kept).await?,
        Some(true) => Box::pin(body_file::read_whole(request, client, kept)).await.map(|()| true)?,
        _ if is_whole_wanted => {
            Box::pin(body_file::read_whole(request, client, kept)).await.map(|()| true)?
        }
        _ if takes_body || is_kept => {
            read_ahead(request, client, true, kept).await?
                || (takes_body
                    && failover::needs_whole_body(request, &goal.group, is_non_idempotent(request.method))
                    && Box::pin(body_file::try_read_whole(request, client, kept)).await?)
        }
        _ => request.body.is_done(),
    };
    if is_complete && is_kept {
        request.body.keep(Some(kept.clone()));
    }
    Ok(is_complete)
}

/// Reads the body into `kept`, up to the size of its buffer; true if that was all of it. Unless it `waits`,
/// it reads only what has arrived already.
async fn read_ahead(
    request: &mut Request,
    client: Downstream<'_>,
    waits: bool,
    kept: &mut Vec<u8>,
) -> Result<bool, Error> {
    let kept_max = request.location.confs.http_core.client_body_buffer_size();
    let body = &mut request.body;
    loop {
        let polled = poll_fn(|cx| match body.poll_data(client, cx) {
            Poll::Pending if !waits => Poll::Ready(None),
            polled => polled.map(Some),
        });
        match polled.await.transpose()? {
            Some(true) => {}
            Some(false) => return Ok(true),
            None => return Ok(false),
        }
        let data = body.data();
        if kept.len() + data.len() > kept_max {
            return Ok(false);
        }
        kept.extend_from_slice(data);
        let count = data.len();
        body.consume(count);
    }
}

/// Writes the request target by nginx's rules: as the client sent it if `proxy_pass` has no URI part and
/// nothing has changed it; otherwise decoded, with the location's name replaced, and encoded again.
pub fn write_target(request: &Request, goal: &Goal, out: &mut Vec<u8>) {
    match goal.uri() {
        Some(uri) if goal.is_evaluated => out.extend_from_slice(uri.as_bytes()),
        None if request.route.rewriting.is_original() => out.extend_from_slice(request.target()),
        replacement => {
            // The result of `rewrite … break` is the whole URI.
            let replacement = replacement.filter(|_| !request.route.rewriting.left_location());
            let replaced_length = match (replacement, &request.location.kind) {
                (Some(_), Kind::Exact | Kind::Prefix | Kind::PrefixFinal) => {
                    request.location.name_length.min(request.uri.len())
                }
                _ => 0,
            };
            if let Some(uri) = replacement {
                out.extend_from_slice(uri.as_bytes());
            }
            escape_uri(&request.uri[replaced_length..], Escape::Uri, out);
            if !request.args.is_empty() {
                out.push(b'?');
                out.extend_from_slice(&request.args);
            }
        }
    }
}
