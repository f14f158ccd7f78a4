//! Images that are checked, measured, shrunk, cut or turned on their way (`image_filter`).
//!
//! A change to the whole response (`response/whole.rs`). Touches: this worker's memory budget; another thread, which decodes
//! one image of this worker at a time. Decoders read data from strangers: their input is bounded by
//! `image_filter_buffer`, their output by `image_filter_max_pixels`, and a panic of one is an image that cannot be
//! decoded.
//! Behaviour: nginx.org, ngx_http_image_filter_module. What is no image, a page of an error included, gets 415.

mod turn;

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::base::image::{self, Bounds, Change, Format, SIGNATURE_BYTES, Shape, Size, Turn};
use crate::base::number::parse_u64;
use crate::config::directive::{custom, flag, number, size};
use crate::config::{Arity, Context, Diagnostic, Inherit, Merge, Node, Setting, Span, settings};
use crate::http::config::compile::Cx;
use crate::http::downstream::Downstream;
use crate::http::modules::{BlockConf, Directive};
use crate::http::request::Request;
use crate::http::request::error::Error;
use crate::http::response::whole::{Made, Need, Whole, stopped};
use crate::http::response::{Body, Response, condition, error_page};
use crate::http::scope::{Script, Variable};
use crate::http::verdict::Reply;
use crate::log;
use crate::net::budget::{self, Part, Share};
use crate::proto::header::Id;
use crate::runtime::blocking::{self, Lane};
use crate::runtime::{self, Either, race};

settings! {
    #[derive(Debug)]
    pub struct Conf {
        filter: Filter,
        buffer_bytes: Setting<u64> = 1024 * 1024,
        pixels_max: Setting<u64> = 16_000_000,
        interlace: Setting<bool> = false,
        transparency: Setting<bool> = true,
        jpeg_quality: Inherit<Number>,
        webp_quality: Inherit<Number>,
        sharpen: Inherit<Number>,
    }
}

#[rustfmt::skip]
pub static DIRECTIVES: &[Directive<Conf>] = &[
    custom("image_filter", Context::LOCATION, Arity::between(1, 3), image_filter,
        "Changes images in JPEG, GIF, PNG and WebP: resize and crop make them smaller than a width and a height (- for any), rotate turns them \
         counter-clockwise by 90, 180 or 270 degrees, also together with resize or crop; values may have variables. size responds with type, width and \
         height in JSON, test passes images on unchanged. Responses that are no images get 415. Images that are small enough stay as they are; others \
         take up to 12 bytes of worker_memory_budget for each pixel, one image of a worker at a time, while others wait.").default("off"),
    size("image_filter_buffer", Context::ANY, |c: &mut Conf| &mut c.buffer_bytes,
        "Limits the length of images; longer ones get 415. Each is in memory, as a part of worker_memory_budget, until it is complete and has been changed."),
    number("image_filter_max_pixels", Context::ANY, (1, u32::MAX as u64), |c: &mut Conf| &mut c.pixels_max,
        "Limits the width of images that are changed, multiplied by their height. Larger ones get 415."),
    flag("image_filter_interlace", Context::ANY, |c: &mut Conf| &mut c.interlace,
        "Makes changed images interlaced, JPEGs progressive. A WebP has no such form."),
    custom("image_filter_jpeg_quality", Context::ANY, Arity::exactly(1), |c: &mut Conf, cx, node| quality(&mut c.jpeg_quality, cx, node),
        "Sets the quality of changed JPEGs, 1 to 100, which may have variables.").default("75"),
    custom("image_filter_sharpen", Context::ANY, Arity::exactly(1), |c: &mut Conf, cx, node| sharpen(&mut c.sharpen, cx, node),
        "Sharpens changed images by this percentage, which may exceed 100 and have variables, unless they have a palette.").default("0"),
    flag("image_filter_transparency", Context::ANY, |c: &mut Conf| &mut c.transparency,
        "Keeps the transparent colours of GIFs, and of PNGs with a palette, when they are changed. Other transparency of a PNG is always kept."),
    custom("image_filter_webp_quality", Context::ANY, Arity::exactly(1), |c: &mut Conf, cx, node| quality(&mut c.webp_quality, cx, node),
        "Is checked as in nginx, but has no effect: changed WebP images are written without loss.").default("80"),
];

pub static VARIABLES: &[Variable] = &[];

impl BlockConf for Conf {
    fn acts(&self) -> bool {
        !matches!(self.filter.kind, None | Some(Kind::Off))
    }
}

/// The ways to treat an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Off,
    Test,
    Size,
    Resize,
    Crop,
    Rotate,
}

/// A number in the configuration, or variables that yield one for each request.
#[derive(Clone, Debug)]
enum Number {
    Fixed(u32),
    Script(Script),
}

/// `-`: no limit.
const ANY: u32 = u32::MAX;

impl Number {
    fn compile(cx: &mut Cx, node: &Node, index: usize) -> Result<Self, Diagnostic> {
        let script = Script::compile(&node.args[index], cx)?;
        Ok(match script.as_text() {
            Some(text) => Self::Fixed(value(text)),
            None => Self::Script(script),
        })
    }

    fn evaluate(&self, request: &mut Request) -> u32 {
        match self {
            Self::Fixed(number) => *number,
            Self::Script(script) => value(&script.to_vec(request)),
        }
    }
}

/// A number, or `-`; 0 for anything else.
fn value(text: &[u8]) -> u32 {
    match text {
        b"-" => ANY,
        digits => parse_u64(digits).map_or(0, |number| u32::try_from(number).unwrap_or(ANY)),
    }
}

/// The lines of one location together: `rotate` may accompany `resize` or `crop`.
#[derive(Clone, Debug, Default)]
struct Filter {
    /// `None`: there is no line.
    kind: Option<Kind>,
    width: Option<Number>,
    height: Option<Number>,
    angle: Option<Number>,
}

/// All of them are inherited, or none.
impl Merge for Filter {
    fn merge(&mut self, outer: &Self) {
        if self.kind.is_none() {
            self.clone_from(outer);
        }
    }
}

fn image_filter(conf: &mut Conf, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let filter = &mut conf.filter;
    let (kind, count) = match node.arg(0) {
        "off" => (Kind::Off, 1),
        "test" => (Kind::Test, 1),
        "size" => (Kind::Size, 1),
        "rotate" => (Kind::Rotate, 2),
        "resize" => (Kind::Resize, 3),
        "crop" => (Kind::Crop, 3),
        _ => return Err(invalid(node, 0)),
    };
    if node.args.len() != count {
        return Err(invalid(node, 0));
    }
    if kind == Kind::Rotate {
        let angle = Number::compile(cx, node, 1)?;
        if matches!(angle, Number::Fixed(angle) if turn_of(angle).is_none()) {
            return Err(invalid(node, 1));
        }
        filter.angle = Some(angle);
        if matches!(filter.kind, Some(Kind::Resize | Kind::Crop)) {
            return Ok(());
        }
    }
    if let Kind::Resize | Kind::Crop = kind {
        for (index, side) in [(1, &mut filter.width), (2, &mut filter.height)] {
            let number = Number::compile(cx, node, index)?;
            if matches!(number, Number::Fixed(0)) {
                return Err(invalid(node, index));
            }
            *side = Some(number);
        }
    }
    filter.kind = Some(kind);
    Ok(())
}

fn invalid(node: &Node, index: usize) -> Diagnostic {
    Diagnostic::error(node.arg_span(index), format!("invalid parameter \"{}\"", node.arg(index))).help(
        "write off, test, size, rotate 90, 180 or 270, resize or crop with a width and a height in pixels",
    )
}

fn quality(slot: &mut Inherit<Number>, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let number = Number::compile(cx, node, 0)?;
    if matches!(number, Number::Fixed(0 | ANY)) {
        return Err(Diagnostic::error(node.arg_span(0), format!("invalid value \"{}\"", node.arg(0)))
            .help("write a number from 1 to 100"));
    }
    slot.put(number, node)
}

fn sharpen(slot: &mut Inherit<Number>, cx: &mut Cx, node: &Node) -> Result<(), Diagnostic> {
    let number = Number::compile(cx, node, 0)?;
    if matches!(number, Number::Fixed(0 | ANY) if node.arg(0) != "0") {
        return Err(Diagnostic::error(node.arg_span(0), format!("invalid value \"{}\"", node.arg(0)))
            .help("write a percentage, without a sign: 100"));
    }
    slot.put(number, node)
}

fn turn_of(angle: u32) -> Option<Turn> {
    match angle {
        90 => Some(Turn::Quarter),
        180 => Some(Turn::Half),
        270 => Some(Turn::ThreeQuarters),
        _ => None,
    }
}

/// Holds a response back until its image is known.
pub fn head(request: &mut Request) {
    let conf: &'static Conf = &request.location.confs.image_filter;
    let Some(kind) = conf.filter.kind else { return };
    let is_plain = std::mem::take(&mut request.error_page.is_plain);
    if is_plain || request.response.is_current || request.response.is_bodiless() {
        if request.response.is_current {
            let mut response = std::mem::take(&mut request.response);
            condition::keep_weak(request, &mut response);
            request.response = response;
        }
        return crate::http::modules::run_later_heads(request);
    }
    let response = &request.response;
    let is_stream = response
        .headers
        .get(Id::ContentType)
        .is_some_and(|kind| kind.get(..STREAM.len()).is_some_and(|start| start.eq_ignore_ascii_case(STREAM)));
    let stop = match response.content_length {
        _ if is_stream => Some(Stop::Stream),
        Some(length) if length > conf.buffer_bytes.get() => Some(Stop::TooLong(Some(length))),
        _ => None,
    };
    let image = Image {
        conf,
        kind,
        format: None,
        is_other: false,
        length: 0,
        bytes: Vec::new(),
        share: Share::default(),
        stop,
    };
    request.filters.get_or_insert_default().set_whole(image);
}

/// A response that has no end.
const STREAM: &[u8] = b"multipart/x-mixed-replace";

/// Why a response is replaced.
#[derive(Debug)]
enum Stop {
    Stream,
    NoImage,
    /// With the length, if the head has it.
    TooLong(Option<u64>),
    TooLarge(Size),
    /// The image does not fit into the memory budget.
    Memory,
    /// A variable yields no number.
    Value(&'static str),
    /// The decoder's words.
    Damaged(String),
}

/// The image of one response.
#[derive(Debug)]
struct Image {
    conf: &'static Conf,
    kind: Kind,
    /// Known as soon as enough bytes have come.
    format: Option<Format>,
    /// It is no image, which `size` tells when it is complete.
    is_other: bool,
    /// How many bytes have come.
    length: u64,
    bytes: Vec<u8>,
    /// The memory of `bytes`, and of the decoder.
    share: Share,
    stop: Option<Stop>,
}

impl Whole for Image {
    fn push(&mut self, data: &[u8]) -> Need {
        match self.take(data) {
            _ if self.stop.is_some() => Need::Stop,
            Ok(need) => need,
            Err(stop) => {
                self.stop = Some(stop);
                Need::Stop
            }
        }
    }

    fn begin(&mut self, request: &mut Request) -> Vec<u8> {
        if let Some(format) = self.format {
            let length = request.response.content_length;
            self.set_head(request, format);
            request.response.content_length = length;
        }
        std::mem::take(&mut self.bytes)
    }

    fn finish<'a>(&'a mut self, request: &'a mut Request, client: Downstream<'a>) -> Made<'a> {
        Box::pin(async move {
            if self.stop.is_none() {
                match self.made(request, client).await? {
                    Ok(body) => return Ok(body),
                    Err(stop) => self.stop = Some(stop),
                }
            }
            Err(stopped())
        })
    }

    fn instead(&mut self, request: &mut Request) -> Option<Reply> {
        let stop = self.stop.take()?;
        if matches!(stop, Stop::NoImage) && self.kind == Kind::Size {
            request.error_page.is_plain = true;
            request.error_page.status = None;
            let response = Response::with_type(200, b"application/json");
            return Some(Reply::Response(Box::new(response), Body::Bytes(json(None).into())));
        }
        let status = self.tell(request, stop);
        let reply = match request.route.is_spent() {
            true => error_page::last_resort(request, status), // another page would fail like this one
            false => error_page::reply(request, status),
        };
        request.error_page.is_plain = matches!(reply, Reply::Response(..));
        Some(reply)
    }
}

impl Image {
    fn take(&mut self, data: &[u8]) -> Result<Need, Stop> {
        self.length += data.len() as u64;
        self.recognize(data);
        let is_too_long = self.length > self.conf.buffer_bytes.get();
        match self.kind {
            Kind::Size if self.is_other && !is_too_long => return Ok(Need::More),
            _ if self.is_other => return Err(Stop::NoImage),
            Kind::Test => {}
            _ if is_too_long => return Err(Stop::TooLong(None)),
            _ => {}
        }
        if !self.share.grow(data.len(), Part::Half) {
            return Err(Stop::Memory);
        }
        self.bytes.extend_from_slice(data);
        let is_passed = self.kind == Kind::Test && self.format.is_some();
        Ok(if is_passed { Need::Nothing } else { Need::More })
    }

    /// Looks at the first bytes, once there are enough.
    fn recognize(&mut self, data: &[u8]) {
        if self.format.is_some() || self.is_other {
            return;
        }
        let start: Vec<u8> = self.bytes.iter().chain(data).copied().take(SIGNATURE_BYTES).collect();
        if start.len() == SIGNATURE_BYTES {
            self.format = Format::of(&start);
            self.is_other = self.format.is_none();
        }
    }

    /// Makes the result of a complete response, and its head.
    async fn made(
        &mut self,
        request: &mut Request,
        client: Downstream<'_>,
    ) -> Result<Result<Vec<u8>, Stop>, Error> {
        let size = self.format.and_then(|format| Size::of(format, &self.bytes));
        if self.kind == Kind::Size {
            let body = json(self.format.zip(size));
            request.response = Response::with_type(200, b"application/json");
            request.response.content_length = Some(body.len() as u64);
            return Ok(Ok(body));
        }
        let Some(format) = self.format else { return Ok(Err(Stop::NoImage)) };
        let change = match self.change(request) {
            Ok(change) => change,
            Err(stop) => return Ok(Err(stop)),
        };
        let Some(size) = size else { return Ok(Err(Stop::Damaged("its head has no size".into()))) };
        let is_left = change.is_for_larger_than(&size);
        if !is_left {
            if size.pixels() > change.pixels_max {
                return Ok(Err(Stop::TooLarge(size)));
            }
            if let Err(stop) = self.decode(format, size, change, client).await? {
                return Ok(Err(stop));
            }
            request.response.body_changes();
        }
        self.set_head(request, format);
        request.response.content_length = Some(self.bytes.len() as u64);
        request.share.add(self.bytes.len());
        Ok(Ok(std::mem::take(&mut self.bytes)))
    }

    /// The values for this request.
    fn change(&self, request: &mut Request) -> Result<Change, Stop> {
        let (conf, filter) = (self.conf, &self.conf.filter);
        let mut number = |number: Option<&'static Number>, default| {
            number.map_or(default, |number| number.evaluate(request))
        };
        let angle = number(filter.angle.as_ref(), 0);
        let turn = turn_of(angle).unwrap_or(Turn::None);
        let shape = if self.kind == Kind::Rotate {
            if turn == Turn::None {
                return Err(Stop::Value("image_filter rotate"));
            }
            Shape::Whole
        } else {
            let bounds =
                Bounds { width: number(filter.width.as_ref(), 0), height: number(filter.height.as_ref(), 0) };
            if bounds.width == 0 || bounds.height == 0 {
                return Err(Stop::Value("image_filter"));
            }
            if self.kind == Kind::Crop { Shape::Crop(bounds) } else { Shape::Resize(bounds) }
        };
        let quality = number(conf.jpeg_quality.as_ref(), JPEG_QUALITY);
        let sharpen = number(conf.sharpen.as_ref(), 0);
        Ok(Change {
            shape,
            turn,
            sharpen: if sharpen == ANY { 0 } else { sharpen },
            keeps_transparency: conf.transparency.get(),
            interlaced: conf.interlace.get(),
            quality: if quality == ANY { 0 } else { quality.min(100) as u8 },
            pixels_max: conf.pixels_max.get(),
        })
    }

    /// Decodes and changes the image on another thread, when it is its turn.
    async fn decode(
        &mut self,
        format: Format,
        size: Size,
        change: Change,
        client: Downstream<'_>,
    ) -> Result<Result<(), Stop>, Error> {
        if format == Format::Jpeg && change.quality == 0 {
            return Ok(Err(Stop::Value("image_filter_jpeg_quality")));
        }
        let turn = match race(turn::turn(), client.gone()).await {
            Either::First(turn) => turn,
            Either::Second(()) => return Err(Error::left()),
        };
        let needed = usize::try_from(size.pixels() * format.bytes_per_pixel()).unwrap_or(usize::MAX);
        let Some(share) = budget::draw(needed, Part::Whole) else { return Ok(Err(Stop::Memory)) };
        let bytes = std::mem::take(&mut self.bytes);
        let work = move || {
            catch_unwind(AssertUnwindSafe(|| image::change(format, bytes, &change)))
                .unwrap_or_else(|_| Err("the decoder panicked".into()))
        };
        // Once it is being decoded it is awaited, even if the client goes: the memory is in use until then.
        let made = blocking::run(Lane::Images, work).await;
        drop((share, turn));
        self.share.shrink_to(0);
        match made {
            Ok(bytes) => self.bytes = bytes,
            Err(why) => return Ok(Err(Stop::Damaged(why))),
        }
        Ok(Ok(()))
    }

    /// The head of an image, whose length the caller knows.
    fn set_head(&self, request: &mut Request, format: Format) {
        let response = &mut request.response;
        response.allows_ranges = false;
        response.headers.remove(Id::AcceptRanges);
        response.headers.remove_name(b"refresh");
        response.headers.remove(Id::ContentType);
        response.headers.push_id(Id::ContentType, format!("image/{}", format.name()).as_bytes());
    }

    /// Logs why the response is replaced, and returns the status.
    #[cold]
    fn tell(&self, request: &Request, stop: Stop) -> u16 {
        let (logger, conf) = (request.error_log(), self.conf);
        let place = |span: Option<Span>| match span {
            Some(span) => format!(" at {}", request.config.places.name(span)),
            None => " by default".to_owned(),
        };
        match stop {
            Stop::NoImage => log::info!(logger, request, "image filter: the response is no image"),
            Stop::Stream => log::error!(logger, request, "image filter: multipart/x-mixed-replace response"),
            Stop::TooLong(length) => {
                let length = length.map(|length| format!(": {length}")).unwrap_or_default();
                let (limit, place) = (conf.buffer_bytes.get(), place(conf.buffer_bytes.span()));
                log::error!(
                    logger,
                    request,
                    "image filter: too big response{length} (\"image_filter_buffer\" is {limit}{place})"
                );
            }
            Stop::TooLarge(Size { width, height, .. }) => {
                let (limit, place) = (conf.pixels_max.get(), place(conf.pixels_max.span()));
                log::error!(
                    logger,
                    request,
                    "image filter: too large image: {width} x {height} (\"image_filter_max_pixels\" is {limit}{place})"
                );
            }
            Stop::Value(name) => {
                log::info!(
                    logger,
                    request,
                    "image filter: the value of \"{name}\" is no number that it can use"
                );
            }
            Stop::Damaged(why) => {
                let why = log::Text(why.as_bytes());
                log::error!(logger, request, "image filter: the image cannot be changed: {why}");
            }
            Stop::Memory => {
                if let Some(why) = budget::degrade(runtime::now_ms()) {
                    log::warn!(logger, request, "images are not changed: {why}");
                }
                return 503;
            }
        }
        415
    }
}

/// nginx's default, which is libjpeg's.
const JPEG_QUALITY: u32 = 75;

fn json(image: Option<(Format, Size)>) -> Vec<u8> {
    let Some((format, Size { width, height, .. })) = image else { return b"{}\r\n".to_vec() };
    let name = format.name();
    let text =
        format!("{{ \"img\" : {{ \"width\": {width}, \"height\": {height}, \"type\": \"{name}\" }} }}\r\n");
    text.into_bytes()
}

#[cfg(test)]
mod tests;
